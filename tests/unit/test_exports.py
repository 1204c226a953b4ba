"""Exported files read back by the tools they are for, pixel for pixel."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from service.exports import ExportInfo, Masks, binary_png_zip, coco_json, indexed_png_zip, youtube_vis_json
from service.exports.videos import matte_mp4, overlay_mp4
from service.masks import encode_objects
from service.media.reader import VideoFrame
from service.schemas import MaskEvent

Export = Callable[[ExportInfo, Masks], Iterator[bytes]]
SIZE = (24, 36)
INFO = ExportInfo("s1", "clip", *SIZE, objects={1: "swan", 9: "dog"})


def label_maps() -> list[np.ndarray]:
    """Object 1 moves; object 9 is missing from the middle frame; they overlap in the last."""
    maps = []
    for index in range(3):
        label_map = np.zeros(SIZE, np.uint8)
        label_map[4:14, 2 + 5 * index : 12 + 5 * index] = 1
        if index != 1:
            label_map[10:20, 14:30] = 9
        maps.append(label_map)
    return maps


def events() -> Iterator[MaskEvent]:
    for index, label_map in enumerate(label_maps()):
        objects = [{**item, "score": 0.8} for item in encode_objects(label_map, [1, 9])]
        yield MaskEvent.model_validate({"seq": index, "frame_index": index, "size": SIZE, "objects": objects})


def test_indexed_pngs_are_the_label_maps() -> None:
    data = b"".join(indexed_png_zip(INFO, events))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"Annotations/clip/{index:05d}.png" for index in range(3)]
        for name, expected in zip(archive.namelist(), label_maps(), strict=True):
            with Image.open(archive.open(name)) as image:
                assert image.mode == "P"
                assert np.array_equal(np.asarray(image), expected)


def test_image_sequences_keep_their_names() -> None:
    names = {0: "IMG_7.jpg", 1: "IMG_8.jpg", 2: "IMG_9.jpg"}
    info = ExportInfo("s1", "clip", *SIZE, objects=INFO.objects, frame_names=names)
    with zipfile.ZipFile(io.BytesIO(b"".join(indexed_png_zip(info, events)))) as archive:
        assert archive.namelist()[1] == "Annotations/clip/IMG_8.png"


def test_binary_pngs_are_one_object_each() -> None:
    with zipfile.ZipFile(io.BytesIO(b"".join(binary_png_zip(INFO, events)))) as archive:
        for index, expected in enumerate(label_maps()):
            with Image.open(archive.open(f"009/{index:05d}.png")) as image:
                assert np.array_equal(np.asarray(image), (expected == 9) * 255)


def test_coco_loads_and_gives_the_same_masks(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_bytes(b"".join(coco_json(INFO, events)))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks while it loads
        loaded = COCO(str(path))
    assert [category["name"] for category in loaded.loadCats(loaded.getCatIds())] == ["swan", "dog"]
    for index, expected in enumerate(label_maps()):
        found = np.zeros(SIZE, np.uint8)
        for annotation in loaded.loadAnns(loaded.getAnnIds(imgIds=[index + 1])):
            inside = loaded.annToMask(annotation).astype(bool)
            assert annotation["area"] == inside.sum()
            found[inside] = annotation["category_id"]
        assert np.array_equal(found, expected)
    assert len(loaded.getAnnIds(catIds=[9])) == 2


def test_youtube_vis_has_null_where_nothing_is_seen() -> None:
    document = json.loads(b"".join(youtube_vis_json(INFO, events)))
    assert document["videos"][0]["file_names"][2] == "clip/00002.jpg"
    dog = document["annotations"][1]
    assert dog["category_id"] == 9
    assert dog["segmentations"][1] is None
    assert dog["areas"][1] is None
    for index in (0, 2):
        decoded = coco.decode(dog["segmentations"][index])
        assert np.array_equal(decoded, label_maps()[index] == 9)
        assert dog["areas"][index] == decoded.sum()


@pytest.mark.parametrize("export", [indexed_png_zip, binary_png_zip, coco_json])
def test_masks_are_read_while_the_file_is_written(export: Export) -> None:
    asked = []

    def watched() -> Iterator[MaskEvent]:
        for event in events():
            asked.append(event.frame_index)
            yield event

    chunks = export(INFO, watched)
    assert next(chunks)
    assert next(chunks)
    assert len(asked) <= 2, "nothing may be collected first"
    rest = list(chunks)
    assert rest
    assert asked == [0, 1, 2]


def decoded(chunks: Iterator[bytes]) -> list[np.ndarray]:
    with av.open(io.BytesIO(b"".join(chunks)), "r") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_matte_is_white_on_the_objects() -> None:
    pictures = decoded(matte_mp4(events, 24.0))
    assert len(pictures) == 3
    for picture, expected in zip(pictures, label_maps(), strict=True):
        assert np.mean((picture[..., 0] > 127) == (expected > 0)) > 0.98


def test_overlay_leaves_out_frames_without_a_mask() -> None:
    def frames() -> Iterator[VideoFrame]:
        for index in range(5):
            yield VideoFrame(index, index / 24, np.full((*SIZE, 3), 60 + 20 * index, np.uint8))

    def late_masks() -> Iterator[MaskEvent]:
        return (event.model_copy(update={"frame_index": event.frame_index + 1}) for event in events())

    pictures = decoded(overlay_mp4(frames, late_masks, 24.0))
    assert len(pictures) == 3
    background = label_maps()[0] == 0
    assert abs(float(pictures[0][background].mean()) - 80) < 8, "the first picture is frame 1"
    red = pictures[0][6:12, 4:10].reshape(-1, 3).mean(axis=0)
    assert red[0] > red[2] + 30, "object 1 is tinted"
