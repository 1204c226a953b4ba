"""Ids and channels: no id is lost, renumbered or mixed with another."""

from __future__ import annotations

import numpy as np
import torch

from engines.labels import (
    IGNORE_CHANNEL,
    Slots,
    compose,
    merge_groups,
    most_probable,
    one_hot,
    soft_aggregate,
    to_channels,
    to_label_map,
    unknown_ids,
)


def _slots(*object_ids: int) -> Slots:
    slots = Slots(tuple(range(1, 11)))
    for object_id in object_ids:
        slots.join(object_id)
    return slots


def test_ids_and_channels_convert_both_ways() -> None:
    slots = _slots(254, 3)
    label_map = np.array([[0, 254], [3, 255]], dtype=np.uint8)
    channels = to_channels(label_map, slots.channels)
    assert channels.tolist() == [[0, 1], [2, IGNORE_CHANNEL]]
    assert to_label_map(channels, slots.channels).tolist() == [[0, 254], [3, 0]]
    assert to_channels(np.array([[7]], dtype=np.uint8), slots.channels).tolist() == [[0]]


def test_a_retired_channel_is_not_given_out_again() -> None:
    slots = _slots(5, 6)
    assert slots.leave(5) == 1
    assert slots.join(7) == 3
    assert slots.object_ids == (6, 7)
    assert slots.ordered_channels() == [0, 2, 3]
    assert [_slots(*range(1, n + 1)).full for n in (9, 10)] == [False, True]


def test_one_hot_leaves_ignored_pixels_empty() -> None:
    hot = one_hot(torch.tensor([[0, 2, 255]], dtype=torch.uint8), 3)
    assert hot.tolist() == [[[1, 0, 0]], [[0, 0, 0]], [[0, 1, 0]]]


def test_compose_lets_the_client_win_for_its_objects_only() -> None:
    annotated = np.array([[2, 0, 0, 255, 255, 0]], dtype=np.uint8)
    predicted = np.array([[1, 2, 1, 0, 1, 0]], dtype=np.uint8)
    assert compose(annotated, predicted, {2}).tolist() == [[2, 0, 1, 255, 1, 0]]
    assert unknown_ids(annotated, [1]) == [2]


def test_soft_aggregation_of_known_odds() -> None:
    merged = soft_aggregate(torch.tensor([[0.5]]), torch.tensor([[[0.8]], [[0.5]]]))
    torch.testing.assert_close(merged.flatten(), torch.tensor([1.0, 4.0, 1.0]) / 6)


def test_groups_merge_by_ascending_id_whatever_their_order() -> None:
    first, second = _slots(9, 2), _slots(5)
    a = torch.tensor([0.2, 0.1, 0.7]).view(3, 1, 1)
    b = torch.tensor([0.9, 0.1]).view(2, 1, 1)
    merged, ids = merge_groups([a, b], [first, second])
    assert ids == (2, 5, 9)
    odds = torch.tensor([0.18 / 0.82, 0.1 / 0.9, 0.1 / 0.9, 0.7 / 0.3])
    torch.testing.assert_close(merged.flatten(), odds / odds.sum())
    alone, ids = merge_groups([a], [first])
    assert (alone.flatten().tolist(), ids) == (a.flatten().tolist(), (2, 9))


def test_most_probable_takes_the_first_of_equals() -> None:
    probability = torch.rand(5, 7, 9).mul(4).round()  # many ties
    np.testing.assert_array_equal(most_probable(probability).numpy(), probability.numpy().argmax(0))
