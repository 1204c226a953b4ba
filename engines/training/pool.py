"""Training material in memory: stills with label maps and real clips, decoded once to uint8. Knows no motion."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from engines.errors import TrainingDataError
from engines.training.evaluation_clips import binary_as_object, read_frame, read_ids

LOG = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
StillKind = Literal["objects", "regions"]
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_LEAST_FRAMES = 3
_UNREADABLE = (TrainingDataError, UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError)
"""What a broken picture raises; PIL calls a damaged PNG a syntax error."""


@dataclass(frozen=True)
class Still:
    """pixels: [3, h, w] uint8 RGB. labels: [h, w] uint8, 0 background, 255 unknown, which no loss looks at.

    kind: whether labels are objects or regions.
    """

    name: str
    pixels: Tensor
    labels: Tensor
    kind: StillKind = "objects"


@dataclass(frozen=True)
class RealClip:
    """pixels: [T, 3, h, w] uint8 RGB. labels: [T, h, w] uint8, the same ids in all frames, 255 as in a Still."""

    name: str
    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class TrainingPool:
    """All material of a run, and what was left out and why."""

    stills: tuple[Still, ...]
    clips: tuple[RealClip, ...]
    skipped: tuple[str, ...] = field(default=())

    def without_clips(self, names: frozenset[str]) -> TrainingPool:
        """The same material but for the clips of these names (a validation split)."""
        return TrainingPool(self.stills, tuple(c for c in self.clips if c.name not in names), self.skipped)


def load_pool(folder: Path, *, short_side: int = 270) -> TrainingPool:
    """Read every usable still and clip under `folder`; broken ones are named, logged and counted, not fatal.

    A broken frame is left out of its clip, and the clip only when fewer than three frames are left.

    Stills: `images/STEM.*` beside `masks/STEM.png`, anywhere below. Clips: `<clip>/*.jpg` with `<clip>/Annotations`, or
    DAVIS / YouTube-VOS trees. Longer short sides are scaled down to `short_side` pixels, never up. Stems that
    begin with `bsds` hold regions, not objects. Raises TrainingDataError if nothing is left.
    """
    skipped: list[str] = []
    stills = tuple(_usable(_still_files(folder), lambda pair: _read_still(pair[0], pair[1], short_side), skipped))
    clips = tuple(_usable(_clip_files(folder), lambda pairs: _read_clip(pairs, short_side, skipped), skipped))
    for reason in skipped:
        LOG.warning("training data skipped: %s", reason)
    if not stills and not clips:
        raise TrainingDataError(
            f"no usable image with a mask in {folder}, {len(skipped)} skipped; there should be images/NAME.jpg beside "
            f"masks/NAME.png, or clips as CLIP/*.jpg with CLIP/Annotations/*.png. {'; '.join(skipped[:5])}".rstrip()
        )
    return TrainingPool(stills, clips, tuple(skipped))


def _usable(items: Iterator[Item], read: Callable[[Item], Result], skipped: list[str]) -> Iterator[Result]:
    for item in items:
        try:
            yield read(item)
        except _UNREADABLE as error:
            skipped.append(str(error))


def _folders(root: Path, name: str) -> Iterator[Path]:
    """Every folder of that name below `root`, links followed, in a fixed order."""
    for path, directories, _ in os.walk(root, followlinks=True):
        directories.sort()
        if Path(path).name == name:
            yield Path(path)


def _still_files(folder: Path) -> Iterator[tuple[Path, Path]]:
    for images in _folders(folder, "images"):
        for image in sorted(images.iterdir()):
            if image.suffix.lower() in _IMAGE_SUFFIXES:
                yield image, images.parent / "masks" / f"{image.stem}.png"


def _clip_files(folder: Path) -> Iterator[list[tuple[Path, Path]]]:
    for labels in _folders(folder, "Annotations"):
        if any(labels.glob("*.png")):
            yield _paired(labels.parent, labels)
        frames_root = labels.parent / "JPEGImages"
        for sequence in sorted(p for p in labels.rglob("*") if p.is_dir() and any(p.glob("*.png"))):
            yield _paired(frames_root / sequence.relative_to(labels), sequence)


def _paired(frames: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Frames that have a mask; a sparse annotation (every fifth frame, say) gives a sparser clip."""
    files = sorted(frames.iterdir()) if frames.is_dir() else []
    pairs = ((p, labels / f"{p.stem}.png") for p in files if p.suffix.lower() in _IMAGE_SUFFIXES)
    return [pair for pair in pairs if pair[1].is_file()]


