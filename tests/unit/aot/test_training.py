"""DeAOT learns: identity slots, the losses, a fixed batch that gets easier, and what trains is what is served."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import nn

from engines.aot.config import VARIANTS
from engines.aot.model import AotNet
from engines.aot.recipes import recipe_for
from engines.aot.training import AotLearner, AotLossConfig, assign_slots, clip_loss, loss_schedule
from engines.training.clips import ClipBatch, ClipConfig, ClipGenerator
from engines.training.depthwise import quicken_depthwise
from engines.types import IGNORE_LABEL
from tests.unit.training import made_up_data


def test_slots_are_distinct_and_background_stays_first() -> None:
    labels = torch.randint(0, 4, (6, 2, 9, 9)).to(torch.uint8)
    labels[:, 0, 0, :4] = torch.tensor([0, 1, 2, 3], dtype=torch.uint8)
    targets = assign_slots(labels, torch.Generator().manual_seed(0))
    assert bool((targets.slots[:, 0] == 0).all())
    assert all(len(set(row)) == 4 for row in targets.slots.tolist())
    one_hot = targets.one_hot(targets.labels[:, 0])
    assert one_hot.shape == (6, 11, 9, 9)
    torch.testing.assert_close(one_hot.sum(dim=1), torch.ones(6, 9, 9))
    assert torch.equal(targets.in_use(one_hot).argmax(dim=1), targets.labels[:, 0])


@pytest.mark.parametrize("side", [33, 32])
def test_shares_of_a_token(side: int) -> None:
    labels = torch.zeros(1, 1, side, side, dtype=torch.uint8)
    labels[..., 16:] = 1
    labels[..., :8, 16:] = IGNORE_LABEL
    shares = assign_slots(labels, torch.Generator().manual_seed(0)).shares(0)
    grid = 3 if side == 33 else 2  # tokens on pixels 0, 16, 32, or in the middle of 0..15, 16..31
    shares = shares.unflatten(1, (grid, grid))
    assert shares.shape[-1] == 2
    assert shares[0, -1, 0].tolist() == [1.0, 0.0] and shares[0, -1, -1].tolist() == [0.0, 1.0]
    assert float(shares[0, 0, -1].sum()) == pytest.approx(1 / 9 if side == 33 else 0.5)


@pytest.mark.parametrize("name", ["deaot-t", "aot-t"])
def test_loss_falls_on_a_fixed_batch(name: str) -> None:
    torch.manual_seed(0)
    net = quicken_depthwise(AotNet(replace(VARIANTS[name], live_norm=True)))
    batch = ClipGenerator(made_up_data.pool(), ClipConfig(crop_px=49, frames=3, net_short_side=96)).batch(0, 2)
    config = AotLossConfig(hard_share=1.0, own_masks=0.5, reference=0.5, matching=0.3, transport=0.5, identity=1.0)
    steps = _descend(net, net.parameters(), batch, config)
    assert set(steps[0]) == {"loss", "mask", "reference", "matching", "transport", "target", "identity"}
    assert min(step["loss"] for step in steps[-3:]) < 0.85 * steps[0]["loss"]


def test_the_target_models_loss_falls_through_its_regression() -> None:
    torch.manual_seed(0)
    net = AotNet(replace(VARIANTS["deaot-t"], live_norm=True))
    batch = ClipGenerator(made_up_data.pool(), ClipConfig(crop_px=65, frames=2, net_short_side=96)).batch(0, 2)
    config = AotLossConfig(hard_share=1.0, own_masks=0.5, target=1.0, target_gain=2.0)
    steps = _descend(net, net.encoder.parameters(), batch, config)
    assert min(step["target"] for step in steps[-3:]) < 0.8 * steps[0]["target"]


def _descend(
    net: AotNet, parameters: Iterable[nn.Parameter], batch: ClipBatch, config: AotLossConfig
) -> list[dict[str, float]]:
    """The loss and its parts in eight steps on one batch."""
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    steps = []
    for _ in range(8):
        loss, parts = clip_loss(net, batch, config, torch.Generator().manual_seed(1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps.append({"loss": float(loss.detach()), **parts})
    return steps


def test_live_and_frozen_norms_share_their_state_dict() -> None:
    live = AotNet(replace(VARIANTS["deaot-t"], live_norm=True))
    AotNet(VARIANTS["deaot-t"]).load_state_dict(quicken_depthwise(live).state_dict())


def test_schedule_ends_on_hard_pixels_and_own_masks() -> None:
    early, late = (loss_schedule(progress, published=False) for progress in (0.0, 1.0))
    assert (early.hard_share, early.own_masks, late.hard_share, late.own_masks) == (1.0, 0.0, 0.15, 1.0)
    assert early.reference > late.reference == 0.0
    recipe = recipe_for("deaot-t", "published")
    assert (recipe.rate, recipe.weight_decay, recipe.encoder_rate) == (2e-4, 0.07, 0.1)
    learner = AotLearner(AotNet(VARIANTS["deaot-t"]), recipe)
    assert learner.is_encoder("encoder.features.0.0.weight") and not learner.is_encoder("decoder.conv_out.weight")
