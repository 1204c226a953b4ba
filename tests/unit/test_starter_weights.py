"""The weights that are shipped: small, licensed, loadable, and better on the demo clip than not looking at it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from engines.checkpoint import STARTER_DIR
from engines.registry import create
from engines.training.metrics import region_similarity
from engines.types import MemoryPolicy, Size
from service import demo_clip

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


@pytest.mark.parametrize(
    ("name", "slot_order"),
    [
        ("deaot-t", (1, 2, 3)),
        ("deaot-t", (3, 1, 2)),
        ("stm-t", (1, 2, 3)),
        ("afb-urr-t", (1, 2, 3)),
        ("feelvos-t", (1, 2, 3)),
    ],
)
def test_starters_follow_the_demo_fish(name: str, slot_order: tuple[int, ...]) -> None:
    """Three objects in any identity slots, 8 frames: far above the first mask kept in place."""
    renamed = np.array([0, *slot_order], np.uint8)
    frames = [(frame.image, renamed[frame.label_map]) for frame in demo_clip.render(16)][::2]
    engine = create(name)
    first, labels = frames[0]
    track = engine.open(Size.of(labels), MemoryPolicy())
    engine.memorize(track, first, labels, object_ids=slot_order)
    followed, copied = [], []
    for image, truth in frames[1:]:
        predicted = engine.propagate([track], [image])[0].label_map
        followed += [region_similarity(predicted == i, truth == i) for i in slot_order]
        copied += [region_similarity(labels == i, truth == i) for i in slot_order]
    assert np.mean(followed) > np.mean(copied) + 0.2, (np.mean(followed), np.mean(copied))
