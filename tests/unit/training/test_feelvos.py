"""FEELVOS in training: the loss falls on a fixed batch, what the first frame does not show is left out, recipes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from engines.feelvos.config import FEELVOS_T
from engines.feelvos.model import FeelvosNet
from engines.feelvos.recipes import recipe_for
from engines.feelvos.training import FeelvosLearner, FeelvosLossConfig, clip_loss, loss_schedule
from engines.training.clips import ClipBatch
from engines.training.learners import StartingPoint, build_learner
from tests.unit.training import made_up_data

LIGHT = replace(FEELVOS_T, window=3)


def batch(*, newcomer: bool = False) -> ClipBatch:
    """Two clips of three frames of 65 px: a bright disc that moves; `newcomer` adds a second one from frame 1 on."""
    rows, columns = 65, 65
    frames, labels = [], []
    for clip in range(2):
        backdrop = made_up_data.texture(clip, 72, 72)[:rows, :columns] // 3
        for t in range(3):
            label = made_up_data.disc(rows, columns, 30, 20 + 6 * t + 5 * clip, 12)
            if newcomer and t > 0:
                label = np.maximum(label, made_up_data.disc(rows, columns, 54, 54, 8, 2))
            frames.append(backdrop + 120 * (label[..., None] > 0).astype(np.uint8))
            labels.append(label)
    shown = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
    seen = torch.from_numpy(np.stack(labels))
    return ClipBatch(shown.view(2, 3, 3, rows, columns), seen.view(2, 3, rows, columns), torch.empty(0))


def test_the_loss_falls_on_a_fixed_batch() -> None:
    torch.manual_seed(0)
    net = FeelvosNet(LIGHT, live_norm=True).train()
    learner = FeelvosLearner(net, recipe_for("feelvos-t"))
    assert isinstance(build_learner(recipe_for("feelvos-t"), StartingPoint(torch.device("cpu"))), FeelvosLearner)
    optimiser = torch.optim.AdamW(net.parameters(), lr=4e-3)
    losses = []
    for _ in range(11):
        loss, parts = learner.loss(batch(), 0, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        assert set(parts) == {"cross_entropy", "jaccard", "nearest"}
    assert losses[-1] < 0.6 * losses[0]
    moved = [name for name, p in net.named_parameters() if p.grad is not None and float(p.grad.abs().sum()) > 0]
    for part in ("trunk.", "aspp.", "decoder.", "embedding.", "head."):
        assert any(name.startswith(part) for name in moved)
    assert learner.is_encoder("trunk.mobilenet.features.0.0.weight") and not learner.is_encoder("aspp.projection")


def test_what_the_first_frame_does_not_show_is_left_out() -> None:
    """A second object that appears later changes the loss only through its pixels, which count as unknown."""
    net = FeelvosNet(LIGHT).eval()
    for own_masks in (0.0, 1.0):
        config = FeelvosLossConfig(hard_share=1.0, own_masks=own_masks, jaccard=1.0, every_frame=True)
        with torch.no_grad():
            loss, parts = clip_loss(net, batch(newcomer=True), config, torch.Generator().manual_seed(0))
        assert torch.isfinite(loss)
        assert 0.0 <= parts["jaccard"] <= 1.0
        assert parts["cross_entropy"] < 5.0


def test_the_same_generator_gives_the_same_loss() -> None:
    net = FeelvosNet(LIGHT).eval()
    config = loss_schedule(0.6, published=False)
    with torch.no_grad():
        one, two = (clip_loss(net, batch(), config, torch.Generator().manual_seed(3))[0] for _ in range(2))
    assert torch.equal(one, two)


def test_the_published_recipe_is_the_papers() -> None:
    recipe = recipe_for("feelvos", "published")
    phase = recipe.phases[0]
    assert (recipe.optimiser, recipe.rate_at(0), recipe.steps) == ("sgd", 7e-4, 200_000)
    assert (phase.batch, phase.clips.frames, phase.clips.crop_px) == (3, 3, 465)
    early, late = loss_schedule(0.0, published=True), loss_schedule(0.5, published=True)
    assert (early.hard_share, round(late.hard_share, 6)) == (1.0, 0.15)
    assert not late.every_frame and late.jaccard == 0.0 and late.own_masks == 0.0


def test_autocast_leaves_the_matching_exact() -> None:
    net = FeelvosNet(LIGHT).eval()
    config = FeelvosLossConfig(hard_share=1.0, every_frame=True)
    with torch.no_grad():
        exact = clip_loss(net, batch(), config, torch.Generator().manual_seed(0))[0]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = clip_loss(net, batch(), config, torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close(rounded, exact, atol=0.02, rtol=0)
