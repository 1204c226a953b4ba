"""The weights that are shipped: small, licensed, and clear about what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from engines.checkpoint import STARTER_DIR

FILES = sorted(STARTER_DIR.glob("*.safetensors"))


def test_all_starters_together_are_small_and_come_with_their_licence() -> None:
    assert FILES
    assert sum(path.stat().st_size for path in FILES) < 40 * 2**20
    assert "CC BY-NC" in (STARTER_DIR / "LICENSE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_starter_says_what_it_is(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        facts = file.metadata()
        dtypes = {file.get_tensor(name).dtype for name in file.keys()}
    assert facts["engine"] == path.stem
    assert facts["schema"] == "1" and facts["recipe"] and "CC BY-NC" in facts["licence"]
    assert int(facts["net_short_side"]) > 0
    assert torch.float16 in dtypes and torch.float32 not in dtypes
