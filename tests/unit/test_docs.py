"""The documentation names everything that a user can set, run or choose."""

from __future__ import annotations

import re
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


def sources() -> str:
    """All messages of the code, with string literals that stand one after the other joined."""
    files = [path for folder in ("service", "engines") for path in (ROOT / folder).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def codes() -> set[str]:
    """What can stand in the `type` of an answer or the `code` of a failed session."""
    import service.api.problems  # noqa: F401 - it has an error class of its own
    from service.errors import MaskstreamError

    def below(kind: type[MaskstreamError]) -> set[str]:
        return {kind.slug}.union(*(below(each) for each in kind.__subclasses__()))

    return below(MaskstreamError) | set(re.findall(r'\bcode="([a-z-]+)"', sources()))


def test_every_error_code_is_in_the_troubleshooting_with_its_numbers() -> None:
    from service.errors import MaskstreamError, SessionFailure

    text = page("troubleshooting.md")
    found = codes()
    assert len(found) > 20
    missing = [code for code in sorted(found) if f"| `{code}` |" not in text]
    assert not missing, f"docs/troubleshooting.md lacks {missing}"
    pending = list(MaskstreamError.__subclasses__())
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.__module__ == "service.errors" and not issubclass(kind, SessionFailure):
            assert f"| `{kind.slug}` | {kind.status} |" in text, f"{kind.slug} is a {kind.status}"


def test_messages_in_the_troubleshooting_are_those_of_the_code() -> None:
    code = sources()
    rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \|$", page("troubleshooting.md"), re.MULTILINE)
    messages = [row for row in rows if " " in row]
    assert len(messages) > 15
    stale = [message for message in messages if message not in code]
    assert not stale, f"the code says none of {stale}"


@pytest.mark.parametrize("name", ["Client", "AsyncClient"])
def test_every_method_and_error_of_the_client_is_documented(name: str) -> None:
    import service.client

    text = page("python.md")
    methods = [each for each in vars(getattr(service.client, name)) if not each.startswith("_")]
    assert len(methods) > 8
    assert not [each for each in methods if f"`{each}(" not in text]
    errors = [each for each in service.client.__all__ if isinstance(getattr(service.client, each), type)]
    raised = [each for each in errors if issubclass(getattr(service.client, each), service.client.ClientError)]
    assert not [each for each in raised if f"`{each}`" not in text]


def test_every_page_is_in_the_index() -> None:
    index = page("README.md")
    for path in (ROOT / "docs").rglob("*.md"):
        name = path.relative_to(ROOT / "docs").as_posix()
        assert name == "README.md" or f"({name})" in index, f"docs/README.md lacks {name}"


def test_links_between_pages_lead_somewhere() -> None:
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}, which is not there"
