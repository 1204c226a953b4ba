"""Losses, the fast depthwise convolution, recipes, and the loop: a resumed run equals an unbroken one."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from engines.errors import StateMismatch, WeightsError
from engines.training.clips import ClipBatch, ClipConfig
from engines.training.depthwise import QuickDepthwise, quicken_depthwise
from engines.training.export import WeightsFacts, export_weights
from engines.training.learners import recipe_for
from engines.training.losses import hard_cross_entropy, matching_loss, soft_jaccard, transport_loss
from engines.training.recipe import Phase, Recipe
from engines.training.trainer import CHECKPOINT, RunLimits, train
from tests.unit.training import made_up_data

CLIPS = ClipConfig(crop_px=33, frames=2, net_short_side=96)
RECIPE = Recipe("toy", "starter", (Phase(3, 2, CLIPS), Phase(3, 1, replace(CLIPS, real=1.0), freeze_norms=True)))


class _Toy:
    """A three-layer network with batch norm and dropout that paints the label of a single frame."""

    def __init__(self) -> None:
        torch.manual_seed(5)
        layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.2), nn.Conv2d(8, 5, 1))
        self.net = nn.Sequential(*layers)

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        logits = self.net(batch.frames[:, 0] + 0.01 * torch.rand((), generator=generator))
        loss = F.cross_entropy(logits.float(), batch.labels[:, 0].long())
        return loss, {"toy": float(loss.detach())}

    def is_encoder(self, name: str) -> bool:
        return name.startswith("0.")


def test_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, parts = _Toy(), _Toy()
    pool = made_up_data.pool()
    average = train(whole, pool, RECIPE, tmp_path / "whole")
    train(parts, pool, RECIPE, tmp_path / "parts", limits=RunLimits(until_step=2))
    again = _Toy()
    resumed = train(again, pool, RECIPE, tmp_path / "parts", resume=True)
    for name, value in whole.net.state_dict().items():
        assert torch.equal(value, again.net.state_dict()[name]), name
        assert torch.equal(average.average[name], resumed.average[name]), name
    with (tmp_path / "parts" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3, 4, 5]
    assert (average.step, resumed.step) == (6, 6)
    assert not list((tmp_path / "parts").glob("*.partial"))


def test_another_recipe_is_not_resumed(tmp_path: Path) -> None:
    train(_Toy(), made_up_data.pool(), RECIPE, tmp_path, limits=RunLimits(until_step=1))
    with pytest.raises(StateMismatch, match="another recipe"):
        train(_Toy(), made_up_data.pool(), replace(RECIPE, rate=0.1), tmp_path, resume=True)


def test_a_run_stops_when_told_and_saves(tmp_path: Path) -> None:
    train(_Toy(), made_up_data.pool(), RECIPE, tmp_path, limits=RunLimits(stop=lambda: True))
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 0


def test_norms_are_frozen_in_the_last_phase(tmp_path: Path) -> None:
    toy = _Toy()
    train(toy, made_up_data.pool(), RECIPE, tmp_path, limits=RunLimits(until_step=3))
    before = toy.net.state_dict()["1.running_mean"].clone()
    train(toy, made_up_data.pool(), RECIPE, tmp_path, resume=True)
    assert torch.equal(before, toy.net.state_dict()["1.running_mean"])


def test_a_fine_tune_enters_the_schedule_of_the_losses_late() -> None:
    scratch = recipe_for("deaot-t")
    tuned = replace(scratch, begun=0.4)
    assert (scratch.progress_at(0), scratch.progress_at(scratch.steps)) == (0.0, 1.0)
    assert (tuned.progress_at(0), tuned.progress_at(tuned.steps)) == (0.4, 1.0)


def test_rate_warms_up_and_falls() -> None:
    recipe = replace(RECIPE, phases=(Phase(100, 1, CLIPS), Phase(100, 1, CLIPS)), rate=1.0, last_rate=0.1, warmup=0.1)
    rates = [recipe.rate_at(step) for step in range(200)]
    assert rates[0] == pytest.approx(0.05) and rates[19] == pytest.approx(1.0)
    assert all(a >= b for a, b in zip(rates[20:], rates[21:], strict=False)) and rates[-1] < 0.12
    assert [phase.steps for phase in recipe.scaled(10).phases] == [5, 5]
    assert recipe.scaled(1).steps == 1
    assert recipe.phase_at(99) is recipe.phases[0] and recipe.phase_at(100) is recipe.phases[1]


@pytest.mark.parametrize(("stride", "dilation", "kernel"), [(1, 1, 5), (1, 2, 3), (2, 1, 3)])
def test_quick_depthwise_has_the_gradients_of_the_plain_one(stride: int, dilation: int, kernel: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 6, kernel, stride, kernel // 2 * dilation, dilation, 6, bias=False)
    quick = quicken_depthwise(nn.Sequential(conv))[0]
    assert isinstance(quick, QuickDepthwise)
    x = torch.randn(2, 6, 13, 10, requires_grad=True)
    plain = conv(x)
    torch.testing.assert_close(quick(x), plain)
    upstream = torch.randn_like(plain)
    expected = torch.autograd.grad(plain, (x, conv.weight), upstream)
    got = torch.autograd.grad(quick(x), (x, quick.weight), upstream)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_hard_cross_entropy_takes_the_worst_pixels() -> None:
    logits = torch.zeros(1, 2, 2, 2)
    logits[0, 0] = torch.tensor([[5.0, 5.0], [5.0, -5.0]])
    target = torch.zeros(1, 2, 2, dtype=torch.long)
    each = F.cross_entropy(logits, target, reduction="none")
    assert float(hard_cross_entropy(logits, target, 0.25)) == pytest.approx(float(each.max()))
    assert float(hard_cross_entropy(logits, target, 1.0)) == pytest.approx(float(each.mean()))


def test_soft_jaccard_of_hard_masks_is_the_plain_one() -> None:
    target = torch.zeros(1, 20, 20, dtype=torch.long)
    target[0, :10] = 1
    predicted = torch.zeros(1, 20, 20, dtype=torch.long)
    predicted[0, 5:15] = 1
    logits = 50.0 * F.one_hot(predicted, 3).movedim(-1, 1).float()
    used = torch.tensor([[True, True, False]])
    assert float(soft_jaccard(logits, target, used)) == pytest.approx(1 - 101 / 301, abs=1e-4)
    assert float(soft_jaccard(50.0 * F.one_hot(target, 3).movedim(-1, 1).float(), target, used)) < 1e-4


def test_matching_loss_counts_attention_on_the_same_point_only() -> None:
    origin = torch.tensor([[[0.0, 0, 0], [0.0, 100, 0], [1.0, 0, 0], [-1.0, 0, 0]]])
    right = 50.0 * torch.eye(4)[None]
    assert float(matching_loss(right, origin, origin, radius_px=10)) < 1e-4
    assert float(matching_loss(torch.zeros(1, 4, 4), origin, origin, radius_px=10)) == pytest.approx(1.3863, abs=1e-3)
    assert float(matching_loss(torch.zeros(1, 4, 4), -torch.ones(1, 4, 3), origin, radius_px=10)) == 0.0


def test_transport_loss_asks_that_labels_land_on_labels() -> None:
    shares = torch.tensor([[[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]])  # two tokens of background, two of object 1
    to_another_token_of_the_same = 50.0 * torch.eye(4)[[1, 0, 3, 2]][None]
    assert float(transport_loss(to_another_token_of_the_same, shares, shares)) < 1e-4
    assert float(transport_loss(torch.zeros(1, 4, 4), shares, shares)) == pytest.approx(math.log(2))
    crossed = 50.0 * torch.eye(4)[[2, 3, 0, 1]][None]
    assert float(transport_loss(crossed, shares, shares)) == pytest.approx(-math.log(1e-4), rel=1e-4)
    unseen = shares * torch.tensor([1.0, 0, 0])  # the carrying frame lacks the object: only background counts
    assert float(transport_loss(torch.zeros(1, 4, 4), shares, unseen)) == pytest.approx(math.log(2))


def test_export_is_half_precision_with_its_facts(tmp_path: Path) -> None:
    facts = WeightsFacts("deaot-t", 256, 2, "a test")
    path = tmp_path / "out" / "w.safetensors"
    export_weights({"a": torch.ones(3), "n.num_batches_tracked": torch.tensor(3)}, path, facts)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["net_short_side"] == "256" and file.metadata()["memorize_every"] == "2"
        assert file.keys() == ["a"] and file.get_tensor("a").dtype == torch.float16
    with pytest.raises(WeightsError, match="diverged"):
        export_weights({"a": torch.tensor([float("nan")])}, path, facts)
