"""Matching against the released code's outputs and against a float64 brute force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.feelvos import matching as matching_module
from engines.feelvos.matching import ABSENT, global_matching, local_matching, to_distance

Arrays = Mapping[str, NDArray[Any]]


def rows(arrays: Arrays, name: str) -> Tensor:
    return torch.from_numpy(arrays[name]).flatten(0, 1)


def labels(arrays: Arrays, name: str) -> Tensor:
    return torch.from_numpy(arrays[name].astype(np.int64))


def reference_maps(arrays: Arrays, name: str) -> Tensor:
    """[K, h, w] from the stored [h, w, K]."""
    return torch.from_numpy(arrays[name]).permute(2, 0, 1)


@pytest.mark.parametrize(("group", "neighbors"), [("global_all", 1), ("global_absent", 1), ("global_k3", 3)])
def test_global_matching_equals_the_released_code(matching: Arrays, group: str, neighbors: int) -> None:
    wanted = reference_maps(matching, f"{group}/sqdist")
    match = global_matching(
        rows(matching, "query_emb"),
        rows(matching, "ref_emb"),
        labels(matching, "ref_labels").flatten(),
        range(len(wanted)),
        neighbors=neighbors,
    )
    found = match.squared.view_as(wanted)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(to_distance(found), reference_maps(matching, f"{group}/dist"), atol=1e-4, rtol=0)


def test_a_channel_without_features_is_at_distance_one(matching: Arrays) -> None:
    match = global_matching(
        rows(matching, "query_emb"), rows(matching, "ref_emb"), labels(matching, "ref_labels").flatten(), range(4)
    )
    assert torch.all(match.squared[3] == ABSENT)
    assert torch.all(to_distance(match.squared[3]) == 1.0)


def test_matching_the_pixels_that_the_released_code_drew(matching: Arrays) -> None:
    picked = torch.from_numpy(matching["global_cap40/picked"])
    match = global_matching(
        rows(matching, "query_emb"),
        rows(matching, "ref_emb")[picked],
        labels(matching, "ref_labels").flatten()[picked],
        range(3),
    )
    wanted = reference_maps(matching, "global_cap40/sqdist")
    torch.testing.assert_close(match.squared.view_as(wanted), wanted, atol=1e-4, rtol=1e-6)


@pytest.mark.parametrize("window", [4, 15])
def test_local_matching_equals_the_released_code(matching: Arrays, window: int) -> None:
    wanted = reference_maps(matching, f"local_w{window}/dist")
    found = local_matching(
        torch.from_numpy(matching["query_emb"]),
        torch.from_numpy(matching["prev_emb"]),
        labels(matching, "prev_labels"),
        range(len(wanted)),
        window=window,
    )
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
    assert torch.all(found[3] == 1.0)


@pytest.fixture
def small_scene() -> tuple[Tensor, Tensor, Tensor]:
    """Query, previous embedding and labels whose sides are no multiples of a tile; channel 2 sits in one corner."""
    generator = torch.Generator().manual_seed(3)
    query = torch.rand(29, 17, 5, generator=generator)
    previous = torch.rand(29, 17, 5, generator=generator)
    previous_labels = (torch.rand(29, 17, generator=generator) > 0.5).long()
    previous_labels[26:, 14:] = 2
    return query, previous, previous_labels


def brute_force_local(query: Tensor, previous: Tensor, previous_labels: Tensor, window: int) -> Tensor:
    """[3, h, w] in float64, one pair of pixels at a time."""
    height, width, _ = query.shape
    result = torch.ones(3, height, width, dtype=torch.float64)
    for y in range(height):
        for x in range(width):
            near = (slice(max(y - window, 0), y + window + 1), slice(max(x - window, 0), x + window + 1))
            squared = (query[y, x].double() - previous[near].double()).square().sum(-1)
            for channel in range(3):
                own = squared[previous_labels[near] == channel]
                if own.numel():
                    result[channel, y, x] = 1 - 2 / (1 + torch.exp(own.min()))
    return result


@pytest.mark.parametrize("window", [2, 15])
def test_local_matching_equals_brute_force(small_scene: tuple[Tensor, Tensor, Tensor], window: int) -> None:
    query, previous, previous_labels = small_scene
    found = local_matching(query, previous, previous_labels, range(3), window=window)
    wanted = brute_force_local(query, previous, previous_labels, window)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=0)


def test_tiles_of_the_bank_do_not_change_the_match(monkeypatch: pytest.MonkeyPatch, matching: Arrays) -> None:
    arguments = (
        rows(matching, "query_emb"),
        rows(matching, "ref_emb"),
        labels(matching, "ref_labels").flatten(),
        range(3),
    )
    whole = global_matching(*arguments, count_hits=True)
    monkeypatch.setattr(matching_module, "_TILE_CPU", 1 << 12)
    tiled = global_matching(*arguments, count_hits=True)
    nearest_three = global_matching(*arguments, neighbors=3)
    torch.testing.assert_close(tiled.squared, whole.squared, atol=1e-5, rtol=0)
    wanted = reference_maps(matching, "global_k3/sqdist").flatten(1)
    torch.testing.assert_close(nearest_three.squared, wanted, atol=1e-4, rtol=1e-6)
    assert whole.hits is not None and tiled.hits is not None
    assert torch.equal(whole.hits, tiled.hits)


def test_hits_count_the_nearest_feature_of_every_query_pixel() -> None:
    reference = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]])
    query = torch.tensor([[0.1, 0.0], [0.9, 0.0], [1.2, 0.0]])
    match = global_matching(query, reference, torch.tensor([0, 0, 1]), range(2), count_hits=True)
    assert match.hits is not None
    assert match.hits.tolist() == [1.0, 2.0, 3.0]


def test_gradients_reach_query_and_memory(small_scene: tuple[Tensor, Tensor, Tensor]) -> None:
    query, previous, previous_labels = (tensor.clone() for tensor in small_scene)
    query.requires_grad_()
    previous.requires_grad_()
    local_matching(query, previous, previous_labels, range(3), window=3).sum().backward()
    assert query.grad is not None and previous.grad is not None
    assert query.grad.abs().sum() > 0 and previous.grad.abs().sum() > 0
    assert torch.isfinite(query.grad).all()


def test_ignored_pixels_and_gaps_between_ids(small_scene: tuple[Tensor, Tensor, Tensor]) -> None:
    query, previous, previous_labels = small_scene
    renamed = torch.tensor([0, 7, 255])[previous_labels]
    found = local_matching(query, previous, renamed, (0, 7), window=4)
    wanted = local_matching(query, previous, previous_labels, (0, 1), window=4)
    assert torch.equal(found, wanted)
    only_ignored = local_matching(query, previous, torch.full_like(renamed, 255), (0, 7), window=4)
    assert torch.all(only_ignored == 1.0)
