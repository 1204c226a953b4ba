"""255 in a training mask is "unknown": it survives the clip maker, is in no object and changes no loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engines.aot.training import assign_slots
from engines.training.clips import ClipBatch, ClipConfig, ClipGenerator
from engines.training.learners import StartingPoint, build_learner, recipe_for
from engines.training.losses import balanced_cross_entropy, hard_cross_entropy, soft_jaccard
from engines.training.pool import RealClip, TrainingPool, load_pool
from engines.types import IGNORE_LABEL
from tests.unit.training import made_up_data

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hard": lambda logits, target: hard_cross_entropy(logits, target, 1.0),
    "balanced": balanced_cross_entropy,
    "jaccard": lambda logits, target: soft_jaccard(logits, target, torch.ones(1, 3, dtype=torch.bool)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_pulls_at_an_ignored_pixel(name: str) -> None:
    logits = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.arange(36).view(1, 6, 6) % 3
    target[:, :, 4:] = IGNORE_LABEL
    LOSSES[name](logits, target).backward()
    assert logits.grad is not None
    assert not bool(logits.grad[..., 4:].any())
    assert bool(logits.grad[..., :4].any(dim=1).all())


def with_unknown_half(clip: RealClip) -> RealClip:
    labels = clip.labels.clone()
    labels[:, labels.shape[1] // 2 :] = IGNORE_LABEL
    return replace(clip, labels=labels)


def batch_with_unknown() -> ClipBatch:
    pool = TrainingPool((), (with_unknown_half(made_up_data.clip(4)),))
    return ClipGenerator(pool, ClipConfig(crop_px=64, frames=3, net_short_side=96, real=1.0)).batch(0, 2)


def test_clips_carry_it_and_no_object_is_made_of_it() -> None:
    labels = batch_with_unknown().labels
    assert set(labels[0].unique().tolist()) == {0, 1, IGNORE_LABEL}
    still = made_up_data.still(1)
    mask = still.labels.clone()
    mask[:20] = IGNORE_LABEL
    for in_place in (0.0, 1.0):
        config = ClipConfig(crop_px=64, frames=3, net_short_side=96, real=0.0, in_place=in_place, composite=0.0)
        made = ClipGenerator(TrainingPool((replace(still, labels=mask),), ()), config).batch(0, 6).labels
        assert bool((made == IGNORE_LABEL).any())
        assert bool((made[:, 0] == 1).flatten(1).any(dim=1).all())


@pytest.mark.parametrize("engine", ["deaot-t", "stm-t", "afb-urr-t", "feelvos-t"])
def test_engines_learn_from_such_clips(engine: str) -> None:
    learner = build_learner(recipe_for(engine), StartingPoint(torch.device("cpu")))
    loss, _ = learner.loss(batch_with_unknown(), 0, torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(loss))
    loss.backward()


def test_deaot_puts_it_in_no_identity_slot() -> None:
    labels = torch.tensor([[[[0, 1], [2, 255]]]], dtype=torch.uint8)
    targets = assign_slots(labels, torch.Generator().manual_seed(0))
    assert targets.slots.shape == (1, 3)
    assert targets.one_hot(targets.labels[:, 0]).sum(dim=1).tolist() == [[[1, 1], [1, 0]]]
    assert targets.slots_of(targets.labels[:, 0])[0, 1, 1] == IGNORE_LABEL


def test_a_clip_decides_as_a_whole_whether_255_is_its_object(tmp_path: Path) -> None:
    """A frame of {0, 255} in a clip with other ids has lost its objects; alone it would be one."""
    for name, values in (("binary", (0, 255)), ("numbered", (0, 1, 255))):
        made_up_data.write_clip(tmp_path / name, 9)
        for path in sorted((tmp_path / name / "Annotations").iterdir()):
            grey = np.array(Image.open(path))
            grey[grey > 0] = values[1]
            grey[:8] = 255
            Image.fromarray(grey).save(path)
        Image.fromarray(np.where(grey == 255, grey, 0)).save(path)
    binary, numbered = load_pool(tmp_path).clips
    assert binary.labels.unique().tolist() == [0, 1]
    assert numbered.labels.unique().tolist() == [0, 1, 255]
    assert numbered.labels[-1].unique().tolist() == [0, 255]
