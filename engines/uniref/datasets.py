"""Published data layouts of the training stages: boxes with class names, referring expressions, few-shot pairs.

Reads what is on disk; fetches nothing, and no pickles: RefCOCO's original `refs(unc).p` has to be the JSON that the
released training code uses. Knows no network.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engines.errors import TrainingDataError
from engines.prompts.colours import to_lab
from engines.types import Frame
from engines.uniref.losses import colour_similarity, subsample
from engines.uniref.mask_head import STRIDE
from engines.uniref.training import Targets, target_boxes

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TextSample:
    """One object of a picture and a text that means it.

    box: x, y, width, height in pixels. polygons: its outline, x and y by turns; empty where only the box is known.
    """

    image: Path
    text: str
    box: tuple[float, float, float, float]
    polygons: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class PairSample:
    """Two pictures with an object of one class, and their masks."""

    support: tuple[Path, Path]
    query: tuple[Path, Path]


def objects365(annotations: Path, images: Path) -> Iterator[TextSample]:
    """Objects365 (COCO layout): boxes, with the class name as the text. Only classes that a picture shows once.

    annotations: `zhiyuan_objv2_train.json`. images: the folder that `file_name` is relative to.
    Raises TrainingDataError.
    """
    data = _read(annotations, ("images", "annotations", "categories"))
    names = {each["id"]: str(each["name"]).lower() for each in data["categories"]}
    of_image = defaultdict(list)
    for each in data["annotations"]:
        of_image[each["image_id"]].append(each)
    for picture in data["images"]:
        found = of_image[picture["id"]]
        shown = Counter(each["category_id"] for each in found)
        for each in found:
            if shown[each["category_id"]] == 1 and not each.get("iscrowd", 0):
                yield TextSample(images / picture["file_name"], names[each["category_id"]], _box(each, annotations))


def referring(annotations: Path, images: Path) -> Iterator[TextSample]:
    """RefCOCO, RefCOCO+ and RefCOCOg in the JSON of the released code: a picture entry per object, its texts beside it.

    A picture entry holds `expressions` (a list) or `caption`, and has one annotation. Raises TrainingDataError.
    """
    data = _read(annotations, ("images", "annotations"))
    of_image = {each["image_id"]: each for each in data["annotations"]}
    for picture in data["images"]:
        target = of_image.get(picture["id"])
        if target is None:
            raise TrainingDataError(f"{annotations}: picture {picture['id']} has no annotation")
        texts = picture.get("expressions") or [picture.get("caption", "")]
        for text in texts:
            if str(text).strip():
                yield TextSample(
                    images / picture["file_name"], str(text), _box(target, annotations), _polygons(target, annotations)
                )


def few_shot(folder: Path) -> Iterator[PairSample]:
    """FSS-1000: `<class>/N.jpg` beside `<class>/N.png`. Every picture is once the query of its predecessor.

    Raises TrainingDataError for a picture without a mask, or when there is no class with two.
    """
    seen = False
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        pairs = [(image, image.with_suffix(".png")) for image in sorted(kind.glob("*.jpg"))]
        missing = next((mask for _, mask in pairs if not mask.is_file()), None)
        if missing is not None:
            raise TrainingDataError(f"there is no mask {missing}")
        if len(pairs) > 1:
            seen = True
            for index, query in enumerate(pairs):
                yield PairSample(pairs[index - 1], query)
    if not seen:
        raise TrainingDataError(f"{folder}: no folder with two pictures `N.jpg` and their masks `N.png`")


def read_picture(path: Path) -> Frame:
    """[H, W, 3] RGB."""
    return np.asarray(Image.open(path).convert("RGB"))


def read_mask(path: Path) -> Mask:
    """[H, W] bool: more than half bright."""
    return np.asarray(Image.open(path).convert("L")) > 127


def sample_mask(sample: TextSample, height: int, width: int) -> Mask:
    """[H, W] bool: the object, or its filled box where only that is known."""
    import cv2

    canvas = np.zeros((height, width), np.uint8)
    if sample.polygons:
        for outline in sample.polygons:
            points = np.round(np.asarray(outline, np.float64).reshape(-1, 2)).astype(np.int32)
            cv2.fillPoly(canvas, [points], 1)
    else:
        x, y, w, h = sample.box
        canvas[max(0, round(y)) : max(1, round(y + h)), max(0, round(x)) : max(1, round(x + w))] = 1
    return canvas > 0


def mask_targets(masks: Sequence[Mask]) -> Targets:
    """Targets of pictures of one size whose objects' masks are known."""
    stacked = torch.from_numpy(np.stack(masks)).float()
    return Targets(target_boxes(stacked), stacked)


def box_targets(frames: Sequence[Frame], boxes: Sequence[Mask]) -> Targets:
    """Targets of pictures of one size, sides multiples of 4, of which only boxes (filled, [H, W]) are known."""
    filled = torch.from_numpy(np.stack(boxes)).float()
    lab: Tensor = torch.from_numpy(np.stack([to_lab(frame).transpose(2, 0, 1) for frame in frames]))
    small = subsample(lab, STRIDE)
    inside = torch.ones(small.shape[0], *small.shape[2:], dtype=torch.bool)
    return Targets(target_boxes(filled), filled, colour_similarity(small, inside))


def _read(path: Path, wanted: Sequence[str]) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingDataError(f"cannot read {path}: {error}") from error
    missing = [name for name in wanted if not isinstance(data, dict) or name not in data]
    if missing:
        raise TrainingDataError(f"{path} has no {', '.join(missing)}; it should be laid out as COCO's annotations are")
    return dict(data)


def _box(annotation: Mapping[str, Any], path: Path) -> tuple[float, float, float, float]:
    box = annotation.get("bbox", ())
    if len(box) != 4 or box[2] <= 0 or box[3] <= 0:
        raise TrainingDataError(f"{path}: annotation {annotation.get('id')} has no usable bbox, but {box!r}")
    return float(box[0]), float(box[1]), float(box[2]), float(box[3])


def _polygons(annotation: Mapping[str, Any], path: Path) -> tuple[tuple[float, ...], ...]:
    outlines = annotation.get("segmentation", [])
    if not isinstance(outlines, list):
        raise TrainingDataError(f"{path}: annotation {annotation.get('id')} is run-length coded; polygons are read")
    return tuple(tuple(float(value) for value in outline) for outline in outlines if len(outline) >= 6)
