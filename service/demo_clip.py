"""A short rendered clip with exact ground truth: three fish in a reef. Knows neither engines nor the network.

Everything is drawn from a seed, so that every machine shows the same clip and no footage has to be shipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

FRAMES = 48
FPS = 24
SEED = 7


@dataclass(frozen=True)
class Fish:
    """One swimmer. Lengths in units of the frame height; times in seconds; colours RGB."""

    object_id: int
    length: float
    start: tuple[float, float]
    speed: tuple[float, float]
    body: tuple[int, int, int]
    stripe: tuple[int, int, int]
    stripes: int
    beat_hz: float


# Drawn in this order: later fish swim in front of earlier ones, and the first two cross.
SCHOOL = (
    Fish(2, 0.34, (1.42, 0.36), (-0.36, 0.03), (58, 92, 190), (240, 214, 70), 0, 2.3),
    Fish(3, 0.20, (0.25, 0.78), (0.22, -0.10), (70, 160, 96), (28, 70, 48), 5, 3.0),
    Fish(1, 0.46, (0.42, 0.47), (0.30, 0.02), (236, 118, 30), (250, 244, 232), 3, 1.6),
)


@dataclass(frozen=True)
class DemoFrame:
    """image: [H, W, 3] RGB. label_map: [H, W] object ids 0..3."""

    index: int
    image: Image
    label_map: Image


def render(frames: int = FRAMES, height: int = 270, width: int = 480) -> Iterator[DemoFrame]:
    """Frames of the demo clip in display order, each with its exact label map."""
    for index in range(frames):
        time_s = index / FPS
        image = _reef(height, width, time_s)
        label_map = np.zeros((height, width), np.uint8)
        for fish in SCHOOL:
            _paint(image, label_map, fish, time_s)
        yield DemoFrame(index, _grain(_light(image, time_s), index), label_map)


@cache
def _noise(height: int, width: int, seed: int) -> Floats:
    """[H, W] smooth fractal noise in 0..1."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for octave in range(2, 7):
        cells = 2**octave
        grid = rng.random((cells, cells * 2), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) / 2.0 ** (octave * 0.9)
    low, high = float(total.min()), float(total.max())
    return ((total - low) / (high - low)).astype(np.float32)


