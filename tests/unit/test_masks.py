"""Masks as clients send them, and as we send them."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from service.errors import UnreadableMask
from service.masks import IGNORE_LABEL, bounding_box, compose, decode_rle, encode_objects, encode_png, read_masks

SIZE = (6, 9)


def png(values: NDArray[np.uint8], mode: str = "L") -> bytes:
    """A PNG file of raw pixel values in a Pillow mode."""
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([7] * 768)
    elif mode != "L":
        image = image.convert(mode)
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def ids(*values: int) -> NDArray[np.uint8]:
    """A label map whose first row holds the values."""
    label_map = np.zeros(SIZE, np.uint8)
    label_map[0, : len(values)] = values
    return label_map


def low_bit_grey(values: NDArray[np.uint8], bits: int) -> bytes:
    """A grey PNG with 2 or 4 bits per pixel, written by hand because Pillow writes none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = values.shape
    rows = b""
    for row in values:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("mode", ["L", "P"])
def test_pixel_values_are_object_ids(mode: str) -> None:
    read = read_masks([png(ids(3, 7, 254), mode)], SIZE, max_objects=10)
    assert read.object_ids == (3, 7, 254)
    np.testing.assert_array_equal(read.label_map, ids(3, 7, 254))


@pytest.mark.parametrize("value", [1, 255])
def test_one_foreground_value_is_one_object(value: int) -> None:
    read = read_masks([png(ids(value, value))], SIZE, max_objects=10)
    assert read.object_ids == (1,)
    np.testing.assert_array_equal(read.label_map, ids(1, 1))
    assert "binary" in read.how


def test_one_bit_png_is_one_object() -> None:
    read = read_masks([png(ids(255), "1")], SIZE, max_objects=10)
    np.testing.assert_array_equal(read.label_map, ids(1))


def test_255_beside_ids_is_ignored() -> None:
    read = read_masks([png(ids(2, 255))], SIZE, max_objects=1)
    assert read.object_ids == (2,)
    assert read.label_map[0, 1] == IGNORE_LABEL
    assert "255 is ignored" in read.how


@pytest.mark.parametrize("bits", [2, 4])
def test_low_bit_grey_keeps_its_values(bits: int) -> None:
    read = read_masks([low_bit_grey(ids(1, 2, 3), bits)], SIZE, max_objects=10)
    assert read.object_ids == (1, 2, 3)


def test_several_binary_parts_are_numbered_objects() -> None:
    read = read_masks([png(ids(255, 255)), png(ids(0, 1))], SIZE, max_objects=10)
    assert read.object_ids == (1, 2)
    np.testing.assert_array_equal(read.label_map, ids(1, 2))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([], "no mask"),
        ([png(ids())], "no object"),
        ([png(np.zeros((9, 6), np.uint8))], "rotated"),
        ([png(np.zeros((3, 3), np.uint8))], "nearest-neighbour"),
        ([png(ids(1), "RGB")], "RGB PNG.*Save it as"),
        ([png(ids(1), "RGBA")], "RGBA"),
        ([png(ids(1), "LA")], "grey with alpha"),
        ([png(ids(1), "I;16")], "16 bits"),
        ([b"GIF89a" + bytes(64)], "not a PNG"),
        ([png(ids(1))[:46]], "damaged"),
        ([png(ids(*range(1, 8)))], "7 objects"),
        ([png(ids(1)), png(ids(1, 2))], "must be binary"),
        ([png(ids(1)), png(ids())], "part 2 holds no object"),
        ([png(ids(1)), png(ids(1))], "covered"),
        ([png(ids(1))] * 6, "6 mask parts"),
    ],
)
def test_refusals_say_why(parts: list[bytes], reason: str) -> None:
    with pytest.raises(UnreadableMask, match=reason):
        read_masks(parts, SIZE, max_objects=5)


def test_size_is_checked_before_anything_is_decoded() -> None:
    bomb = png(ids(1))[:16] + struct.pack(">II", 60_000, 60_000) + png(ids(1))[24:]
    with pytest.raises(UnreadableMask, match="60000x60000"):
        read_masks([bomb], SIZE, max_objects=5)


def test_png_and_rle_round_trip() -> None:
    label_map = np.random.default_rng(0).integers(0, 4, (37, 53)).astype(np.uint8)
    with Image.open(io.BytesIO(encode_png(label_map))) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), label_map)
    objects = encode_objects(label_map, (1, 2, 3, 9))
    np.testing.assert_array_equal(compose(objects, (37, 53)), label_map)
    assert objects[3]["bbox"] == [0, 0, 0, 0]
    assert not decode_rle(objects[3]["rle"]).any()


def coarse_map(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Blocks of ids 0..3; some touch the frame's edges, some run on from one column into the next."""
    blocks = np.random.default_rng(seed).integers(0, 4, (1 + height // 5, 1 + width // 5)).astype(np.uint8)
    return np.kron(blocks, np.ones((5, 5), np.uint8))[:height, :width]


@pytest.mark.parametrize(
    "label_map",
    [
        np.zeros((4, 6), np.uint8),
        np.full((4, 6), 2, np.uint8),
        np.array([[1, 2, 3, 0]], np.uint8),
        np.array([[1], [2], [3], [0]], np.uint8),
        np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0]], np.uint8),
        *(coarse_map(seed, *size) for seed in range(5) for size in ((37, 53), (40, 10))),
        np.asfortranarray(coarse_map(9, 31, 22)),
    ],
)
def test_masks_are_byte_for_byte_what_coco_encodes(label_map: NDArray[np.uint8]) -> None:
    for item in encode_objects(label_map, (3, 1, 2)):
        mask = label_map == item["object_id"]
        expected = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        assert item["rle"] == {"size": list(label_map.shape), "counts": expected["counts"].decode()}
        assert item["bbox"] == bounding_box(mask)


def test_bounding_box_is_x_y_width_height() -> None:
    mask = np.zeros((10, 20), bool)
    mask[2:5, 7:15] = True
    assert bounding_box(mask) == [7, 2, 8, 3]
