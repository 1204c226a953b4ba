"""Training clips: real ones cut and sped up, and made-up ones in which every pixel's motion is known.

The batch of a step is a function of (seed, step) alone, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.errors import TrainingDataError
from engines.training.layers2d import Layer, Scene, bar, blob, paint
from engines.training.motion import MotionConfig, MotionPath, Placement, Rng, leave_and_return, random_path
from engines.training.pool import RealClip, Still, TrainingPool, fill_holes, object_cutouts
from engines.types import IGNORE_LABEL

_TRIES = 6


@dataclass(frozen=True)
class ClipConfig:
    """What a batch is made of.

    net_short_side: the size at which the clip would be served; it sets how many pixels a "pixel at 480p" is.
    real: share of real clips; of the rest, in_place + composite + regions are shares of the three made-up kinds.
    """

    crop_px: int = 161
    frames: int = 3
    net_short_side: int = 256
    max_objects: int = 4
    real: float = 0.3
    in_place: float = 0.35
    composite: float = 0.35
    leave: float = 0.15
    max_gap: int = 4
    motion: MotionConfig = field(default_factory=MotionConfig)


@dataclass(frozen=True)
class ClipBatch:
    """frames: [B, T, 3, S, S] float 0..1. labels: [B, T, S, S] uint8, ids 1..K or IGNORE_LABEL.

    origin: [B, T, n, n, 3], see Scene.
    """

    frames: Tensor
    labels: Tensor
    origin: Tensor


class ClipGenerator:
    """Draws batches from a pool. Holds the pool and the settings, nothing of the run."""

    def __init__(self, pool: TrainingPool, config: ClipConfig, *, seed: int = 0) -> None:
        self._pool, self._config, self._seed = pool, config, seed
        self._objects = [s for s in pool.stills if s.kind == "objects" and object_cutouts(s.labels.numpy())]
        self._regions = [s for s in pool.stills if s.kind == "regions"] or self._objects
        if not pool.clips and not self._objects:
            raise TrainingDataError("the training data holds neither clips nor stills with objects of a usable size")

    def batch(self, step: int, size: int) -> ClipBatch:
        """The `size` clips of one step."""
        made = [self._clip(np.random.default_rng((self._seed, step, index))) for index in range(size)]
        return ClipBatch(*(torch.stack(list(parts)) for parts in zip(*made, strict=True)))

    def _clip(self, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
        for attempt in range(_TRIES):
            scene = self._scene(rng)
            labels = _keep_seen_objects(scene.labels, self._config.max_objects, least=4.0 ** (2 - attempt) * 16)
            if bool(_objects(labels[0]).any()):
                break
        return _photometric(scene.pixels, rng), labels, scene.origin

    def _scene(self, rng: Rng) -> Scene:
        config = self._config
        if self._pool.clips and (not self._objects or rng.random() < config.real):
            layers = [self._real(rng)]
            if self._objects and rng.random() < 0.35:
                layers += self._pasted(rng, 200, 1)
        else:
            kind = rng.random()
            if kind < config.in_place:
                layers = self._in_place(rng)
            elif kind < config.in_place + config.composite:
                layers = [self._backdrop(rng, self._any_still(rng)), *self._pasted(rng, 100, int(rng.integers(1, 5)))]
            else:
                layers = [self._moving_regions(rng)]
        if self._objects and rng.random() < 0.25:
            layers.append(self._occluder(rng))
        return paint(layers, rng, config.frames, config.crop_px)

    def _path(self, rng: Rng, speed: float = 1.0) -> MotionPath:
        config = self._config
        return random_path(rng, config.frames, config.net_short_side / 480, config.motion, speed)

    def _any_still(self, rng: Rng) -> Still:
        return self._pool.stills[int(rng.integers(len(self._pool.stills)))]

    def _middle(self, rng: Rng, spread: float) -> tuple[float, float]:
        x, y = self._config.crop_px * (0.5 + rng.uniform(-spread, spread, 2))
        return float(x), float(y)

    def _real(self, rng: Rng) -> Layer:
        """A real clip: a window around an object, a gap between frames, forwards or backwards."""
        config = self._config
        clip = self._pool.clips[int(rng.integers(len(self._pool.clips)))]
        order = _frame_order(rng, clip, config)
        labels = clip.labels[order].float()
        scale = _short_side(clip.labels) / config.net_short_side / np.exp(rng.uniform(np.log(0.7), np.log(2.0)))
        seen = torch.nonzero(_objects(labels[0]))
        anchor = seen[int(rng.integers(len(seen)))].tolist() if len(seen) else [s // 2 for s in labels.shape[1:]]
        placement = Placement((anchor[1], anchor[0]), self._middle(rng, 0.3), float(scale), bool(rng.random() < 0.5))
        path = self._path(rng, 0.3 if rng.random() < 0.4 else 0.02)
        return Layer(clip.pixels[order].float() / 255, placement, path, labels=labels, known_motion=False)

    def _backdrop(self, rng: Rng, still: Still) -> Layer:
        """A still as unlabelled background with camera motion."""
        height, width = still.labels.shape
        scale = _short_side(still.labels) / self._config.net_short_side / np.exp(rng.uniform(-0.3, 0.7))
        anchor = (float(rng.uniform(0.2, 0.8) * width), float(rng.uniform(0.2, 0.8) * height))
        placement = Placement(anchor, self._middle(rng, 0.0), float(scale), bool(rng.random() < 0.5))
        unlabelled = torch.zeros(1, height, width)
        path = self._path(rng, 0.4)
        return Layer(still.pixels[None].float() / 255, placement, path, labels=unlabelled, bend=_bend(rng, 0.01))

    def _in_place(self, rng: Rng) -> list[Layer]:
        """An object over its own, filled-in background, each with its own motion; or both moving as one."""
        still, ids = self._object_still(rng)
        coverage = torch.isin(still.labels, torch.tensor(ids, dtype=torch.uint8))
        unknown = still.labels == IGNORE_LABEL
        placement = self._placed(rng, coverage, spread=0.2, backdrop=True)
        camera, pixels = self._path(rng, 0.4), still.pixels.float() / 255
        if rng.random() < 0.3:
            labels = torch.where(coverage | unknown, still.labels, 0).float()[None]
            return [Layer(pixels[None], placement, self._path(rng), labels=labels, bend=_bend(rng, 0.03))]
        behind = fill_holes(pixels, F.max_pool2d(coverage[None].float(), 5, 1, 2)[0] > 0)
        ground = torch.where(unknown, float(IGNORE_LABEL), 0.0)[None]
        layers = [Layer(behind[None], placement, camera, labels=ground, bend=_bend(rng, 0.01))]
        for number, i in enumerate(ids):
            path = self._maybe_leaving(rng, camera.followed_by(self._path(rng)))
            alpha = _feathered(rng, still.labels == i)
            layers.append(Layer(pixels[None], placement, path, alpha, None, number + 1, bend=_bend(rng, 0.03)))
        return layers

    def _moving_regions(self, rng: Rng) -> Layer:
        """A segmented picture that moves and bends; some of its regions are the objects."""
        still = self._regions[int(rng.integers(len(self._regions)))]
        ids = [int(i) for i in np.unique(still.labels.numpy()) if 0 < i < 255]
        rng.shuffle(ids)
        chosen = still.labels.new_zeros(256)
        for i in ids[: int(rng.integers(1, 7))]:
            chosen[i] = int(rng.integers(1, self._config.max_objects + 1))  # equal ids: a union of regions
        chosen[IGNORE_LABEL] = IGNORE_LABEL
        labels = chosen[still.labels.long()]
        placement = self._placed(rng, _objects(labels), spread=0.3, backdrop=True)
        path = self._path(rng, float(rng.uniform(0.3, 1.0)))
        return Layer(
            still.pixels[None].float() / 255, placement, path, labels=labels[None].float(), bend=_bend(rng, 0.04)
        )

    def _pasted(self, rng: Rng, first_id: int, count: int) -> list[Layer]:
        """Cut-out objects or shapes with paths of their own, some unlabelled, some with a twin that is no object."""
        layers: list[Layer] = []
        for number in range(count):
            labelled = (number == 0 and first_id < 200) or rng.random() < 0.7
            layer = self._cutout(rng, first_id + number if labelled else 0)
            layers.append(layer)
            if labelled and rng.random() < 0.3:
                twin = replace(layer.placement, position=self._middle(rng, 0.45), mirrored=bool(rng.random() < 0.5))
                place = int(rng.integers(len(layers)))
                layers.insert(place, replace(layer, placement=twin, path=self._path(rng, 0.7), object_id=0))
        return layers

    def _cutout(self, rng: Rng, object_id: int) -> Layer:
        if rng.random() < 0.25:
            still = self._any_still(rng)
            mask = blob(rng, *still.labels.shape)
            coverage, alpha = mask > 0.5, mask[None]
        else:
            still, ids = self._object_still(rng)
            coverage = still.labels == ids[0]
            alpha = _feathered(rng, coverage)
        path = self._maybe_leaving(rng, self._path(rng))
        pixels = still.pixels[None].float() / 255
        if not bool(coverage.any()):
            coverage = torch.ones_like(coverage)
        placement = self._placed(rng, coverage, spread=0.4)
        return Layer(_tinted(rng, pixels), placement, path, alpha, None, object_id, bend=_bend(rng, 0.03))

    def _occluder(self, rng: Rng) -> Layer:
        still = self._any_still(rng)
        alpha = bar(rng, *still.labels.shape)
        scale = float(max(still.labels.shape)) / self._config.crop_px / rng.uniform(0.6, 2.0)
        anchor = (still.labels.shape[1] / 2, still.labels.shape[0] / 2)
        placement = Placement(anchor, self._middle(rng, 0.5), scale)
        return Layer(still.pixels[None].float() / 255, placement, self._path(rng, 0.6), alpha[None])

    def _object_still(self, rng: Rng) -> tuple[Still, list[int]]:
        still = self._objects[int(rng.integers(len(self._objects)))]
        ids = object_cutouts(still.labels.numpy())
        rng.shuffle(ids)
        return still, ids[: self._config.max_objects]

    def _placed(self, rng: Rng, coverage: Tensor, *, spread: float, backdrop: bool = False) -> Placement:
        """A placement that shows `coverage` at a random size near the middle; a backdrop also fills the crop."""
        y, x = torch.nonzero(coverage).float().mean(dim=0).tolist()
        wanted_px = self._config.crop_px * np.exp(rng.uniform(np.log(0.15), np.log(0.7)))
        widest = 1.1 * _short_side(coverage) / self._config.crop_px if backdrop else 4.0
        scale = float(np.clip(np.sqrt(int(coverage.sum())) / wanted_px, 0.35, widest))
        return Placement((x, y), self._middle(rng, spread), scale, bool(rng.random() < 0.5))

    def _maybe_leaving(self, rng: Rng, path: MotionPath) -> MotionPath:
        return leave_and_return(rng, path, self._config.crop_px) if rng.random() < self._config.leave else path


def _objects(labels: Tensor) -> Tensor:
    """Where a label map shows an object."""
    return (labels > 0) & (labels != IGNORE_LABEL)


def _short_side(labels: Tensor) -> int:
    return min(labels.shape[-2:])


def _bend(rng: Rng, amplitude: float) -> float:
    return float(rng.uniform(0, amplitude)) if rng.random() < 0.6 else 0.0


def _frame_order(rng: Rng, clip: RealClip, config: ClipConfig) -> list[int]:
    count, frames = len(clip.labels), config.frames
    gap = int(rng.integers(1, max(1, min(config.max_gap, (count - 1) // max(frames - 1, 1))) + 1))
    start = int(rng.integers(0, max(1, count - gap * (frames - 1))))
    order = [min(start + gap * t, count - 1) for t in range(frames)]
    return order[::-1] if rng.random() < 0.5 else order


def _feathered(rng: Rng, coverage: Tensor) -> Tensor:
    alpha = coverage.float()[None]
    return F.avg_pool2d(alpha, 3, 1, 1) if rng.random() < 0.6 else alpha


def _tinted(rng: Rng, pixels: Tensor) -> Tensor:
    """A cut-out seldom keeps the light of the scene that it was taken from."""
    gain = torch.as_tensor(rng.normal(1, 0.12, (1, 3, 1, 1)), dtype=torch.float32)
    return (pixels * gain + float(rng.normal(0, 0.06))).clamp(0, 1)


def _keep_seen_objects(labels: Tensor, most: int, least: float) -> Tensor:
    """Objects with `least` pixels in the first frame get ids 1, 2, ...; all others but IGNORE_LABEL are background."""
    table = labels.new_zeros(256)
    table[IGNORE_LABEL] = IGNORE_LABEL
    counts = torch.bincount(labels[0].flatten().long(), minlength=256)
    ids = [int(i) for i in torch.argsort(counts[1:255], descending=True)[:most] + 1 if counts[i] >= least]
    for number, i in enumerate(ids):
        table[i] = number + 1
    return table[labels.long()]


def _photometric(pixels: Tensor, rng: Rng) -> Tensor:
    """Light, colour, blur and noise: some for the whole clip, some from frame to frame."""
    frames = pixels.shape[0]
    if rng.random() < 0.15:
        pixels = pixels.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    gain = np.exp(rng.normal(0, 0.12) + np.cumsum(rng.normal(0, 0.04, frames)))
    tint = np.exp(rng.normal(0, 0.06, (1, 3)) + rng.normal(0, 0.015, (frames, 3)))
    pixels = pixels * torch.as_tensor(gain[:, None] * tint, dtype=torch.float32)[..., None, None]
    pixels = (pixels + float(rng.normal(0, 0.05))).clamp(0, 1)
    if rng.random() < 0.25:
        length = int(rng.choice([3, 5]))
        kernel, padding = ((1, length), (0, length // 2)) if rng.random() < 0.5 else ((length, 1), (length // 2, 0))
        pixels = F.avg_pool2d(pixels, kernel, 1, padding, count_include_pad=False)
    if rng.random() < 0.4:
        noise = torch.as_tensor(rng.standard_normal(pixels.shape, dtype=np.float32))
        pixels = (pixels + float(rng.uniform(0.01, 0.05)) * noise).clamp(0, 1)
    return pixels
