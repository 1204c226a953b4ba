"""Random smooth paths and the sampling grids they mean. Knows coordinates only, no pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Rng = np.random.Generator
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MotionConfig:
    """Ranges of motion per sampled frame.

    speed_px: log-uniform step length, pixels at a short side of 480. turn_deg, growth, shear: standard deviations per
    step of the ordinary case; a share `wild` of the paths is four times as restless. bend: elastic field, share of the
    crop.
    """

    speed_px: tuple[float, float] = (1.0, 60.0)
    turn_deg: float = 3.0
    growth: float = 0.05
    shear: float = 0.02
    wild: float = 0.25
    bend: float = 0.02


@dataclass(frozen=True)
class MotionPath:
    """Pose per frame relative to the first: shift [T, 2] (x, y) output pixels; turn (rad), log_scale, shear: [T]."""

    shift: Floats
    turn: Floats
    log_scale: Floats
    shear: Floats

    def followed_by(self, other: MotionPath) -> MotionPath:
        """Both motions together (small rotations: poses simply add)."""
        return MotionPath(
            self.shift + other.shift,
            self.turn + other.turn,
            self.log_scale + other.log_scale,
            self.shear + other.shear,
        )


def random_path(rng: Rng, frames: int, pixels_per_px480: float, config: MotionConfig, speed: float = 1.0) -> MotionPath:
    """A path with one typical speed whose direction drifts. `speed` scales the step length."""
    low, high = config.speed_px
    step = np.exp(rng.uniform(np.log(low), np.log(high))) * pixels_per_px480 * speed
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.6, frames))
    length = step * np.exp(rng.normal(0, 0.4, frames))
    moves = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length[:, None]
    restless = 4.0 if rng.random() < config.wild else 1.0

    def drift(deviation: float) -> Floats:
        trend = rng.normal(0, deviation * restless)
        steps = trend + rng.normal(0, deviation * restless * 0.5, frames)
        return np.concatenate([[0.0], np.cumsum(steps[1:])])

    shift = np.concatenate([np.zeros((1, 2)), np.cumsum(moves[1:], axis=0)])
    return MotionPath(
        shift, drift(np.deg2rad(config.turn_deg)), np.clip(drift(config.growth), -0.8, 0.8), drift(config.shear)
    )


def leave_and_return(rng: Rng, path: MotionPath, crop_px: int) -> MotionPath:
    """The same path, but the object is out of view for some frames after the first and comes back elsewhere."""
    frames = len(path.turn)
    first = int(rng.integers(1, frames))
    last = int(rng.integers(first, frames))
    shift = path.shift.copy()
    away = rng.uniform(0, 2 * np.pi)
    shift[first : last + 1] = 2.5 * crop_px * np.array([np.cos(away), np.sin(away)])
    shift[last + 1 :] = rng.uniform(-0.4, 0.4, 2) * crop_px
    return MotionPath(shift, path.turn, path.log_scale, path.shear)


@dataclass(frozen=True)
class Placement:
    """Where a source picture lies in the first output frame.

    anchor: (x, y) in source pixels, shown at `position`, output pixels. scale: source pixels per output pixel.
    """

    anchor: tuple[float, float]
    position: tuple[float, float]
    scale: float
    mirrored: bool = False


def source_positions(
    placement: Placement, path: MotionPath, crop_px: int, bend: Tensor | None
) -> tuple[Tensor, Tensor]:
    """x and y, each [T, S, S] float32: the source pixel that each output pixel shows.

    bend: [T, 2, S, S] elastic offsets (x, y) in output pixels.
    """
    axis = torch.arange(crop_px, dtype=torch.float32)
    centre = torch.as_tensor(np.asarray(placement.position) + path.shift, dtype=torch.float32)
    right, down = axis - centre[:, :1], axis - centre[:, 1:]  # [T, S]
    matrix = _matrices(placement, path)[..., None, None]  # [T, 2, 2, 1, 1]
    positions = []
    for row, origin in enumerate(placement.anchor):
        along, across = matrix[:, row, 0], matrix[:, row, 1]
        position = (right[:, None] * along + origin) + down[:, :, None] * across
        if bend is not None:
            position = position + bend[:, 0] * along + bend[:, 1] * across
        positions.append(position)
    return positions[0], positions[1]


def _matrices(placement: Placement, path: MotionPath) -> Tensor:
    """[T, 2, 2] output offset to source offset."""
    cos, sin = np.cos(-path.turn), np.sin(-path.turn)
    rotation = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    rotation[:, 0, 1] += path.shear
    scale = placement.scale * np.exp(-path.log_scale)
    if placement.mirrored:
        rotation[:, 0] *= -1
    return torch.as_tensor(rotation * scale[:, None, None], dtype=torch.float32)


def elastic(rng: Rng, frames: int, crop_px: int, amplitude: float) -> Tensor:
    """[T, 2, S, S] smooth offsets in output pixels that grow from none in the first frame."""
    knots = np.cumsum(rng.normal(0, amplitude * crop_px, (frames, 2, 4, 4)), axis=0)
    knots -= knots[:1]
    field = torch.as_tensor(knots, dtype=torch.float32)
    field = F.interpolate(field, size=(11, 11), mode="bicubic", align_corners=True)
    return F.interpolate(field, size=(crop_px, crop_px), mode="bilinear", align_corners=True)
