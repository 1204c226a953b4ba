"""Frames and label maps to network input and back. Knows sizes and colours, not objects or networks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from engines.types import Frame, Size

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
MAX_LONG_SIDE = 1040
_ALIASING_SHRINK = 0.5
"""Below this scale frames are low-passed first; the released code, made for 480p, never is."""


def network_size(size: Size, *, short_side: int, stride: int = 16, plus_one: bool = True) -> Size:
    """The size that a network of `stride` sees for frames of `size`: both sides 16k + 1 (16k without `plus_one`).

    Frames are shrunk to a short side of `short_side` and a long side of 1040, never enlarged, then each side goes to
    the nearest allowed length, so the aspect ratio may change a little.
    """
    short, long = sorted((size.height, size.width))
    scale = min(1.0, short_side / short, MAX_LONG_SIDE / long)
    return Size(_nearest(size.height * scale, stride, plus_one), _nearest(size.width * scale, stride, plus_one))


def _nearest(length: float, stride: int, plus_one: bool) -> int:
    extra = int(plus_one)
    steps = int(np.around((int(length) - extra) / stride))  # ties to even, as the released code
    return max(1, steps) * stride + extra


@dataclass(frozen=True)
class ColorStatistics:
    """RGB mean and deviation that images are normalised by, on a scale of 0 to 1."""

    mean: tuple[float, float, float] = IMAGE_MEAN
    std: tuple[float, float, float] = IMAGE_STD


IMAGENET = ColorStatistics()


@lru_cache(maxsize=8)
def _statistics(color: ColorStatistics, device: torch.device) -> tuple[Tensor, Tensor]:
    mean = torch.tensor(color.mean, device=device).view(1, 3, 1, 1) * 255
    std = torch.tensor(color.std, device=device).view(1, 3, 1, 1) * 255
    return mean, std


def normalise(images: Tensor, color: ColorStatistics = IMAGENET) -> Tensor:
    """[B, 3, H, W] RGB 0..255 less the mean and over the deviation, channels last in memory."""
    mean, std = _statistics(color, images.device)
    return images.sub(mean).div_(std).contiguous(memory_format=torch.channels_last)


def to_network(frame: Frame, size: Size, device: torch.device, color: ColorStatistics = IMAGENET) -> Tensor:
    """[H, W, 3] uint8 RGB to [1, 3, *size] float32, normalised by mean and deviation.

    Cubic interpolation as OpenCV does it (a = -0.75, pixel centres); smoothed first when shrunk to less than half.
    """
    smooth = min(size.height / frame.shape[0], size.width / frame.shape[1]) < _ALIASING_SHRINK
    if device.type == "cpu" and not smooth:
        return normalise(_chw(_cubic_resize(frame, size)), color)
    image = _chw(np.require(frame, requirements=("C", "W"))).to(device).float()
    if Size.of(frame) != size:
        image = F.interpolate(image, (size.height, size.width), mode="bicubic", align_corners=False, antialias=smooth)
    return normalise(image, color)


def _chw(picture: NDArray[np.uint8] | NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None]


def _cubic_resize(frame: Frame, size: Size) -> NDArray[np.float32]:
    """[H, W, 3] to `size`; OpenCV takes an eighth of the time that torch does."""
    import cv2

    image = frame.astype(np.float32)
    if Size.of(frame) == size:
        return image
    return np.asarray(cv2.resize(image, (size.width, size.height), interpolation=cv2.INTER_CUBIC), np.float32)


def resize_labels(labels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """[H, W] to `size`, nearest pixel with floored index, as the released code feeds its memory."""
    height, width = labels.shape
    rows = (np.arange(size.height) * (height / size.height)).astype(np.int64)
    columns = (np.arange(size.width) * (width / size.width)).astype(np.int64)
    return labels[rows[:, None], columns]
