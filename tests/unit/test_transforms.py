"""Sizes and resampling against OpenCV and the sizes that the released code gives."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from engines.transforms import IMAGE_MEAN, IMAGE_STD, network_size, resize_labels, to_network
from engines.types import Size


@pytest.mark.parametrize(
    ("frame", "short_side", "expected"),
    [
        (Size(480, 854), 480, Size(481, 849)),
        (Size(720, 1280), 800, Size(577, 1041)),
        (Size(1080, 1920), 800, Size(577, 1041)),
        (Size(1080, 1440), 800, Size(785, 1041)),
        (Size(854, 480), 480, Size(849, 481)),
        (Size(2160, 3840), 480, Size(481, 849)),
        (Size(113, 193), 480, Size(113, 193)),
        (Size(64, 64), 480, Size(65, 65)),
        (Size(8, 5), 480, Size(17, 17)),
    ],
)
def test_sizes(frame: Size, short_side: int, expected: Size) -> None:
    assert network_size(frame, short_side=short_side) == expected


def test_sizes_of_trunks_without_the_extra_pixel() -> None:
    assert network_size(Size(480, 854), short_side=480, plus_one=False) == Size(480, 848)


@pytest.mark.parametrize("target", [Size(97, 145), Size(65, 113)])
def test_cubic_resize_equals_opencv_on_floats(target: Size) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    resized = cv2.resize(frame.astype(np.float32), (target.width, target.height), interpolation=cv2.INTER_CUBIC)
    expected = (resized / 255 - np.array(IMAGE_MEAN)) / np.array(IMAGE_STD)
    ours = to_network(frame, target, torch.device("cpu"))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_labels_are_picked_never_blended() -> None:
    labels = np.array([[0, 7], [9, 250]], dtype=np.uint8)
    assert resize_labels(labels, Size(4, 6)).tolist() == [[0] * 3 + [7] * 3] * 2 + [[9] * 3 + [250] * 3] * 2
    assert resize_labels(labels, Size(1, 1)).tolist() == [[0]]
