"""Masks at the service's borders: label map <-> indexed PNG and COCO RLE. Pure functions of bytes and arrays.

Knows nothing of requests, sessions or engines. Everything that comes from a client is checked before it is decoded.
"""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from service.errors import UnreadableMask

LabelMap = NDArray[np.uint8]
"""[H, W]; 0 is background, otherwise the client's object id, 255 to be ignored (references only)."""

IGNORE_LABEL = 255
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3
_MODES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_HOW_TO_CONVERT = (
    "Save it as an 8-bit palette (P) or grey (L) PNG whose pixel values are the object ids: 0 background, 1, 2, … "
    "With Pillow: Image.fromarray(ids.astype('uint8')).save('mask.png')"
)


@dataclass(frozen=True)
class ReadMask:
    """A client's mask as it was understood.

    label_map: [H, W] uint8. object_ids: ascending. how: one sentence that tells the client how it was read.
    """

    label_map: LabelMap
    object_ids: tuple[int, ...]
    how: str


@dataclass(frozen=True)
class _PngHeader:
    height: int
    width: int
    bit_depth: int
    colour_type: int


def palette() -> list[int]:
    """256 RGB triples, flat: the bit-interleaved colours that segmentation datasets use, so that ids look the same."""
    colours = []
    for index in range(256):
        rgb, value = [0, 0, 0], index
        for shift in range(7, -1, -1):
            for channel in range(3):
                rgb[channel] |= ((value >> channel) & 1) << shift
            value >>= 3
        colours += rgb
    return colours


_PALETTE_BYTES = bytes(palette())


def encode_png(label_map: LabelMap, *, indexed: bool = True) -> bytes:
    """A PNG whose pixel values are the object ids: with a palette for clients, or grey (mode L) for our own files."""
    image = Image.fromarray(np.ascontiguousarray(label_map, dtype=np.uint8))
    if indexed:
        image.putpalette(_PALETTE_BYTES)
    out = io.BytesIO()
    image.save(out, format="PNG", compress_level=3)
    return out.getvalue()


def encode_level(level: NDArray[np.uint8]) -> str:
    """[h, w] probabilities, 255 certain, as they stand in mask messages: base64 of a grey PNG."""
    return base64.b64encode(encode_png(level, indexed=False)).decode("ascii")


