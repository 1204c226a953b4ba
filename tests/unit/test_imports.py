"""Import boundaries, checked where they count: in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

WEB = ("fastapi", "starlette", "uvicorn", "pydantic", "redis", "service")


def modules_after(statement: str) -> set[str]:
    """Top-level names in sys.modules after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(' '.join({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_engines_import_no_web_package() -> None:
    loaded = modules_after("import engines.registry, engines.protocols, engines.banks.protocol")
    assert not loaded & set(WEB)


@pytest.mark.parametrize("statement", ["import engines.catalog", "import maskstream"])
def test_catalog_and_public_names_need_no_torch(statement: str) -> None:
    assert "torch" not in modules_after(statement)
