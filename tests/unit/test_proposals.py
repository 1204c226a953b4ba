"""Motion against a moving camera, ranking, and the label map that proposals become, on generated scenes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.proposals.camera_motion import residual_motion
from engines.proposals.moving import MovingProposer
from engines.proposals.ranking import RankingConfig, compose, iou, rank
from engines.protocols import Proposal, Proposer

HEIGHT, WIDTH = 144, 240


def texture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 6, width // 6, 3), dtype=np.float32)
    large = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(large * 200 + 25, 0, 255), np.uint8)


def panning_clip(object_px: float, camera_px: int = 4) -> tuple[list[NDArray[np.uint8]], NDArray[np.bool_]]:
    """Three frames of a camera that pans over a texture, with a disc that moves on its own; the disc in frame 0."""
    world, skin = texture(HEIGHT, WIDTH + 40, 1), texture(HEIGHT, WIDTH, 2) // 3
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    frames, first = [], np.zeros((HEIGHT, WIDTH), bool)
    for index in range(3):
        frame = world[:, index * camera_px : index * camera_px + WIDTH].copy()
        x = 90 + round(object_px * index) - index * camera_px
        inside = (columns - x) ** 2 + (rows - 70) ** 2 <= 24**2
        frame[inside] = np.roll(skin, x, axis=1)[inside]
        frames.append(frame)
        if index == 0:
            first = np.asarray(inside)
    return frames, first


def test_the_camera_is_taken_out_of_the_motion() -> None:
    frames, disc = panning_clip(object_px=9)
    residual = residual_motion(frames)
    assert residual is not None and residual.shape == disc.shape
    inner, outer = residual[disc], residual[:, :40]
    assert np.median(inner) > 3.0 and np.quantile(outer, 0.9) < 2.0


def test_a_still_has_no_motion() -> None:
    frames, _ = panning_clip(object_px=9)
    assert residual_motion(frames[:1]) is None
    assert MovingProposer().propose(frames[:1]) == []


def test_what_moves_is_proposed() -> None:
    frames, disc = panning_clip(object_px=9)
    proposer = MovingProposer()
    assert isinstance(proposer, Proposer)
    found = proposer.propose(frames)
    assert found and iou(found[0].mask, disc) > 0.7


def test_nothing_is_proposed_where_only_the_camera_moves() -> None:
    frames, _ = panning_clip(object_px=0)
    world_only = [frame.copy() for frame in frames]
    world = texture(HEIGHT, WIDTH + 40, 1)
    for index, frame in enumerate(world_only):
        frame[:] = world[:, index * 4 : index * 4 + WIDTH]
    assert MovingProposer().propose(world_only) == []


def square(top: int, left: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros((100, 100), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_rank_prefers_sure_and_large_and_drops_repeats() -> None:
    large, small = Proposal(square(10, 10, 40), 0.8), Proposal(square(60, 60, 20), 0.9)
    repeat, speck = Proposal(square(11, 11, 40), 0.7), Proposal(square(0, 90, 3), 1.0)
    ranked = rank([small, repeat, speck, large])
    assert [each.mask.sum() for each in ranked] == [1600, 400]
    np.testing.assert_array_equal(ranked[0].mask, large.mask)
    assert 0 < ranked[1].score < ranked[0].score <= 1


def test_rank_prefers_what_moves() -> None:
    large, small = Proposal(square(10, 10, 40), 0.8), Proposal(square(60, 60, 20), 0.8)
    motion = np.where(small.mask, 9.0, 1.0).astype(np.float32)
    assert rank([large, small], motion)[0].mask.sum() == 400
    everywhere = np.full((100, 100), 9.0, np.float32)
    assert rank([large, small], everywhere)[0].mask.sum() == 1600


def test_rank_distrusts_what_runs_along_the_frame() -> None:
    rim = ~np.pad(square(0, 0, 100)[: 100 - 24, : 100 - 24], 12)
    inside = Proposal(square(30, 30, 45), 0.8)
    assert rank([Proposal(rim, 0.8), inside], config=RankingConfig())[0].mask is inside.mask


def test_compose_puts_the_better_one_on_top_and_keeps_to_the_limit() -> None:
    first, second = Proposal(square(10, 10, 30), 0.9), Proposal(square(30, 30, 30), 0.8)
    hidden, third = Proposal(square(12, 12, 20), 0.7), Proposal(square(70, 70, 20), 0.6)
    label_map = compose([first, second, hidden, third], max_objects=3)
    assert label_map.dtype == np.uint8
    assert [int((label_map == value).sum()) for value in (1, 2, 3)] == [900, 800, 400]
    assert set(np.unique(compose([first, second], max_objects=1))) == {0, 1}
    with pytest.raises(ValueError, match="no proposal"):
        compose([], max_objects=3)
