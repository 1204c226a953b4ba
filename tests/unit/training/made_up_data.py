"""A handful of stills and clips with masks, written or held in memory, for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from engines.training.pool import RealClip, Still, TrainingPool


def texture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def disc(height: int, width: int, y: float, x: float, radius: float, value: int = 1) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return np.where((rows - y) ** 2 + (columns - x) ** 2 < radius**2, value, 0).astype(np.uint8)


def still(seed: int, *, regions: bool = False) -> Still:
    pixels = texture(seed, 96, 128)
    labels = disc(96, 128, 40, 60, 25) if not regions else (1 + np.mgrid[:96, :128][1] // 32).astype(np.uint8)
    pixels[labels == 1] = 255 - pixels[labels == 1]
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
    return Still(f"still{seed}", tensor, torch.from_numpy(labels), "regions" if regions else "objects")


def clip(seed: int, frames: int = 6) -> RealClip:
    backdrop, patch = texture(seed, 96, 128), texture(seed + 1, 96, 128)
    labels = [disc(96, 128, 48, 40 + 5 * t, 20) for t in range(frames)]
    pixels = [np.where(mask[..., None] > 0, np.roll(patch, 5 * t, 1), backdrop) for t, mask in enumerate(labels)]
    stacked = torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2).copy())
    return RealClip(f"clip{seed}", stacked, torch.from_numpy(np.stack(labels)))


def pool() -> TrainingPool:
    return TrainingPool((still(1), still(2), still(3, regions=True)), (clip(4), clip(5)))


def write_still(folder: Path, stem: str, seed: int) -> None:
    item = still(seed)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(item.pixels.permute(1, 2, 0).numpy()).save(folder / "images" / f"{stem}.jpg")
    Image.fromarray(item.labels.numpy()).save(folder / "masks" / f"{stem}.png")


def write_clip(folder: Path, seed: int) -> None:
    item = clip(seed)
    (folder / "Annotations").mkdir(parents=True, exist_ok=True)
    for t in range(len(item.labels)):
        Image.fromarray(item.pixels[t].permute(1, 2, 0).numpy()).save(folder / f"{t:05d}.jpg")
        Image.fromarray(item.labels[t].numpy()).save(folder / "Annotations" / f"{t:05d}.png")
