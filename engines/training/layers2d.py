"""Layers of a made-up scene: textured pictures with a shape and a path, painted over one another. Knows no training."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.training.motion import MotionPath, Placement, Rng, elastic, source_positions

TOKEN_STRIDE = 16
NOWHERE = -1.0
"""Layer number of pixels whose correspondence is unknown (real video)."""


@dataclass(frozen=True)
class Layer:
    """One picture of a scene.

    pixels: [F, 3, h, w] float 0..1, F is 1 or the number of frames. labels: [F, h, w] float ids, for backgrounds.
    alpha: [F, h, w] float coverage, None covers everything. object_id: id of what alpha covers, 0 is unlabelled.
    known_motion: whether its pixels can be followed exactly from frame to frame.
    """

    pixels: Tensor
    placement: Placement
    path: MotionPath
    alpha: Tensor | None = None
    labels: Tensor | None = None
    object_id: int = 0
    known_motion: bool = True
    bend: float = 0.0


@dataclass(frozen=True)
class Scene:
    """pixels: [T, 3, S, S] float 0..1. labels: [T, S, S] uint8. origin: [T, n, n, 3] float (layer, x, y).

    The origin is known at every 16th pixel, where the networks' tokens lie. Two of them show the same point when
    their layers are equal, not NOWHERE, and their (x, y), in pixels of the first frame, are close.
    """

    pixels: Tensor
    labels: Tensor
    origin: Tensor


def shrunk(layer: Layer) -> Layer:
    """The same layer from a smaller picture when it would be drawn much smaller than it is (against aliasing)."""
    factor = int(layer.placement.scale / 0.9)
    if factor < 2:
        return layer
    x, y = layer.placement.anchor
    placement = replace(layer.placement, anchor=(x / factor, y / factor), scale=layer.placement.scale / factor)
    return replace(
        layer,
        pixels=F.avg_pool2d(layer.pixels, factor),
        alpha=None if layer.alpha is None else F.avg_pool2d(layer.alpha[:, None], factor)[:, 0],
        labels=None if layer.labels is None else layer.labels[:, factor // 2 :: factor, factor // 2 :: factor],
        placement=placement,
    )


def paint(layers: list[Layer], rng: Rng, frames: int, crop_px: int) -> Scene:
    """Draw the layers in order, the first at the back (it must cover everything)."""
    back, *front = layers
    pixels, _, labels, origin = _draw(back, 0, rng, frames, crop_px)
    for number, layer in enumerate(front, start=1):
        drawn, alpha, ids, where = _draw(layer, number, rng, frames, crop_px)
        pixels = torch.lerp(pixels, drawn, alpha)
        seen = alpha[:, 0] > 0.5
        labels = torch.where(seen, ids, labels)
        origin = torch.where(seen[:, ::TOKEN_STRIDE, ::TOKEN_STRIDE, None], where, origin)
    return Scene(pixels, labels, origin)


def _draw(layer: Layer, number: int, rng: Rng, frames: int, crop_px: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels [T, 3, S, S], coverage [T, 1, S, S], ids [T, S, S] and origin [T, n, n, 3] of one layer."""
    layer = shrunk(layer)
    bend = elastic(rng, frames, crop_px, layer.bend) if layer.bend else None
    x, y = source_positions(layer.placement, layer.path, crop_px, bend)
    height, width = layer.pixels.shape[-2:]
    grid = torch.stack([x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1], dim=-1)
    padding = "reflection" if layer.alpha is None else "zeros"
    source = layer.pixels if layer.alpha is None else torch.cat([layer.pixels, layer.alpha[:, None]], dim=1)
    drawn = F.grid_sample(source.expand(frames, -1, -1, -1), grid, padding_mode=padding, align_corners=True)
    ids = torch.tensor(layer.object_id, dtype=torch.uint8).expand(frames, crop_px, crop_px)
    if layer.labels is not None:
        maps = layer.labels[:, None].expand(frames, -1, -1, -1)
        ids = F.grid_sample(maps, grid, mode="nearest", padding_mode=padding, align_corners=True)[:, 0].to(torch.uint8)
    tokens = torch.stack([x, y], dim=-1)[:, ::TOKEN_STRIDE, ::TOKEN_STRIDE] / layer.placement.scale
    name = torch.full_like(tokens[..., :1], float(number) if layer.known_motion else NOWHERE)
    return drawn[:, :3], drawn[:, 3:], ids, torch.cat([name, tokens], dim=-1)


def blob(rng: Rng, height: int, width: int) -> Tensor:
    """[h, w] float coverage of one smooth random shape in the middle of the picture."""
    noise = torch.as_tensor(rng.normal(0, 1, (1, 1, 5, 5)), dtype=torch.float32)
    rough = F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=True)[0, 0]
    y = torch.linspace(-1, 1, height)[:, None]
    x = torch.linspace(-1, 1, width)[None]
    aspect = float(np.exp(rng.uniform(-0.7, 0.7)))
    inside = 0.55 - torch.sqrt((x * aspect) ** 2 + (y / aspect) ** 2) + 0.22 * rough
    return (inside * min(height, width) / 2).clamp(0, 1)


def bar(rng: Rng, height: int, width: int) -> Tensor:
    """[h, w] float coverage of an upright pole or of a few leaves, as they stand before things."""
    if rng.random() < 0.5:
        x = torch.linspace(-1, 1, width)[None].expand(height, width)
        half = float(rng.uniform(0.05, 0.3))
        return ((half - x.abs()) * width / 2).clamp(0, 1)
    noise = torch.as_tensor(rng.normal(0, 1, (1, 1, 9, 9)), dtype=torch.float32)
    rough = F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=True)[0, 0]
    return ((rough - float(rng.uniform(0.9, 1.5))) * 12).clamp(0, 1)
