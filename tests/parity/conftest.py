"""Where reference numbers are found: cut ones beside the tests, the full ones where they are mounted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

COMMITTED = Path(__file__).parent / "fixtures"


def full_fixture_dir() -> Path | None:
    """The folder of full fixtures (MASKSTREAM_PARITY_DIR, else ../shared/parity), or None."""
    given = os.environ.get("MASKSTREAM_PARITY_DIR")
    beside = Path(__file__).parents[3] / "shared" / "parity"
    for folder in (Path(given) if given else None, beside):
        if folder is not None and folder.is_dir():
            return folder
    return None


@pytest.fixture(scope="session")
def fixture_dir() -> Callable[[str], Path]:
    """`fixture_dir("aot/deaott")`: the full fixture where it is mounted, else the one cut for the repository."""

    def find(name: str) -> Path:
        full = full_fixture_dir()
        if full is not None and (full / name).is_dir():
            return full / name
        return COMMITTED / name

    return find
