"""J and F against cases worked out by hand and against an independent formula; floors and reading of clips."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engines.errors import TrainingDataError
from engines.training.evaluate import (
    copy_first_mask,
    evaluate,
    report_json,
    warp_by_flow,
)
from engines.training.evaluation_clips import find_clips, read_label_map
from engines.training.metrics import Mask, boundary, contour_accuracy, region_similarity


def _square(top: int, left: int, side: int, size: tuple[int, int] = (100, 100)) -> Mask:
    mask = np.zeros(size, dtype=np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def _contour_accuracy_by_distance(predicted: Mask, truth: Mask) -> float:
    """The same F from exact Euclidean distances and python loops over pixels: no dilation, no disk."""

    def edge(mask: Mask) -> Mask:
        height, width = mask.shape
        out = np.zeros_like(mask)
        for y in range(height):
            for x in range(width):
                down, right = min(y + 1, height - 1), min(x + 1, width - 1)
                out[y, x] = (
                    mask[y, x] != mask[down, x] or mask[y, x] != mask[y, right] or mask[y, x] != mask[down, right]
                )
        return out

    radius = math.ceil(0.008 * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    ours, theirs = np.argwhere(edge(predicted)), np.argwhere(edge(truth))
    distance = np.linalg.norm(ours[:, None] - theirs[None], axis=-1)
    precision = float((distance.min(axis=1) <= radius).mean())
    recall = float((distance.min(axis=0) <= radius).mean())
    return 2 * precision * recall / (precision + recall)


def test_region_similarity_of_shifted_square() -> None:
    assert region_similarity(_square(10, 10, 20), _square(10, 20, 20)) == pytest.approx(200 / 600)


@pytest.mark.parametrize("measure", [region_similarity, contour_accuracy])
def test_empty_masks(measure: object) -> None:
    assert callable(measure)
    empty = np.zeros((50, 60), dtype=np.bool_)
    square = _square(10, 10, 20, (50, 60))
    assert measure(empty, empty) == 1.0
    assert measure(square, empty) == 0.0
    assert measure(empty, square) == 0.0
    assert measure(square, square) == 1.0


def test_boundary_is_one_pixel_wide_and_ignores_the_image_border() -> None:
    assert not boundary(np.ones((5, 7), dtype=np.bool_)).any()
    half = np.zeros((4, 6), dtype=np.bool_)
    half[:, :3] = True
    assert np.argwhere(boundary(half))[:, 1].tolist() == [2, 2, 2, 2]


def test_contour_tolerance_is_the_rounded_up_share_of_the_diagonal() -> None:
    left, right = np.zeros((100, 100), dtype=np.bool_), np.zeros((100, 100), dtype=np.bool_)
    left[:, :50] = True
    right[:, :52] = True  # diagonal 141.4: radius ceil(1.13) = 2
    assert contour_accuracy(left, right) == 1.0
    right[:, :53] = True
    assert contour_accuracy(left, right) == 0.0


def _discs(rng: np.random.Generator) -> Mask:
    y, x = np.mgrid[:64, :90]
    mask = np.zeros((64, 90), dtype=np.bool_)
    for _ in range(8):
        mask |= (y - rng.integers(64)) ** 2 + (x - rng.integers(90)) ** 2 < rng.uniform(3, 12) ** 2
    return mask


def test_contour_accuracy_agrees_with_exact_distances() -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        first, second = _discs(rng), _discs(rng)
        expected = _contour_accuracy_by_distance(first, second)
        assert contour_accuracy(first, second) == pytest.approx(expected, abs=1e-12)


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    coarse = rng.integers(0, 255, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _write_moving_square(folder: Path, frames: int = 5, step: int = 3) -> None:
    """A textured square, id 7, that moves `step` px right per frame over another texture."""
    rng = np.random.default_rng(1)
    backdrop, patch = _texture(rng, (80, 120)), _texture(rng, (32, 32))
    (folder / "Annotations").mkdir(parents=True)
    for t in range(frames):
        left = 20 + step * t
        frame, labels = backdrop.copy(), np.zeros((80, 120), np.uint8)
        frame[24:56, left : left + 32] = patch
        labels[24:56, left : left + 32] = 7
        Image.fromarray(frame).save(folder / f"{t:05d}.png")
        Image.fromarray(labels).save(folder / "Annotations" / f"{t:05d}.png")


def test_floors_on_a_moving_square(tmp_path: Path) -> None:
    _write_moving_square(tmp_path / "square")
    clips, left_out = find_clips(tmp_path)
    assert left_out == []
    copied = evaluate("copy", copy_first_mask, clips)
    # Shifts of 3, 6 and 9 px of 32 (first and last frame are left out).
    expected = np.mean([(32 - s) / (32 + s) for s in (3, 6, 9)])
    assert copied.clips[0].objects[0].object_id == 7
    assert copied.mean("region") == pytest.approx(expected)
    assert evaluate("flow", warp_by_flow, clips).mean("region") > 0.8 > copied.mean("region")


def test_perfect_masks_score_one_and_are_saved(tmp_path: Path) -> None:
    _write_moving_square(tmp_path / "clips" / "square")
    clips, _ = find_clips(tmp_path / "clips")

    def truth(frames: Iterator[NDArray[np.uint8]], _: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        for index, _frame in enumerate(frames):
            yield clips[0].label_map(index)

    seen: list[int] = []
    report = evaluate("truth", truth, clips, save=tmp_path / "out", progress=lambda _n, done, _all: seen.append(done))
    assert report.mean() == 1.0
    assert seen == [1, 2, 3, 4, 5]
    assert np.array_equal(read_label_map(tmp_path / "out" / "square" / "00003.png"), clips[0].label_map(3))
    as_json = json.loads(json.dumps(report_json([report])))
    assert as_json["truth"]["clips"]["square"]["objects"]["7"] == {"J&F": 100.0, "J": 100.0, "F": 100.0}


def test_clips_without_full_ground_truth_are_named(tmp_path: Path) -> None:
    _write_moving_square(tmp_path / "whole")
    _write_moving_square(tmp_path / "gap")
    _write_moving_square(tmp_path / "prompts")
    (tmp_path / "gap" / "Annotations" / "00002.png").unlink()
    (tmp_path / "prompts" / "manifest.json").write_text('{"gt": "first"}')
    clips, left_out = find_clips(tmp_path)
    assert [clip.name for clip in clips] == ["whole"]
    assert left_out == [
        "gap: 1 of 5 frames have no mask",
        "prompts: its masks are prompts, not ground truth of every frame",
    ]
    with pytest.raises(TrainingDataError, match="no clip in"):
        find_clips(tmp_path / "whole")


def test_davis_layout_is_found(tmp_path: Path) -> None:
    _write_moving_square(tmp_path / "flat" / "square")
    (tmp_path / "JPEGImages" / "480p").mkdir(parents=True)
    (tmp_path / "Annotations" / "480p").mkdir(parents=True)
    (tmp_path / "flat" / "square" / "Annotations").rename(tmp_path / "Annotations" / "480p" / "square")
    (tmp_path / "flat" / "square").rename(tmp_path / "JPEGImages" / "480p" / "square")
    assert [clip.name for clip in find_clips(tmp_path)[0]] == ["square"]


def test_colour_masks_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "mask.png")
    with pytest.raises(TrainingDataError, match="mode RGB is no label map"):
        read_label_map(tmp_path / "mask.png")
