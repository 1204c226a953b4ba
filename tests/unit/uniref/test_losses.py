"""Losses and assignment against plain double-precision loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.uniref.losses import (
    LossWeights,
    box_overlaps,
    box_supervised_losses,
    colour_similarity,
    dice,
    focal,
    label_and_box_losses,
    match_best,
    match_top_k,
    subsample,
)

Box = tuple[float, float, float, float]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _boxes(count: int, seed: int) -> Tensor:
    u = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat((0.2 + 0.6 * u[:, :2], 0.05 + 0.3 * u[:, 2:]), 1)


def _plain_overlaps(a: Box, b: Box) -> tuple[float, float]:
    ax, ay, aw, ah = a
    bx, by, bw, bh = b
    wide = max(0.0, min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2))
    high = max(0.0, min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2))
    union = aw * ah + bw * bh - wide * high
    hull_w = max(ax + aw / 2, bx + bw / 2) - min(ax - aw / 2, bx - bw / 2)
    hull_h = max(ay + ah / 2, by + bh / 2) - min(ay - ah / 2, by - bh / 2)
    iou = wide * high / union
    return iou, iou - (hull_w * hull_h - union) / (hull_w * hull_h)


def _as_box(box: Tensor) -> Box:
    x, y, w, h = box.tolist()
    return x, y, w, h


def test_box_overlaps() -> None:
    a, b = _boxes(50, 1), _boxes(50, 2)
    iou, giou = box_overlaps(a, b)
    for i in range(50):
        assert (iou[i].item(), giou[i].item()) == pytest.approx(_plain_overlaps(_as_box(a[i]), _as_box(b[i])), abs=1e-9)


def _plain_cost(logit: float, box: Box, goal: Box) -> float:
    p = 1 / (1 + math.exp(-logit))
    cost = -0.25 * (1 - p) ** 2 * math.log(p + 1e-8) + 0.75 * p**2 * math.log(1 - p + 1e-8)
    dx, dy = abs(box[0] - goal[0]), abs(box[1] - goal[1])
    in_box = dx < goal[2] / 2 and dy < goal[3] / 2
    in_centre = dx < 2.5 / 32 and dy < 2.5 / 32
    cost -= 3 * _plain_overlaps(box, goal)[1]
    return cost + (0 if in_box and in_centre else 100) + (0 if in_box or in_centre else 10000)


@pytest.mark.parametrize("spread", [0.01, 0.05, 0.5])
def test_top_k_assignment(spread: float) -> None:
    goals = _boxes(6, 3)
    boxes = (goals[:, None] + spread * _random(6, 40, 4, seed=4)).clamp(0.02, 0.98)
    logits = _random(6, 40, seed=5)
    chosen = match_top_k(logits, boxes, goals)
    for i in range(6):
        goal = _as_box(goals[i])
        ious = sorted((_plain_overlaps(_as_box(box), goal)[0] for box in boxes[i]), reverse=True)
        k = max(1, int(sum(ious[:10])))
        costs = [_plain_cost(logits[i, q].item(), _as_box(boxes[i, q]), goal) for q in range(40)]
        expected = sorted(range(40), key=lambda q: costs[q])[:k]
        assert sorted(chosen[i].nonzero().flatten().tolist()) == sorted(expected)


def test_first_stage_takes_the_single_best() -> None:
    goals = _boxes(4, 6)
    boxes = _boxes(4 * 30, 7).view(4, 30, 4)
    boxes[:, 11] = goals
    assert match_best(torch.zeros(4, 30, dtype=torch.float64), boxes, goals).tolist() == [11] * 4


def test_focal_and_dice() -> None:
    logits, goal = _random(3, 5, 7), (_random(3, 5, 7, seed=9) > 0).double()
    p = 1 / (1 + np.exp(-logits.numpy()))
    g = goal.numpy()
    plain = -0.25 * g * (1 - p) ** 2 * np.log(p) - 0.75 * (1 - g) * p**2 * np.log(1 - p)
    torch.testing.assert_close(focal(logits, goal), torch.from_numpy(plain))
    expected = [1 - (2 * (p[i] * g[i]).sum() + 1) / (p[i].sum() + g[i].sum() + 1) for i in range(3)]
    torch.testing.assert_close(dice(logits, goal), torch.tensor(expected, dtype=torch.float64))


def test_only_the_chosen_queries_have_a_box_to_hit() -> None:
    goals = _boxes(2, 10)
    boxes = _boxes(2 * 5, 11).view(2, 5, 4).requires_grad_()
    logits = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    chosen = torch.zeros(2, 5, dtype=torch.bool)
    chosen[0, 1] = chosen[1, 4] = True
    losses = label_and_box_losses(logits, boxes, goals, chosen)
    expected = ((boxes[0, 1] - goals[0]).abs().sum() + (boxes[1, 4] - goals[1]).abs().sum()) / 2
    torch.testing.assert_close(losses["box"], expected)
    grads = torch.autograd.grad(torch.stack(list(losses.values())).sum(), (logits, boxes))
    assert grads[1].abs().sum(-1).gt(0).equal(chosen)
    assert grads[0].lt(0).equal(chosen)  # a step down raises the chosen, lowers the rest


def test_box_supervision_of_projections() -> None:
    box = torch.zeros(1, 12, 16, dtype=torch.float64)
    box[:, 3:9, 4:11] = 1
    nothing_alike = torch.zeros(1, 8, 12, 16, dtype=torch.float64)
    full = box_supervised_losses(40 * box - 20, box, nothing_alike)
    assert full["projection"].item() == pytest.approx(0, abs=1e-5)
    assert full["pairwise"].item() == 0
    cross = torch.zeros_like(box)
    cross[:, 6, 4:11] = cross[:, 3:9, 7] = 1  # touches all four sides: as good as the box
    assert box_supervised_losses(40 * cross - 20, box, nothing_alike)["projection"].item() == pytest.approx(0, abs=1e-5)
    half = torch.zeros_like(box)
    half[:, 3:6, 4:11] = 1
    rows = 1 - 2 * 3 / (3 + 6)
    assert box_supervised_losses(40 * half - 20, box, nothing_alike)["projection"].item() == pytest.approx(
        rows, abs=1e-4
    )


def test_pairwise_term() -> None:
    logits, box = _random(1, 6, 7, seed=12), torch.ones(1, 6, 7, dtype=torch.float64)
    similarity = torch.rand(1, 8, 6, 7, generator=torch.Generator().manual_seed(13), dtype=torch.float64)
    p = 1 / (1 + np.exp(-logits[0].numpy()))
    steps = [(dy, dx) for dy in (-2, 0, 2) for dx in (-2, 0, 2) if (dy, dx) != (0, 0)]
    total = weight = 0.0
    for n, (dy, dx) in enumerate(steps):
        for y in range(6):
            for x in range(7):
                if similarity[0, n, y, x] < 0.3:
                    continue
                weight += 1
                if 0 <= y + dy < 6 and 0 <= x + dx < 7:
                    q = p[y + dy, x + dx]
                    total -= math.log(p[y, x] * q + (1 - p[y, x]) * (1 - q))
                else:  # beyond the edge the log-probabilities are padded with zeros: p = 1 and 1 - p = 1
                    total -= math.log(p[y, x] + 1 - p[y, x])
    loss = box_supervised_losses(logits, box, similarity, warm_up=0.5)["pairwise"]
    assert loss.item() == pytest.approx(0.5 * total / weight, abs=1e-9)


def test_colour_similarity() -> None:
    lab = _random(1, 3, 5, 6, seed=14)
    inside = torch.ones(1, 5, 6, dtype=torch.bool)
    inside[:, :, 5] = False
    similarity = colour_similarity(lab, inside)
    assert similarity.shape == (1, 8, 5, 6)
    right = (lab[0, :, 2, 1] - lab[0, :, 2, 3]).norm()
    assert similarity[0, 4, 2, 1].item() == pytest.approx(math.exp(-0.5 * right.item()))
    assert similarity[0, 4, 2, 3].item() == 0  # that neighbour is padding


def test_weights_of_the_sum() -> None:
    parts = {"label.0": torch.tensor(1.0), "box": torch.tensor(1.0), "giou.first": torch.tensor(1.0)}
    parts |= {"mask": torch.tensor(1.0), "dice.dense": torch.tensor(1.0)}
    assert LossWeights().total(parts).item() == 2 + 5 + 2 + 2 + 5


def test_subsampling_starts_in_the_middle_of_a_cell() -> None:
    assert subsample(torch.arange(64).view(1, 8, 8), 4).tolist() == [[[18, 22], [50, 54]]]
