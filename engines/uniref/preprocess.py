"""From frames to the network's input and back: resize as the published code does, normalise, pad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engines.types import Frame, Size

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
DIVISOR = 32


@dataclass(frozen=True)
class Resize:
    """Shortest and longest side, in pixels, that an image is brought to before the network."""

    short_side: int
    long_side: int

    def __call__(self, size: Size) -> Size:
        """The size inside. Rounds half up, as published."""
        scale = self.short_side / min(size.height, size.width)
        if max(size.height, size.width) * scale > self.long_side:
            scale = self.long_side / max(size.height, size.width)
        return Size(int(size.height * scale + 0.5), int(size.width * scale + 0.5))


VIDEO_RESIZE = Resize(480, 1333)
RIS_RESIZE = Resize(800, 1333)
EXEMPLAR_RESIZE = Resize(480, 768)


def padded(size: Size) -> Size:
    """The next multiples of 32."""
    return Size(-(-size.height // DIVISOR) * DIVISOR, -(-size.width // DIVISOR) * DIVISOR)


def resize_frame(frame: Frame, size: Size) -> Frame:
    """PIL bilinear (with its antialiasing) on uint8, as published."""
    if Size.of(frame) == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size.width, size.height), Image.Resampling.BILINEAR))


def resize_mask(mask: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """PIL nearest on uint8, as published."""
    if Size.of(mask) == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize((size.width, size.height), Image.Resampling.NEAREST))


@dataclass(frozen=True)
class ImageBatch:
    """Normalised images, padded right and below.

    pixels: [B, 3, H, W] float32. padding: [B, H, W] bool, True on padding. sizes: size of each image before padding.
    """

    pixels: Tensor
    padding: Tensor
    sizes: tuple[Size, ...]


def to_batch(images: Sequence[Tensor]) -> ImageBatch:
    """[3, H, W] RGB tensors, 0..255, of possibly different sizes to one batch."""
    sizes = tuple(Size(int(image.shape[-2]), int(image.shape[-1])) for image in images)
    whole = padded(Size(max(size.height for size in sizes), max(size.width for size in sizes)))
    device = images[0].device
    mean = torch.tensor(PIXEL_MEAN, device=device).view(3, 1, 1)
    std = torch.tensor(PIXEL_STD, device=device).view(3, 1, 1)
    pixels = torch.zeros(len(images), 3, whole.height, whole.width, device=device)
    padding = torch.ones(len(images), whole.height, whole.width, dtype=torch.bool, device=device)
    for index, (image, size) in enumerate(zip(images, sizes, strict=True)):
        pixels[index, :, : size.height, : size.width] = (image.float() - mean) / std
        padding[index, : size.height, : size.width] = False
    return ImageBatch(pixels, padding, sizes)


def frame_tensor(frame: Frame, size: Size, device: torch.device) -> Tensor:
    """A frame at network size, [3, H, W] uint8 on the device."""
    return torch.from_numpy(resize_frame(frame, size).copy()).permute(2, 0, 1).to(device)


def pad_masks(masks: Tensor, whole: Size) -> Tensor:
    """[..., h, w] to [..., H, W] with zeros right and below."""
    return F.pad(masks, (0, whole.width - masks.shape[-1], 0, whole.height - masks.shape[-2]))
