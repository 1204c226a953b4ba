"""STM and AFB-URR learn: every part gets a gradient, a tiny clip is learnt, switches work."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engines.afb_urr.config import AfbUrrConfig
from engines.afb_urr.model import AfbUrrNetwork
from engines.afb_urr.recipes import recipe_for as afb_recipe
from engines.afb_urr.training import AfbUrrLearner
from engines.space_time.training import PARTS, Memories, SpaceTimeLearner, loss_schedule, sharpen
from engines.stm.config import StmConfig
from engines.stm.model import StmNetwork
from engines.stm.recipes import recipe_for as stm_recipe
from engines.training.clips import ClipBatch

SIDE = 48


def learner(family: str, *, preset: str = "starter", confidence: float = 0.5) -> SpaceTimeLearner:
    torch.manual_seed(0)
    live = preset == "starter"
    if family == "stm":
        small = StmConfig("stm-t", "mobilenetv2", 16, 16, 16, live_norm=live)
        return SpaceTimeLearner(StmNetwork(small), stm_recipe("stm-t", "starter" if live else "published"))
    refined = AfbUrrConfig("afb-urr-t", "mobilenetv2", 16, 16, 16, local_width=8, live_norm=live)
    recipe = afb_recipe("afb-urr-t", "starter" if live else "published")
    return AfbUrrLearner(AfbUrrNetwork(refined), recipe, confidence=confidence)


def clips() -> ClipBatch:
    """Two clips of three frames: a bright square that moves, and two of them; ids 1 and 3."""
    rng = torch.Generator().manual_seed(1)
    frames = 0.2 * torch.rand(2, 3, 3, SIDE, SIDE, generator=rng)
    labels = torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)
    for t in range(3):
        labels[:, t, 4 + 4 * t : 22 + 4 * t, 4:24] = 1
        labels[1, t, 26:44, 20 + 3 * t : 38 + 3 * t] = 3
    frames[:, :, 0][labels == 1] = 0.9
    frames[:, :, 1][labels == 3] = 0.9
    where = torch.arange(0, SIDE, 16).float()
    points = torch.stack([torch.zeros(3, 3), *torch.meshgrid(where, where, indexing="xy")], dim=-1)
    return ClipBatch(frames, labels, points.expand(2, 3, -1, -1, -1).clone())


@pytest.mark.parametrize("preset", ["starter", "published"])
@pytest.mark.parametrize("family", ["stm", "afb_urr"])
def test_every_parameter_gets_a_gradient(family: str, preset: str) -> None:
    model = learner(family, preset=preset)
    loss, parts = model.loss(clips(), 0, torch.Generator().manual_seed(0))
    loss.backward()
    without = [name for name, p in model.net.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not without
    assert torch.isfinite(loss)
    assert set(parts) == set(PARTS)
    assert all((parts[name] > 0) == (preset == "starter") for name in ("matching", "transport", "probe"))
    assert (parts["confidence"] > 0) == (family == "afb_urr")
    assert any(model.is_encoder(name) for name, _ in model.net.named_parameters())


@pytest.mark.parametrize("family", ["stm", "afb_urr"])
def test_a_clip_is_learnt_by_heart(family: str) -> None:
    model, batch = learner(family), clips()
    optimiser = torch.optim.AdamW(model.net.parameters(), lr=3e-3)
    model.net.train()
    history = []
    for step in range(15):
        loss, parts = model.loss(batch, step, torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(parts["mask"])
    assert sum(history[-3:]) < 0.75 * sum(history[:3])


def test_softness_is_undone_by_sharper_keys() -> None:
    """What is learnt at softness s is read by the engines, which know none, s times as sharply."""
    sharp, soft = (learner("stm", preset="published") for _ in range(2))
    assert isinstance(soft.net, StmNetwork)
    soft.softness = 4.0
    for head in (soft.net.KV_M_r4.Key, soft.net.KV_Q_r4.Key):
        sharpen(head, 4.0)
    losses = [float(each.loss(clips(), 0, torch.Generator().manual_seed(0))[0].detach()) for each in (sharp, soft)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    keys = torch.eye(2).expand(1, 2, 2)
    shares = [Memories(4 * keys, keys, keys, softness).read(keys)[1][0, 0] for softness in (1.0, 4.0)]
    assert shares[0] > shares[1] > 0.5


def test_the_confidence_loss_is_the_norm_of_the_doubt_and_can_be_off() -> None:
    doubtful, sure = learner("afb_urr"), learner("afb_urr", confidence=0.0)
    with_it, parts = doubtful.loss(clips(), 0, torch.Generator().manual_seed(0))
    without, same = sure.loss(clips(), 0, torch.Generator().manual_seed(0))
    assert 0.17 < parts["confidence"] <= 1.0  # at least exp(1 - e), at most a tie everywhere
    assert same["mask"] == pytest.approx(parts["mask"])
    assert float((with_it - without).detach()) == pytest.approx(0.5 * parts["confidence"], abs=1e-5)


def test_the_published_loss_is_plain_cross_entropy_on_own_masks() -> None:
    for progress in (0.0, 0.5, 1.0):
        config = loss_schedule(progress, published=True, confidence=0.5)
        assert (config.hard_share, config.own_masks, config.jaccard, config.matching) == (1.0, 1.0, 0.0, 0.0)
    late = loss_schedule(1.0, published=False, confidence=0.5)
    assert (late.hard_share, late.own_masks, late.matching) == (0.15, 1.0, 0.0)


def test_recipes_follow_the_papers() -> None:
    stm, afb = stm_recipe("stm", "published"), afb_recipe("afb-urr", "published")
    assert [p.clips.crop_px for p in stm.phases] == [384, 384]
    assert [p.clips.frames for p in stm.phases] == [3, 3]
    assert stm.phases[1].clips.max_gap == 25
    assert stm.rate == afb.rate == 1e-5
    assert [p.clips.crop_px for p in afb.phases] == [400, 400]
    assert [p.clips.frames for p in afb.phases] == [6, 6]
    assert all(p.freeze_norms for p in (*stm.phases, *afb.phases))
    assert replace(stm, seed=1) != stm
