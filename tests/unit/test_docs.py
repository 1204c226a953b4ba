"""The documentation names everything that a user can set, run or choose."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from engines.catalog import engine_names
from service.cli import app
from service.settings import Settings

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_every_setting_is_documented_with_its_default() -> None:
    text = page("settings.md")
    for name, field in Settings.model_fields.items():
        rows = [line for line in text.splitlines() if line.startswith(f"| `MASKSTREAM_{name.upper()}` |")]
        assert len(rows) == 1, f"docs/settings.md must have one row for MASKSTREAM_{name.upper()}"
        if field.default not in (None, (), ""):
            assert f"`{field.default}`" in rows[0], f"docs/settings.md gives another default for {name}"


def test_every_command_is_documented() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    missing = [name for name in commands if f"`maskstream {name}`" not in page("cli.md")]
    assert not missing, f"docs/cli.md lacks {missing}"


@pytest.mark.parametrize("name", engine_names())
def test_every_engine_is_documented(name: str) -> None:
    assert f"`{name}`" in page("engines.md")


def test_every_route_is_documented() -> None:
    from service.api.app import create_app

    document = create_app(Settings()).openapi()
    text = page("api.md")
    for path, methods in document["paths"].items():
        for method in methods:
            assert f"| `{method.upper()} {path}` |" in text, f"docs/api.md lacks {method.upper()} {path}"
    assert "`WS /sessions/{session_id}/stream`" in text


def test_every_metric_is_documented() -> None:
    from prometheus_client import REGISTRY

    import service.metrics  # noqa: F401 - registers them

    text = page("operations.md")
    for metric in REGISTRY.collect():
        if metric.name.startswith("maskstream_"):
            name = metric.name + ("_total" if metric.type == "counter" else "")
            assert f"| `{name}` |" in text, f"docs/operations.md lacks {name}"


def test_links_between_pages_lead_somewhere() -> None:
    import re

    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"
