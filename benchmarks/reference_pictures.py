"""Pictures of docs/references.md: what each kind of reference becomes on the demo clip's first frame.

python -m benchmarks.reference_pictures docs/images
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.prompts.resolver import ReferenceResolver
from engines.prompts.window import Box, Point
from engines.registry import create
from service.demo_clip import render
from service.overlay import draw_overlay

FRAMES = 9
TEXT = "the orange one"


def main(folder: Path) -> None:
    """Resolve each kind and write one JPEG for it."""
    folder.mkdir(parents=True, exist_ok=True)
    clip = list(render(FRAMES))
    frames = [item.image for item in clip[::2]]
    truth = clip[0].label_map
    resolver, engine = ReferenceResolver("cpu"), create("fake", device="cpu")
    x, y, width, height = box_of(truth == 1)
    box, click = Box(x - 4, y - 4, width + 8, height + 8), centre_of(truth == 2)
    exemplar = clip[-1]
    masks = {
        "mask": truth,
        "box": one(resolver.box(frames[0], box).mask),
        "point": one(resolver.points(frames[0], [Point(*click)]).mask),
        "text": one(resolver.text(frames, TEXT, engine).mask),
        "exemplar": one(resolver.exemplar(frames, exemplar.image, as_map(exemplar.label_map == 3), engine).mask),
        "auto": resolver.find_objects(frames, 3),
    }
    for kind, label_map in masks.items():
        picture = draw_overlay(frames[0], label_map)
        if kind == "box":
            corners = (int(box.x), int(box.y)), (int(box.x + box.width), int(box.y + box.height))
            cv2.rectangle(picture, *corners, (255, 255, 255), 2)
        if kind == "point":
            cv2.drawMarker(picture, (int(click[0]), int(click[1])), (255, 255, 255), cv2.MARKER_CROSS, 14, 2)
        Image.fromarray(picture).save(folder / f"reference-{kind}.jpg", quality=88)
        print(kind, {int(v): round(best_iou(label_map == v, truth), 3) for v in np.unique(label_map) if v})


def one(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return mask.astype(np.uint8)


def as_map(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return mask.astype(np.uint8)


def box_of(mask: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return float(x), float(y), float(width), float(height)


def centre_of(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """The pixel of a mask that lies deepest inside."""
    depth = np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5))
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x), float(y)


def best_iou(mask: NDArray[np.bool_], truth: NDArray[np.uint8]) -> float:
    return max(float((mask & (truth == v)).sum() / (mask | (truth == v)).sum()) for v in np.unique(truth) if v)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
