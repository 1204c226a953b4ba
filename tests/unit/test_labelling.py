"""Import files for labelling tools, read as their published formats say: the readers here are written from those."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from service.exports import ExportInfo, cvat_xml, label_studio_json
from service.exports.labelling import box_rle, brush_rle, label_names
from tests.unit.test_exports import INFO, SIZE, events, label_maps


def read_brush(rle: Sequence[int]) -> np.ndarray:
    """Label Studio's decoder (label_studio_sdk.converter.brush.decode_rle) as its format is described: bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    place = 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    count, word_bits = read(32), read(5) + 1
    length_bits = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        repeated, length = read(1), 0
        length = read(length_bits[read(2)]) + 1
        values += [read(word_bits)] * length if repeated else [read(word_bits) for _ in range(length)]
    assert len(bits) - place < 8, "nothing may follow but padding"
    return np.array(values, np.uint8)


def read_box(rle: str, left: int, top: int, width: int, height: int) -> np.ndarray:
    """CVAT's masks: run lengths row by row inside a box, beginning with the unset ones."""
    runs = [int(run) for run in rle.split(",")]
    values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = values.reshape(height, width)
    return mask


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (200, 190)])
def test_both_run_lengths_give_back_any_mask(size: tuple[int, int], density: float) -> None:
    mask = np.random.default_rng(3).random(size) < density
    brush = read_brush(brush_rle(mask)).reshape(*size, 4)
    assert np.array_equal(brush[..., 3] > 0, mask)
    runs = box_rle(mask)
    assert sum(runs) == mask.size and min(runs[1:], default=1) > 0
    assert np.array_equal(np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size), mask)


def tasks() -> list[dict[str, Any]]:
    made = label_studio_json(INFO, events, lambda index: f"http://host/frames/{index}.jpg", "maskstream fake")
    found: list[dict[str, Any]] = json.loads(b"".join(made))
    return found


def test_label_studio_tasks_have_a_brush_for_each_visible_object() -> None:
    for index, (task, expected) in enumerate(zip(tasks(), label_maps(), strict=True)):
        assert task["data"] == {"image": f"http://host/frames/{index}.jpg", "frame_index": index}
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "maskstream fake" and prediction["score"] == 0.8
        found = np.zeros(SIZE, np.uint8)
        for result in prediction["result"]:
            assert (result["type"], result["from_name"], result["to_name"]) == ("brushlabels", "mask", "image")
            assert (result["original_height"], result["original_width"]) == SIZE
            assert result["value"]["format"] == "rle"
            (label,) = result["value"]["brushlabels"]
            inside = read_brush(result["value"]["rle"]).reshape(*SIZE, 4)[..., 3] > 0
            found[inside] = {"swan": 1, "dog": 9}[label]
        assert np.array_equal(found, expected)


def parsed(info: ExportInfo) -> ElementTree.Element:
    return ElementTree.fromstring(b"".join(cvat_xml(info, events)))  # noqa: S314 - we wrote it


def test_cvat_images_have_a_mask_for_each_visible_object() -> None:
    root = parsed(INFO)
    assert root.tag == "annotations" and root.findtext("version") == "1.1"
    assert [(label.findtext("name"), label.findtext("type")) for label in root.iter("label")] == [
        ("swan", "mask"),
        ("dog", "mask"),
    ]
    images = root.findall("image")
    for index, (image, expected) in enumerate(zip(images, label_maps(), strict=True)):
        size = {"width": str(SIZE[1]), "height": str(SIZE[0])}
        assert image.attrib == {"id": str(index), "name": f"frame_{index:06d}", **size}
        found = np.zeros(SIZE, np.uint8)
        for mask in image.findall("mask"):
            assert set(mask.attrib) == {
                *("label", "source", "occluded", "rle", "left", "top", "width", "height", "z_order"),
            }
            box = [int(mask.attrib[side]) for side in ("left", "top", "width", "height")]
            found[read_box(mask.attrib["rle"], *box)] = {"swan": 1, "dog": 9}[mask.attrib["label"]]
        assert np.array_equal(found, expected)


def test_cvat_keeps_the_names_of_an_image_sequence_and_escapes_what_clients_named() -> None:
    info = replace(INFO, objects={1: 'a "<swan>" & co', 9: "dog"}, frame_names={0: "a&b.jpg", 1: "c.jpg", 2: "d.jpg"})
    root = parsed(info)
    assert [image.attrib["name"] for image in root.findall("image")] == ["a&b.jpg", "c.jpg", "d.jpg"]
    assert root.findall("image")[0].findall("mask")[0].attrib["label"] == 'a "<swan>" & co'


def test_objects_of_one_name_get_labels_that_differ() -> None:
    info = replace(INFO, objects={1: "fish", 4: "fish", 9: "dog"})
    assert label_names(info) == {1: "fish (1)", 4: "fish (4)", 9: "dog"}
