"""The run that made engines/starter/spatial-embeddings.safetensors: stills cropped and recoloured, others pasted in.

    python -m benchmarks.train_spatial_embeddings TRAINING_IMAGES OUT.safetensors --minutes 78

The rate falls with the clock, so that a run on a shared machine ends well whenever it must end. `maskstream train
spatial-embeddings` trains by steps instead, resumes, and draws its pictures from clips.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from engines.errors import TrainingDataError
from engines.spatial_embeddings.config import STARTER, LossConfig
from engines.spatial_embeddings.losses import spatial_embedding_loss
from engines.spatial_embeddings.model import BranchedERFNet
from engines.spatial_embeddings.training import STARTER_SIGMA_BIAS
from engines.training.pool import Still, TrainingPool, load_pool, object_cutouts
from engines.types import Frame, LabelMap

RATE, WEIGHT_DECAY, POWER, BATCH, AVERAGE, PLAIN_SEEDS = 5e-4, 1e-4, 0.9, 6, 0.998, 0.05
HELD_OUT = 15  # every 15th still with objects is left out, for validation
_MIN_SHARE = 0.003  # an instance that shows less of itself than this share of the picture is no target


@dataclass(frozen=True)
class SceneConfig:
    """size: height and width of a picture in pixels. paste: chance of a composite; it gets 1 to max_pasted objects."""

    size: tuple[int, int] = (160, 224)
    paste: float = 0.4
    max_pasted: int = 3


@dataclass(frozen=True)
class SceneBatch:
    """images: [B, 3, H, W] float 0..1. instances: [B, H, W] int64, 0 none."""

    images: Tensor
    instances: Tensor


class SceneGenerator:
    """Draws batches from the stills of a pool, and from single frames of its clips."""

    def __init__(self, pool: TrainingPool, config: SceneConfig, *, seed: int = 0) -> None:
        self._config, self._seed = config, seed
        self._items = [_as_arrays(still) for still in pool.stills if still.kind == "objects"]
        for clip in pool.clips:
            for index in range(0, len(clip.pixels), 10):
                self._items.append(_as_arrays(Still(clip.name, clip.pixels[index], clip.labels[index])))
        self._items = [item for item in self._items if object_cutouts(item[1])]
        if not self._items:
            raise TrainingDataError("the training data holds no picture with an object of a usable size")

    def batch(self, step: int, count: int) -> SceneBatch:
        """The `count` pictures of one step."""
        made = [self._scene(np.random.default_rng((self._seed, step, index))) for index in range(count)]
        images = torch.from_numpy(np.stack([image for image, _ in made]).transpose(0, 3, 1, 2).copy())
        labels = torch.from_numpy(np.stack([label_map for _, label_map in made]).astype(np.int64))
        return SceneBatch(images.float() / 255.0, labels)

    def _scene(self, rng: np.random.Generator) -> tuple[Frame, LabelMap]:
        image, label_map = _crop(*self._item(rng), self._config.size, rng)
        if rng.random() < self._config.paste:
            for _ in range(int(rng.integers(1, self._config.max_pasted + 1))):
                _paste(image, label_map, *self._item(rng), rng)
        return _recolour(image, rng), _without_slivers(label_map)

    def _item(self, rng: np.random.Generator) -> tuple[Frame, LabelMap]:
        return self._items[int(rng.integers(len(self._items)))]


def _as_arrays(still: Still) -> tuple[Frame, LabelMap]:
    labels: LabelMap = still.labels.numpy()
    pixels = np.ascontiguousarray(still.pixels.numpy().transpose(1, 2, 0))
    ids = np.unique(labels[(labels > 0) & (labels < 255)])
    return pixels, _split_parts(labels) if len(ids) == 1 else np.where(labels == 255, 0, labels).astype(np.uint8)


def _split_parts(labels: LabelMap) -> LabelMap:
    """Large separate parts of a saliency mask become objects of their own: two birds are two."""
    mask = ((labels > 0) & (labels < 255)).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    areas = stats[1:count, cv2.CC_STAT_AREA]
    if count < 2:
        return mask
    large = np.flatnonzero(areas > 0.2 * areas.sum()) + 1
    if len(large) < 2:
        return mask
    result = np.zeros_like(mask)
    for number, part in enumerate(large, start=1):
        result[parts == part] = number
    return result


def _crop(image: Frame, labels: LabelMap, size: tuple[int, int], rng: np.random.Generator) -> tuple[Frame, LabelMap]:
    """A random window of 50 to 110 % of the side, turned a little, flipped half of the time, scaled to `size`."""
    height, width = labels.shape
    out_height, out_width = size
    zoom = rng.uniform(0.5, 1.1) if rng.random() < 0.6 else 1.0
    scale_x = out_width / (width * zoom) * (-1 if rng.random() < 0.5 else 1)
    scale_y = out_height / (height * zoom)
    angle = rng.normal(0.0, 0.1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.diag([scale_x, scale_y])
    slack = max(0.0, 1.0 - zoom) / 2
    centre = np.array([width * (0.5 + rng.uniform(-slack, slack)), height * (0.5 + rng.uniform(-slack, slack))])
    shift = np.array([out_width / 2, out_height / 2]) - matrix @ centre
    affine = np.column_stack([matrix, shift])
    flags = cv2.INTER_AREA if abs(scale_x) < 1 else cv2.INTER_LINEAR
    pixels = cv2.warpAffine(image, affine, (out_width, out_height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    moved = cv2.warpAffine(labels, affine, (out_width, out_height), flags=cv2.INTER_NEAREST)
    return np.asarray(pixels, np.uint8), np.asarray(moved, np.uint8)


def _paste(image: Frame, labels: LabelMap, source: Frame, source_labels: LabelMap, rng: np.random.Generator) -> None:
    """Put one object of another picture on top, with a soft edge; it gets the next free id."""
    choices = object_cutouts(source_labels)
    mask = (source_labels == choices[int(rng.integers(len(choices)))]).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(mask)
    out_height, out_width = labels.shape
    scale = np.sqrt(rng.uniform(0.02, 0.25) * out_height * out_width / max(1, int(mask.sum())))
    target = (rng.uniform(0.1, 0.9) * out_width, rng.uniform(0.2, 0.9) * out_height)
    flip = -1.0 if rng.random() < 0.5 else 1.0
    affine = np.array(
        [
            [flip * scale, 0.0, target[0] - flip * scale * (x + width / 2)],
            [0.0, scale, target[1] - scale * (y + height / 2)],
        ]
    )
    pixels = cv2.warpAffine(source, affine, (out_width, out_height), borderMode=cv2.BORDER_REFLECT_101)
    inside = cv2.warpAffine(mask * np.uint8(255), affine, (out_width, out_height))
    soft = cv2.GaussianBlur(inside, (0, 0), 0.8).astype(np.float32)[..., None] / 255.0
    image[:] = (image * (1.0 - soft) + pixels * soft).astype(np.uint8)
    labels[np.asarray(inside) > 127] = int(labels.max()) + 1


def _recolour(image: Frame, rng: np.random.Generator) -> Frame:
    """Other light: gain and offset per channel, gamma, sometimes grey, blurred or noisy."""
    pixels = image.astype(np.float32) / 255.0
    pixels = pixels ** rng.uniform(0.7, 1.4) * rng.uniform(0.85, 1.15, 3) + rng.normal(0.0, 0.03, 3)
    if rng.random() < 0.1:
        pixels = np.repeat(pixels.mean(2, keepdims=True), 3, axis=2)
    if rng.random() < 0.3:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.3, 1.2))))
    if rng.random() < 0.3:
        pixels = pixels + rng.normal(0.0, rng.uniform(0.0, 0.04), pixels.shape)
    return np.asarray(np.clip(pixels * 255.0, 0, 255), np.uint8)


def _without_slivers(labels: LabelMap) -> LabelMap:
    counts: NDArray[np.int64] = np.bincount(labels.ravel(), minlength=256)
    return np.where(counts[labels] < _MIN_SHARE * labels.size, 0, labels).astype(np.uint8)


def step_loss(model: nn.Module, batch: SceneBatch, done: float) -> Tensor:
    """The loss of one step; the first twentieth adds plain cross entropy on the seeds. done: share of the run."""
    with torch.autocast("cpu", torch.bfloat16):
        maps: Tensor = model(batch.images.contiguous(memory_format=torch.channels_last))
    maps, labels = maps.float(), (batch.instances > 0).long()
    terms = spatial_embedding_loss(maps, batch.instances, labels, LossConfig(num_sigmas=2))
    plain = F.binary_cross_entropy_with_logits(maps[:, 4], labels.float()) if done < PLAIN_SEEDS else 0.0
    return terms.total + plain


@torch.no_grad()
def average_into(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Exponential average of all floating values, running statistics included."""
    for ours, theirs in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if ours.is_floating_point():
            ours.lerp_(theirs, 1.0 - decay)