def _ramp(values: Floats, colours: tuple[tuple[int, int, int], ...]) -> Image:
    """Map 0..1 to a colour ramp."""
    stops = np.linspace(0, 1, len(colours))
    table = np.array(colours, np.float32)
    channels = [np.interp(values, stops, table[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _reef(height: int, width: int, time_s: float) -> Image:
    """Background: a reef that the camera drifts along."""
    margin = width // 4
    wide = width + margin
    shift = int(margin * min(time_s / 2.0, 1.0))
    water = _ramp(_noise(height, wide, SEED), ((10, 44, 74), (22, 92, 120), (74, 150, 160)))
    coral = _ramp(_noise(height, wide, SEED + 1), ((58, 38, 44), (128, 84, 78), (176, 138, 110), (96, 120, 84)))
    floor = np.linspace(0, 1, height, dtype=np.float32)[:, None] + 0.5 * _noise(height, wide, SEED + 2) - 0.25
    blend = np.clip((floor - 0.62) * 12, 0, 1)[..., None]
    scene = water * (1 - blend) + coral * blend
    view: Image = scene[:, shift : shift + width].astype(np.uint8)
    return np.ascontiguousarray(view)


def _outline(fish: Fish, time_s: float) -> tuple[Floats, Floats]:
    """Body with tail, and fin: [n, 2] outlines in body units, nose at (0.5, 0), bent by the swimming wave."""
    along = np.linspace(0.5, -0.34, 40)
    half = 0.2 * np.sqrt(np.clip(1 - ((along - 0.06) / 0.44) ** 2, 0, 1)) + 0.035 * (along < -0.2)
    upper = np.stack([along, half], axis=1)
    lower = np.stack([along[::-1], -half[::-1]], axis=1)
    tail = np.array([[-0.36, 0.04], [-0.52, 0.17], [-0.46, 0.0], [-0.52, -0.17], [-0.36, -0.04]])
    fin = np.array([[0.12, -0.15], [-0.02, -0.29], [-0.2, -0.25], [-0.14, -0.13]])
    body = np.concatenate([upper, tail, lower])
    for points in (body, fin):
        phase = 2 * math.pi * fish.beat_hz * time_s + 5 * points[:, 0]
        points[:, 1] += 0.05 * np.sin(phase) * (0.5 - points[:, 0])
    return body.astype(np.float32), fin.astype(np.float32)


def _pose(fish: Fish, time_s: float, height: int) -> tuple[float, float, float, float]:
    """Centre x, y and length in pixels, and heading in radians."""
    speed_x, speed_y = fish.speed
    bob = 0.03 * math.sin(2 * math.pi * 0.45 * time_s + fish.object_id)
    x = (fish.start[0] + speed_x * time_s) * height
    y = (fish.start[1] + speed_y * time_s + bob) * height
    grow = 1 + 0.12 * math.sin(1.3 * time_s + fish.object_id)
    heading = math.atan2(speed_y + 0.08 * math.cos(2.8 * time_s), speed_x)
    return x, y, fish.length * grow * height, heading


def _paint(image: Image, label_map: Image, fish: Fish, time_s: float) -> None:
    """Draw one fish onto image and label map, in place."""
    height, width = label_map.shape
    x, y, length, heading = _pose(fish, time_s, height)
    cos, sin = math.cos(heading), math.sin(heading)
    up = -1.0 if cos < 0 else 1.0
    mask = np.zeros((height, width), np.uint8)
    for outline in _outline(fish, time_s):
        along, across = outline[:, 0] * length, outline[:, 1] * length * up
        placed = np.stack([x + along * cos - across * sin, y + along * sin + across * cos], axis=1)
        cv2.fillPoly(mask, [np.round(placed * 16).astype(np.int32)], 1, cv2.LINE_8, shift=4)
    ys, xs = np.nonzero(mask)
    if len(ys) == 0:
        return
    body_x = ((xs - x) * cos + (ys - y) * sin) / length
    body_y = (-(xs - x) * sin + (ys - y) * cos) / length
    image[ys, xs] = _skin(fish, body_x.astype(np.float32), (body_y * up).astype(np.float32))
    label_map[ys, xs] = fish.object_id


def _skin(fish: Fish, along: Floats, across: Floats) -> Image:
    """[n, 3] colours for body coordinates: stripes, shading from above, scales, an eye."""
    colour = np.tile(np.array(fish.body, np.float32), (len(along), 1))
    if fish.stripes:
        striped = np.cos(2 * math.pi * fish.stripes * (along + 0.1)) > 0.72
    else:
        striped = (along < -0.32) | (across > 0.11)
    colour[striped] = fish.stripe
    scales = 0.93 + 0.07 * np.sin(90 * along) * np.sin(90 * across)
    shade = np.clip(1.0 - 1.3 * across, 0.6, 1.25) * scales
    colour *= shade[:, None]
    eye = (along - 0.36) ** 2 + (across + 0.035) ** 2
    colour[eye < 0.0016] = (245, 245, 240)
    colour[eye < 0.0006] = (16, 16, 20)
    return np.clip(colour, 0, 255).astype(np.uint8)


def _light(image: Image, time_s: float) -> Image:
    """Moving caustics: the light changes over every pixel, as under water."""
    height, width = image.shape[:2]
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32) / height
    waves = np.sin(9 * xs + 2.1 * time_s) + np.sin(11 * ys + 6 * xs - 1.7 * time_s)
    return np.asarray(np.clip(image * (1 + 0.06 * waves)[..., None], 0, 255), np.uint8)


def _grain(image: Image, index: int) -> Image:
    """Soft focus and sensor noise, different on each frame."""
    rng = np.random.default_rng((SEED, index))
    noisy = cv2.GaussianBlur(image, (3, 3), 0.7) + rng.normal(0, 2.5, image.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)
