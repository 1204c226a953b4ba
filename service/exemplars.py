"""Exemplar pictures from clients: checked before they are decoded, read as displayed. Knows no session."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import InvalidInput

MAX_PIXELS = 25_000_000
_FORMATS = ("JPEG", "PNG", "WEBP")


def read_exemplar(data: bytes) -> NDArray[np.uint8]:
    """[H, W, 3] RGB, turned as its metadata says. Raises InvalidInput that says what is taken."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInput(
                    f"exemplar: the image has {image.width} x {image.height} pixels; at most {MAX_PIXELS} are taken",
                    field="exemplar",
                )
            turned = ImageOps.exif_transpose(image)
            return np.asarray(turned.convert("RGB"), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidInput(
            f"exemplar: the file cannot be read as an image; send JPEG, PNG or WebP ({str(error)[:120]})",
            field="exemplar",
        ) from error