def decode_level(text: str) -> NDArray[np.uint8]:
    """[h, w] of what encode_level() wrote."""
    with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as image:
        return np.asarray(image.convert("L"), np.uint8)


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.bool_]:
    """[H, W] of one compressed RLE that this service wrote."""
    counts = rle["counts"]
    raw = {"size": list(rle["size"]), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
    return np.asarray(coco.decode(raw), dtype=bool)


def bounding_box(mask: NDArray[np.bool_]) -> list[int]:
    """[x, y, width, height] of the set pixels; zeros when there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return [0, 0, 0, 0]
    y, x = int(rows[0]), int(columns[0])
    return [x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1]


def encode_objects(label_map: LabelMap, object_ids: Collection[int]) -> list[dict[str, Any]]:
    """One {"object_id", "bbox", "rle"} per id, ascending; an object without pixels has an empty mask.

    rle: COCO compressed, {"size": [H, W], "counts": str}. The runs of all objects are found in one pass, so that a
    further object costs next to nothing.
    """
    height, width = label_map.shape
    flat = np.ascontiguousarray(label_map.T).ravel()  # COCO's runs go down the columns
    bounds = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    values = flat[bounds[:-1]]
    objects = []
    for object_id in sorted(object_ids):
        (runs,) = np.nonzero(values == object_id)
        begins, ends = bounds[runs], bounds[runs + 1]
        counts = np.diff(np.column_stack((begins, ends)).ravel(), prepend=0, append=flat.size)
        listed = counts.tolist() if counts[-1] else counts[:-1].tolist()
        rle = coco.frPyObjects({"size": [height, width], "counts": listed}, height, width)
        shown = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
        objects.append({"object_id": object_id, "bbox": _box_of_runs(begins, ends, height), "rle": shown})
    return objects


def _box_of_runs(begins: NDArray[np.intp], ends: NDArray[np.intp], height: int) -> list[int]:
    """bounding_box() of the pixels begins..ends (exclusive) of a mask read down its columns."""
    if begins.size == 0:
        return [0, 0, 0, 0]
    columns, rows = np.divmod(np.stack((begins, ends - 1)), height)
    left, right = int(columns[0, 0]), int(columns[1, -1])
    if (columns[0] != columns[1]).any():  # such a run goes from the bottom of a column to the top of the next
        top, bottom = 0, height - 1
    else:
        top, bottom = int(rows[0].min()), int(rows[1].max())
    return [left, top, right - left + 1, bottom - top + 1]


def compose(objects: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> LabelMap:
    """[H, W] label map of one mask message's objects; where two overlap, the later one wins."""
    label_map = np.zeros(size, dtype=np.uint8)
    for item in objects:
        label_map[decode_rle(item["rle"])] = item["object_id"]
    return label_map


def read_masks(parts: Sequence[bytes], size: tuple[int, int], *, max_objects: int) -> ReadMask:
    """Understand the client's mask files for one frame.

    parts: PNG files. One: its pixel values are object ids, or a single object when they are {0, 1} or {0, 255}.
    Several: each is binary; the first is object 1, the second object 2, …; later ones win where they overlap.
    size: (height, width) of the video as displayed. Raises UnreadableMask, which says how to convert.
    """
    if not parts:
        raise UnreadableMask("no mask was sent: add a `mask` part with a PNG file")
    if len(parts) > max_objects:
        raise UnreadableMask(f"{len(parts)} mask parts are {len(parts)} objects; at most {max_objects} are allowed")
    read = _read_one(parts[0], size) if len(parts) == 1 else _read_binary_parts(parts, size)
    if len(read.object_ids) > max_objects:
        raise UnreadableMask(
            f"the mask holds {len(read.object_ids)} objects (distinct pixel values other than 0 and 255); at most "
            f"{max_objects} are allowed. If it is a soft or anti-aliased mask, threshold it to 0 and 255 first"
        )
    return read


def _read_one(data: bytes, size: tuple[int, int]) -> ReadMask:
    values = _pixel_values(data, size)
    present = {int(value) for value in np.unique(values)}
    objects = present - {0}
    if not objects:
        raise UnreadableMask("the mask holds no object: every pixel is 0. Give the object's pixels an id from 1 to 254")
    if objects <= {1} or objects <= {IGNORE_LABEL}:
        values = (values > 0).astype(np.uint8)
        return ReadMask(values, (1,), f"one object from a binary mask with values {sorted(present)}")
    how = f"pixel values are object ids {sorted(objects - {IGNORE_LABEL})}"
    if IGNORE_LABEL in objects:
        how += "; 255 is ignored"
    return ReadMask(values, tuple(sorted(objects - {IGNORE_LABEL})), how)


def _read_binary_parts(parts: Sequence[bytes], size: tuple[int, int]) -> ReadMask:
    label_map = np.zeros(size, dtype=np.uint8)
    for object_id, data in enumerate(parts, start=1):
        values = _pixel_values(data, size)
        foreground = np.unique(values[values > 0])
        if foreground.size == 0:
            raise UnreadableMask(f"mask part {object_id} holds no object: every pixel is 0")
        if foreground.size > 1:
            raise UnreadableMask(
                f"mask part {object_id} has {foreground.size} different values; with several mask parts each one must "
                "be binary. Send one mask whose pixel values are the object ids instead"
            )
        label_map[values > 0] = object_id
    ids = tuple(int(value) for value in np.unique(label_map) if value)
    if len(ids) != len(parts):
        hidden = sorted(set(range(1, len(parts) + 1)) - set(ids))
        raise UnreadableMask(
            f"mask parts {hidden} are wholly covered by later parts; send those that lie inside others last"
        )
    return ReadMask(label_map, ids, f"{len(parts)} binary parts are objects 1 to {len(parts)}")


def _png_header(data: bytes) -> _PngHeader:
    """What the first 26 bytes say, so that nothing is decoded before its size is known."""
    if len(data) < 26 or not data.startswith(_PNG_SIGNATURE) or data[12:16] != b"IHDR":
        raise UnreadableMask(f"the mask is not a PNG file. {_HOW_TO_CONVERT}")
    width, height, bit_depth, colour_type = struct.unpack(">IIBB", data[16:26])
    return _PngHeader(height, width, bit_depth, colour_type)


def _check_header(header: _PngHeader, size: tuple[int, int]) -> None:
    if (header.height, header.width) != size:
        hint = " (the video is displayed rotated)" if (header.width, header.height) == size else ""
        raise UnreadableMask(
            f"the mask is {header.height}x{header.width} (height x width) but the video is displayed at "
            f"{size[0]}x{size[1]}{hint}. Resize the mask to that with nearest-neighbour interpolation"
        )
    if header.colour_type not in (_GREY, _PALETTE):
        mode = _MODES.get(header.colour_type, "unknown")
        raise UnreadableMask(f"the mask is an {mode} PNG, whose colours are not object ids. {_HOW_TO_CONVERT}")
    if header.bit_depth > 8:
        raise UnreadableMask(f"the mask has {header.bit_depth} bits per pixel; ids go from 1 to 254. {_HOW_TO_CONVERT}")


def _pixel_values(data: bytes, size: tuple[int, int]) -> LabelMap:
    """[H, W] raw pixel values of a PNG that passed _check_header."""
    header = _png_header(data)
    _check_header(header, size)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            values = np.array(image, dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise UnreadableMask(f"the mask is a damaged PNG file ({error}); export it again") from error
    if values.shape != size:
        raise UnreadableMask(f"the mask is a damaged PNG file (its content has shape {list(values.shape)})")
    if header.colour_type == _GREY and header.bit_depth in (2, 4):
        values //= {2: 85, 4: 17}[header.bit_depth]  # Pillow stretches these to 0..255
    return values
