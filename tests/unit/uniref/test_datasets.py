"""Published data layouts on tiny files made by hand, down to a training loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.errors import TrainingDataError
from engines.uniref.config import VARIANTS
from engines.uniref.datasets import (
    box_targets,
    few_shot,
    mask_targets,
    objects365,
    read_mask,
    read_picture,
    referring,
    sample_mask,
)
from engines.uniref.losses import LossWeights
from engines.uniref.model import UniRef
from engines.uniref.preprocess import to_batch
from engines.uniref.training import batch_losses

PICTURE = {"id": 7, "file_name": "a.jpg", "height": 64, "width": 96}
DOG = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 20, 30, 16]}


def _json(folder: Path, **data: Any) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return path


def _picture(folder: Path, name: str) -> None:
    pixels = np.full((64, 96, 3), 60, np.uint8)
    pixels[20:36, 10:40] = (200, 40, 40)
    Image.fromarray(pixels).save(folder / name)


def test_objects365_gives_classes_that_a_picture_shows_once(tmp_path: Path) -> None:
    cup = {"image_id": 7, "category_id": 4, "bbox": [1, 1, 5, 5]}
    categories = [{"id": 3, "name": "Dog"}, {"id": 4, "name": "Cup"}, {"id": 5, "name": "Crowd"}]
    crowd = {"id": 4, "image_id": 7, "category_id": 5, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    path = _json(
        tmp_path, images=[PICTURE], annotations=[DOG, {**cup, "id": 2}, {**cup, "id": 3}, crowd], categories=categories
    )
    (sample,) = objects365(path, tmp_path)
    assert (sample.text, sample.image, sample.box, sample.polygons) == ("dog", tmp_path / "a.jpg", (10, 20, 30, 16), ())
    mask = sample_mask(sample, 64, 96)
    assert mask.sum() == 30 * 16 and mask[20, 10] and mask[35, 39] and not mask[36, 40]


def test_referring_gives_every_text_with_the_outline(tmp_path: Path) -> None:
    outline = [10, 20, 39, 20, 39, 35, 10, 35]
    pictures = [{**PICTURE, "expressions": ["the red dog", "left one"]}, {**PICTURE, "id": 8, "caption": "a dog"}]
    path = _json(
        tmp_path,
        images=pictures,
        annotations=[{**DOG, "segmentation": [outline]}, {**DOG, "image_id": 8, "segmentation": [outline]}],
    )
    samples = list(referring(path, tmp_path))
    assert [sample.text for sample in samples] == ["the red dog", "left one", "a dog"]
    assert sample_mask(samples[0], 64, 96).sum() == 30 * 16


def test_few_shot_pairs_pictures_of_one_class(tmp_path: Path) -> None:
    for kind in ("ant", "bee"):
        (tmp_path / kind).mkdir()
        for number in (1, 2, 3):
            _picture(tmp_path / kind, f"{number}.jpg")
            mask = np.zeros((64, 96), np.uint8)
            mask[20:36, 10:40] = 255
            Image.fromarray(mask).save(tmp_path / kind / f"{number}.png")
    pairs = list(few_shot(tmp_path))
    assert len(pairs) == 6 and all(pair.support[0].parent == pair.query[0].parent for pair in pairs)
    assert all(pair.support[0] != pair.query[0] for pair in pairs)
    assert read_mask(pairs[0].query[1]).sum() == 30 * 16
    (tmp_path / "ant" / "2.png").unlink()
    with pytest.raises(TrainingDataError, match=r"there is no mask .*2\.png"):
        list(few_shot(tmp_path))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"images": []}, "has no annotations, categories"),
        (
            {
                "images": [PICTURE],
                "annotations": [{**DOG, "bbox": [1, 2, 0, 4]}],
                "categories": [{"id": 3, "name": "x"}],
            },
            "no usable bbox",
        ),
    ],
)
def test_broken_files_are_named(tmp_path: Path, data: dict[str, Any], says: str) -> None:
    with pytest.raises(TrainingDataError, match=says):
        list(objects365(_json(tmp_path, **data), tmp_path))
    with pytest.raises(TrainingDataError, match="cannot read"):
        list(referring(tmp_path / "missing.json", tmp_path))


@pytest.mark.parametrize("with_masks", [True, False])
def test_a_sample_becomes_losses_with_gradients(tmp_path: Path, with_masks: bool) -> None:
    _picture(tmp_path, "a.jpg")
    path = _json(tmp_path, images=[PICTURE], annotations=[DOG], categories=[{"id": 3, "name": "dog"}])
    (sample,) = objects365(path, tmp_path)
    frame, filled = read_picture(sample.image), sample_mask(sample, 64, 96)
    targets = mask_targets([filled]) if with_masks else box_targets([frame], [filled])
    torch.manual_seed(0)
    model = UniRef(VARIANTS["uniref-t"])
    features = model.encode_image(to_batch([torch.from_numpy(frame.copy()).permute(2, 0, 1)]))
    detections = model.detect(features, [model.encode_text(torch.tensor([[0, 1]]), torch.ones(1, 2))])
    parts = batch_losses(model, detections, targets)
    assert ("projection" in parts, "dice" in parts) == (not with_masks, with_masks)
    total = LossWeights().total(parts)
    total.backward()
    controller = model.mask_head.controller
    assert torch.isfinite(total) and all(p.grad is not None and p.grad.abs().sum() > 0 for p in controller.parameters())
