"""Numpy arrays as the pictures that go over the wire, and what of them cannot. Opens no connection."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.client.errors import ClientError


def png(array: NDArray[np.uint8]) -> bytes:
    """A picture without loss, quickly rather than smallest."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def rgb_frame(image: Any) -> NDArray[np.uint8]:
    """The frame as it is. Raises ClientError unless it is [H, W, 3] uint8."""
    if not isinstance(image, np.ndarray):
        raise ClientError(f"a frame must be [H, W, 3] uint8 RGB, not {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ClientError(f"a frame must be [H, W, 3] uint8 RGB, not {list(image.shape)} {image.dtype}")
    return image


def mask_png(mask: Any) -> bytes:
    """[H, W] ids, or an exemplar's [H, W, 3], as PNG. Raises ClientError for values that a byte does not hold."""
    values = np.asarray(mask)
    if values.dtype.kind not in "buif" or values.ndim not in (2, 3) or values.size == 0:
        given = f"{type(mask).__name__} {list(values.shape)}"
        raise ClientError(f"a mask is a path, an encoded PNG or an [H, W] array of ids, not {given}")
    whole = values.dtype.kind != "f" or bool((values == np.floor(values)).all())
    if not whole or values.min() < 0 or values.max() > 255:
        found = f"{values.min():g} to {values.max():g} ({values.dtype})"
        raise ClientError(
            f"a mask holds ids from 0 to 255 as whole numbers, not {found}; a probability becomes one by p > 0.5"
        )
    return png(values.astype(np.uint8))
