"""Scenes for text training: objects cut out of stills, pasted with depth order over other stills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.errors import TrainingDataError
from engines.types import Frame, LabelMap, Size
from engines.uniref.attributes import Masks

_MIN_AREA = 0.004
_MIN_VISIBLE = 0.6


@dataclass(frozen=True)
class Still:
    """A picture and its objects. frame: [H, W, 3]. labels: [H, W], 0 background."""

    name: str
    frame: Frame
    labels: LabelMap


@dataclass(frozen=True)
class Scene:
    """A picture and the visible part of each of its objects."""

    frame: Frame
    masks: Masks


@dataclass(frozen=True)
class _Cutout:
    colour: Frame
    alpha: NDArray[np.float32]


def _cutouts(still: Still) -> list[_Cutout]:
    """Objects that do not run off the picture: a cut edge would tell where something was pasted."""
    found = []
    for object_id in np.unique(still.labels):
        mask = still.labels == object_id
        if object_id == 0 or mask.mean() < 0.02:
            continue
        if mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any():
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        found.append(_Cutout(still.frame[box], mask[box].astype(np.float32)))
    return found


def without_objects(still: Still) -> Frame:
    """The still with its objects painted over from around them, coarsely: a background that shows nothing."""
    height, width = still.labels.shape
    small = (max(1, width // 4), max(1, height // 4))
    coarse = cv2.resize(still.frame, small, interpolation=cv2.INTER_AREA)
    hidden = cv2.dilate((still.labels > 0).astype(np.uint8), np.ones((9, 9), np.uint8))
    holes = cv2.dilate(cv2.resize(hidden, small, interpolation=cv2.INTER_NEAREST), np.ones((3, 3), np.uint8))
    filled = cv2.resize(cv2.inpaint(coarse, holes, 3, cv2.INPAINT_TELEA), (width, height))
    soft = cv2.GaussianBlur(hidden.astype(np.float32), (9, 9), 3)[..., None]
    return np.asarray(still.frame * (1 - soft) + filled * soft, np.uint8)


class SceneMaker:
    """Draws scenes. backgrounds: pictures without known objects, their content counts as nothing.

    natural: share of scenes that are a still as it is, mirrored or cropped.
    """

    def __init__(self, stills: Sequence[Still], backgrounds: Sequence[Frame], *, natural: float = 0.4) -> None:
        self._stills = [still for still in stills if still.labels.any()]
        self._cutouts = [cutout for still in stills for cutout in _cutouts(still)]
        self._backgrounds = list(backgrounds)
        self._natural = natural
        if not self._cutouts or not self._backgrounds:
            raise TrainingDataError("scenes need stills with whole objects in them, and backgrounds")

    def draw(self, size: Size, random: np.random.Generator) -> Scene:
        """One scene with at least one object."""
        while True:
            scene = self._still(size, random) if random.random() < self._natural else self._composite(size, random)
            if len(scene.masks):
                return scene

    def _still(self, size: Size, random: np.random.Generator) -> Scene:
        still = self._stills[int(random.integers(len(self._stills)))]
        frame, labels = _crop(still.frame, size, random, still.labels)
        if random.random() < 0.5:
            frame, labels = frame[:, ::-1], labels[:, ::-1]
        masks = [labels == object_id for object_id in np.unique(labels) if object_id]
        return _scene(_jitter(frame, random), masks)

    def _composite(self, size: Size, random: np.random.Generator) -> Scene:
        background = self._backgrounds[int(random.integers(len(self._backgrounds)))]
        canvas = _crop(background, size, random, np.zeros(background.shape[:2], np.uint8))[0].astype(np.float32)
        masks: list[NDArray[np.bool_]] = []
        whole: list[int] = []
        for _ in range(int(random.integers(1, 5))):
            cutout = self._cutouts[int(random.integers(len(self._cutouts)))]
            pasted, alpha = _place(cutout, size, random)
            canvas = canvas * (1 - alpha[..., None]) + pasted * alpha[..., None]
            covered = alpha > 0.5
            masks = [mask & ~covered for mask in masks] + [covered]
            whole.append(int(covered.sum()))
        seen = [m for m, area in zip(masks, whole, strict=True) if area and m.sum() >= _MIN_VISIBLE * area]
        if len(seen) < len(masks):  # something is mostly hidden: it is neither an object nor background
            return Scene(canvas.astype(np.uint8), np.zeros((0, size.height, size.width), bool))
        return _scene(_jitter(canvas.astype(np.uint8), random), masks)


def _scene(frame: Frame, masks: Sequence[NDArray[np.bool_]]) -> Scene:
    kept = [mask for mask in masks if mask.mean() >= _MIN_AREA]
    if len(kept) != len(masks) or len(kept) > 5:
        return Scene(frame, np.zeros((0, *frame.shape[:2]), bool))
    return Scene(frame, np.stack(kept) if kept else np.zeros((0, *frame.shape[:2]), bool))


def _crop(frame: Frame, size: Size, random: np.random.Generator, labels: LabelMap) -> tuple[Frame, LabelMap]:
    """A random window of the wanted shape, at least 80 % of what fits, resized."""
    height, width = frame.shape[:2]
    share = random.uniform(0.8, 1.0) * min(height / size.height, width / size.width)
    h, w = int(size.height * share), int(size.width * share)
    y, x = int(random.integers(height - h + 1)), int(random.integers(width - w + 1))
    shape = (size.width, size.height)
    window = (slice(y, y + h), slice(x, x + w))
    grown = cv2.resize(frame[window], shape, interpolation=cv2.INTER_AREA if share > 1 else cv2.INTER_LINEAR)
    return np.asarray(grown, np.uint8), np.asarray(cv2.resize(labels[window], shape, interpolation=cv2.INTER_NEAREST))


def _place(cutout: _Cutout, size: Size, random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The cut-out on an empty canvas: [H, W, 3] colours and [H, W] soft coverage."""
    height, width = cutout.alpha.shape
    side = (
        np.exp(random.uniform(np.log(0.15), np.log(0.6))) * np.hypot(size.height, size.width) / np.hypot(height, width)
    )
    angle = np.radians(random.uniform(-20, 20))
    flip = 1.0 if random.random() < 0.5 else -1.0
    turn = side * np.array([[np.cos(angle) * flip, -np.sin(angle)], [np.sin(angle) * flip, np.cos(angle)]])
    centre = np.array([random.uniform(0.1, 0.9) * size.width, random.uniform(0.1, 0.9) * size.height])
    shift = centre - turn @ np.array([width / 2, height / 2])
    matrix = np.concatenate([turn, shift[:, None]], 1)
    shape = (size.width, size.height)
    colour = cv2.warpAffine(cutout.colour, matrix, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = cv2.warpAffine(cutout.alpha, matrix, shape, flags=cv2.INTER_LINEAR)
    return np.asarray(colour, np.float32), np.asarray(cv2.GaussianBlur(alpha, (3, 3), 0.7), np.float32)


def _jitter(frame: Frame, random: np.random.Generator) -> Frame:
    """Brightness, contrast and noise; attributes are computed afterwards, so colours may change."""
    gain, lift = random.uniform(0.8, 1.2), random.uniform(-20, 20)
    noise = random.normal(0, random.uniform(0, 5), frame.shape)
    return np.clip(frame * gain + lift + noise, 0, 255).astype(np.uint8)
