"""Boxes and clicks become the drawn shape, and prompts that name nothing are refused with a reason."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.errors import UnusableReference
from engines.prompts.grabcut import mask_from_box, mask_from_points, mask_from_region, sharpen
from engines.prompts.window import Box, Point
from engines.proposals.ranking import iou

HEIGHT, WIDTH = 120, 200


def disc(x: float, y: float, radius: float) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def scene() -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
    """A red and a blue disc on noisy green, and their masks."""
    rng = np.random.default_rng(5)
    image = np.full((HEIGHT, WIDTH, 3), (60, 130, 70), np.float64)
    red, blue = disc(60, 60, 28), disc(145, 55, 22)
    image[red], image[blue] = (190, 50, 40), (50, 70, 190)
    noisy = np.clip(image + rng.normal(0, 8, image.shape), 0, 255)
    return noisy.astype(np.uint8), red, blue


def test_a_box_gives_the_object_inside() -> None:
    image, red, blue = scene()
    assert iou(mask_from_box(image, Box(28, 28, 64, 64)), red) > 0.95
    assert iou(mask_from_box(image, Box(120, 30, 50, 50)), blue) > 0.95


def test_the_same_box_gives_the_same_mask() -> None:
    image, _, _ = scene()
    first, second = (mask_from_box(image, Box(28, 28, 64, 64)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_box_over_the_whole_frame_and_a_box_of_one_pixel_work() -> None:
    image, _, _ = scene()
    assert mask_from_box(image, Box(0, 0, WIDTH, HEIGHT)).any()
    tiny = mask_from_box(image, Box(199, 119, 1, 1))
    assert 1 <= tiny.sum() <= 4 and tiny[119, 199]


def test_a_box_without_contrast_falls_back_to_its_ellipse() -> None:
    flat = np.full((60, 60, 3), 128, np.uint8)
    mask = mask_from_box(flat, Box(20, 20, 20, 20))
    assert mask[30, 30] and not mask[10, 10]
    assert 200 <= mask.sum() <= 400


def test_a_click_gives_the_object_under_it() -> None:
    image, red, blue = scene()
    assert iou(mask_from_points(image, [Point(55, 65)]), red) > 0.9
    assert iou(mask_from_points(image, [Point(150, 50)]), blue) > 0.9


def test_a_click_on_background_takes_its_part_away() -> None:
    image, red, blue = scene()
    both = mask_from_points(image, [Point(60, 60), Point(145, 55)])
    assert iou(both, red | blue) > 0.9
    less = mask_from_points(image, [Point(60, 60), Point(145, 55, on_object=False)])
    assert iou(less, red) > 0.9 and not less[55, 145]


def test_a_large_frame_is_cut_at_a_bounded_size() -> None:
    image, red, _ = scene()
    large = np.kron(image, np.ones((8, 8, 1), np.uint8))
    mask = mask_from_box(large, Box(28 * 8, 28 * 8, 64 * 8, 64 * 8))
    assert mask.shape == large.shape[:2]
    assert iou(mask, np.kron(red, np.ones((8, 8), bool))) > 0.93


def test_a_rough_region_snaps_to_the_edges() -> None:
    image, red, _ = scene()
    rough = disc(63, 62, 27)
    assert iou(mask_from_region(image, rough), red) > max(0.95, iou(rough, red))


@pytest.mark.parametrize(
    ("box", "says"),
    [
        (Box(10, 10, 0, 5), "the box is empty: width 0, height 5"),
        (Box(10, 10, 5, -1), "the box is empty"),
        (Box(190, 10, 20, 20), "lies outside the frame, which is 200 x 120 pixels"),
        (Box(-1, 10, 20, 20), "lies outside the frame"),
    ],
)
def test_boxes_that_name_nothing(box: Box, says: str) -> None:
    image, _, _ = scene()
    with pytest.raises(UnusableReference, match=says):
        mask_from_box(image, box)


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([Point(200, 10)], r"the point \(200, 10\) lies outside the frame"),
        ([Point(5, -1)], "lies outside the frame"),
        ([Point(5, 5, on_object=False)], "no point lies on the object"),
        ([], "no point lies on the object"),
    ],
)
def test_points_that_name_nothing(points: list[Point], says: str) -> None:
    image, _, _ = scene()
    with pytest.raises(UnusableReference, match=says):
        mask_from_points(image, points)


def test_what_was_taken_along_of_the_surroundings_is_given_back() -> None:
    image, red, _ = scene()
    rough = red | disc(85, 92, 20)
    assert iou(rough, red) < 0.8
    assert iou(sharpen(image, rough), red) > 0.9


def test_a_named_colour_keeps_its_object_and_drops_the_other() -> None:
    image, red, blue = scene()
    both = red | blue | disc(102, 58, 22)
    named = (image[..., 0] > image[..., 2]) & (image[..., 0] > image[..., 1])
    assert iou(sharpen(image, both, named), red) > 0.9


def test_a_region_that_looks_like_its_surroundings_stays_as_it_is() -> None:
    flat = np.full((60, 90, 3), 128, np.uint8)
    region = np.zeros((60, 90), bool)
    region[20:40, 30:60] = True
    assert iou(sharpen(flat, region), region) == 1.0