def _read(read: Callable[[Path], NDArray[np.uint8]], path: Path) -> NDArray[np.uint8]:
    """The picture. Raises TrainingDataError with the file's name, which PIL leaves out of most of its errors."""
    try:
        return read(path)
    except TrainingDataError as error:
        raise TrainingDataError(f"{path.parent.name}/{error}") from error
    except _UNREADABLE as error:
        raise TrainingDataError(f"{path}: not readable as a picture ({error})") from error


def _read_pair(image: Path, mask: Path, short_side: int) -> tuple[Tensor, Tensor]:
    pixels, labels = _read(read_frame, image), _read(read_ids, mask)
    if pixels.shape[:2] != labels.shape:
        raise TrainingDataError(f"{image}: image is {pixels.shape[:2]} and mask {labels.shape}, height by width")
    scale = short_side / min(labels.shape)
    if scale < 1:
        size = (round(labels.shape[1] * scale), round(labels.shape[0] * scale))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        labels = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.from_numpy(labels)


def _read_still(image: Path, mask: Path, short_side: int) -> Still:
    if not mask.is_file():
        raise TrainingDataError(f"{image}: no mask {mask.name}")
    pixels, labels = _read_pair(image, mask, short_side)
    labels = torch.from_numpy(binary_as_object(labels.numpy()))
    if not bool(labels.any()):
        raise TrainingDataError(f"{mask}: the mask is empty")
    kind: StillKind = "regions" if image.stem.startswith("bsds") else "objects"
    return Still(image.stem, pixels, labels, kind)


def _read_clip(pairs: list[tuple[Path, Path]], short_side: int, skipped: list[str]) -> RealClip:
    where = pairs[0][0].parent if pairs else Path("a clip")
    read = list(_usable(iter(pairs), lambda pair: _read_pair(pair[0], pair[1], short_side), skipped))
    if len(read) < _LEAST_FRAMES:
        raise TrainingDataError(f"{where}: {len(read)} usable frames with a mask, at least {_LEAST_FRAMES} are needed")
    if len({pixels.shape for pixels, _ in read}) > 1:
        raise TrainingDataError(f"{where}: frames differ in size")
    labels = torch.from_numpy(binary_as_object(torch.stack([m for _, m in read]).numpy()))
    if not bool(labels.any()):
        raise TrainingDataError(f"{where}: the masks of all frames are empty")
    return RealClip(where.name, torch.stack([p for p, _ in read]), labels)


def fill_holes(pixels: Tensor, hole: Tensor) -> Tensor:
    """Replace a hole by averages of what surrounds it, coarse to fine: a background without its object.

    pixels: [3, h, w] float; hole: [h, w] bool. Returns [3, h, w].
    """
    known = (~hole).float()[None, None]
    levels = [(pixels[None] * known, known)]
    while min(levels[-1][0].shape[-2:]) > 2:
        levels.append(tuple(torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True) for x in levels[-1]))  # type: ignore[arg-type]
    filled = levels[-1][0] / levels[-1][1].clamp_min(1e-6)
    for total, weight in reversed(levels[:-1]):
        coarse = torch.nn.functional.interpolate(filled, size=total.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(weight > 1e-3, total / weight.clamp_min(1e-6), coarse)
    return filled[0]


def object_cutouts(labels: NDArray[np.uint8]) -> list[int]:
    """Ids in a label map that are large enough to paste: 0.4 % to 70 % of the picture."""
    counts = np.bincount(labels.ravel(), minlength=256)[:255] / labels.size
    return [int(i) for i in np.flatnonzero((counts > 0.004) & (counts < 0.7)) if i]
