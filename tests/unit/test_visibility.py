"""The visible/lost rule and the numbers of a Prediction, on small hand-made frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.visibility import Visibility, predict, uncertainty_map

CELL = 16.0  # a quarter of it is 4 pixels


def frame(p1: float, pixels: int, p2: float = 0.0) -> Tensor:
    """[3, 8, 8]: object 5 has `p1` on the first `pixels`, object 9 `p2` on the last row."""
    probability = torch.zeros(3, 64)
    probability[1, :pixels] = p1
    probability[2, 56:] = p2
    probability[0] = 1 - probability[1:].sum(0)
    return probability.reshape(3, 8, 8)


def test_scores_are_mean_probabilities_over_the_object() -> None:
    probability = frame(0.8, 8, 0.9)
    probability[1, 0, 0], probability[0, 0, 0] = 0.6, 0.4
    seen = predict(probability, [5, 9], Visibility(CELL), keep_probability=True)
    assert seen.scores[5] == pytest.approx((7 * 0.8 + 0.6) / 8)
    assert seen.scores[9] == pytest.approx(0.9)
    assert sorted(np.unique(seen.label_map).tolist()) == [0, 5, 9]
    assert seen.probability is not None
    assert torch.equal(seen.probability, probability)


def test_uncertainty_is_one_for_a_tie_and_zero_for_certainty() -> None:
    probability = torch.tensor([[0.5, 1.0, 0.75], [0.5, 0.0, 0.25]])[..., None]
    doubt = uncertainty_map(probability).flatten().tolist()
    assert doubt == pytest.approx([1.0, 0.0, math.exp(1 - 3)], abs=1e-6)
    seen = predict(frame(0.75, 8), [5, 9], Visibility(CELL))
    assert seen.uncertainty[5] == pytest.approx(math.exp(1 - 3), abs=1e-6)
    assert seen.uncertainty[9] == 1.0


def test_lost_after_two_frames_and_back_after_two() -> None:
    visibility = Visibility(CELL)
    visibility.reset(5)
    history = [(0.9, 8), (0.55, 8), (0.9, 8), (0.55, 8), (0.55, 8), (0.9, 8), (0.55, 8), (0.9, 8), (0.9, 8)]
    visible, pixels, certain = [], [], []
    for p1, area in history:
        seen = predict(frame(p1, area), [5, 9], visibility)
        visible.append(visibility.is_visible(5))
        certain.append(visibility.is_certain(5))
        pixels.append(int((seen.label_map == 5).sum()))
        assert (seen.scores[5] > 0) == visible[-1]
    assert visible == [True, True, True, True, False, False, False, False, True]
    assert certain == [True, False, True, False, False, False, False, False, True]
    assert pixels == [8, 8, 8, 8, 0, 0, 0, 0, 8]


@pytest.mark.parametrize(("area", "visible"), [(3, False), (4, True)])
def test_less_than_a_quarter_cell_is_lost(area: int, visible: bool) -> None:
    visibility = Visibility(CELL)
    for _ in range(2):
        predict(frame(0.9, area), [5, 9], visibility)
    assert visibility.is_visible(5) is visible


def test_pixels_of_a_lost_object_go_to_the_next_channel() -> None:
    probability = torch.zeros(3, 8, 8)
    probability[0], probability[1], probability[2] = 0.31, 0.36, 0.33
    probability[:, 7] = torch.tensor([0.0, 0.0, 1.0])[:, None]
    visibility = Visibility(CELL)
    for _ in range(2):
        seen = predict(probability, [5, 9], visibility)
    assert np.unique(seen.label_map).tolist() == [9]
    assert seen.scores[5] == 0.0


def test_objects_that_are_mistaken_for_each_other_are_both_visible() -> None:
    probability = torch.zeros(3, 8, 8)
    probability[0], probability[1], probability[2] = 0.1, 0.47, 0.43
    probability[:, 4:] = torch.tensor([0.1, 0.43, 0.47])[:, None, None]
    visibility = Visibility(CELL)
    for _ in range(3):
        seen = predict(probability, [5, 9], visibility)
    assert np.unique(seen.label_map).tolist() == [5, 9]


def test_the_state_survives_a_snapshot_between_two_frames() -> None:
    one = Visibility(CELL)
    predict(frame(0.3, 8), [5, 9], one)
    two = Visibility.from_json(one.to_json())
    for visibility in (one, two):
        predict(frame(0.3, 8), [5, 9], visibility)
    assert one.to_json() == two.to_json()
    assert not two.is_visible(5)
    two.reset(5)
    assert two.is_certain(5)
    two.forget(5)
    assert two.to_json() == Visibility.from_json(two.to_json()).to_json()
