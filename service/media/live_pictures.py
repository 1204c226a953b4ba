"""Single pictures of a live session: their size from the header alone, and their pixels. JPEG and PNG, no other format.

The API looks at headers; only decode children call decode_picture().
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import UnreadableVideo, UnsupportedMedia
from service.media.images import DAMAGED

_FORMATS = ("JPEG", "PNG")
_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""


def picture_size(data: bytes) -> tuple[int, int]:
    """(height, width) as displayed. Raises UnsupportedMedia for other formats, UnreadableVideo for a broken header."""
    if not data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        raise UnsupportedMedia("a frame must be one whole JPEG or PNG picture in a binary message")
    try:
        with _open(data) as image:
            sideways = image.format == "JPEG" and image.getexif().get(_ORIENTATION) in _SIDEWAYS
            return (image.width, image.height) if sideways else (image.height, image.width)
    except DAMAGED as error:
        raise UnreadableVideo(f"the picture's header is broken{_reason(error)}") from error


def decode_picture(data: bytes, size: tuple[int, int], scaled: tuple[int, int]) -> NDArray[np.uint8]:
    """[H, W, 3] RGB of size `scaled`. size: what picture_size() said. Raises UnreadableVideo."""
    try:
        with _open(data) as image:
            if image.format == "JPEG":  # a PNG's EXIF stands behind its pixels, where picture_size() does not look
                ImageOps.exif_transpose(image, in_place=True)
            rgb = image.convert("RGB")
    except DAMAGED as error:
        raise UnreadableVideo(f"the picture is damaged{_reason(error)}") from error
    if (rgb.height, rgb.width) != size:
        raise UnreadableVideo(f"the picture is {rgb.height}x{rgb.width}, its header said {size[0]}x{size[1]}")
    if scaled != size:
        rgb = rgb.resize(scaled[::-1], Image.Resampling.BOX)
    return np.asarray(rgb, dtype=np.uint8)


def _reason(error: Exception) -> str:
    """Pillow's own words, where they say more than the name of our buffer."""
    return "" if isinstance(error, UnidentifiedImageError) else f": {error}"


def _open(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(data), formats=_FORMATS)