def train(scenes: SceneGenerator, limit_s: float) -> BranchedERFNet:
    """Train until the time is up; returns the averaged network."""
    model, averaged = BranchedERFNet(STARTER), BranchedERFNet(STARTER)
    model.reset_output(STARTER_SIGMA_BIAS)
    averaged.load_state_dict(model.state_dict())
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    began, step = time.monotonic(), 0
    while (done := (time.monotonic() - began) / limit_s) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1.0 - done) ** POWER
        loss = step_loss(model, scenes.batch(step, BATCH), done)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        average_into(averaged, model, min(AVERAGE, (1 + step) / (10 + step)))
        step += 1
        if step % 25 == 0:
            print(step, round(time.monotonic() - began), f"{loss.item():.4f}", flush=True)
    return averaged


def main() -> None:
    """Read the images, train, write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=78.0)
    options = parser.parse_args()
    torch.manual_seed(0)
    stills = [still for still in load_pool(options.images, short_side=208).stills if still.kind == "objects"]
    held_out = {still.name for still in stills[::HELD_OUT]}
    pool = TrainingPool(tuple(still for still in stills if still.name not in held_out), ())
    network = train(SceneGenerator(pool, SceneConfig()), options.minutes * 60.0)
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    facts = {"schema": "1", "engine": "spatial-embeddings", "net_short_side": "160", "refine_top": "5"}
    save_file(halves, options.out, metadata={**facts, "licence": "that of your data"})


if __name__ == "__main__":
    main()
