"""What of an annotated frame is remembered: labels at feature size, tiny objects, random samples, contradictions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.feelvos.matching import nearest_squared, to_distance
from engines.types import IGNORE_LABEL, LabelMap

BACKGROUND = 0

_CLOSE = 0.5
"""Distance below which old background counts as a newcomer's when the newcomer's frame shows no background."""


@dataclass(frozen=True)
class CellLabels:
    """A label map at feature size. labels: [h, w] int64 object ids.

    tiny: objects smaller than one cell, or that sampling would have lost; empty: objects without a pixel.
    """

    labels: NDArray[np.int64]
    tiny: tuple[int, ...]
    empty: tuple[int, ...]


def aligned_index(full: int, small: int) -> NDArray[np.int64]:
    """[small] positions in a row of `full` pixels, corners on corners, nearest, half rounded up."""
    if small == 1:
        return np.zeros(1, dtype=np.int64)
    return (2 * np.arange(small) * (full - 1) + small - 1) // (2 * (small - 1))


def shrink_labels(label_map: LabelMap, size: tuple[int, int], object_ids: Collection[int]) -> CellLabels:
    """`label_map` at feature size (height, width); each of `object_ids` that has a pixel keeps at least one cell."""
    rows, columns = (aligned_index(full, small) for full, small in zip(label_map.shape, size, strict=True))
    labels = label_map[np.ix_(rows, columns)].astype(np.int64)
    cell_px = label_map.size / labels.size
    tiny, empty = [], []
    for name in sorted(object_ids):
        area_px = int((label_map == name).sum())
        lost = not (labels == name).any()
        if area_px == 0:
            empty.append(name)
        elif lost or area_px < cell_px:
            tiny.append(name)
        if area_px and lost:
            _give_cell(labels, label_map, name)
    return CellLabels(labels, tuple(tiny), tuple(empty))


def _give_cell(labels: NDArray[np.int64], label_map: LabelMap, object_id: int) -> None:
    """Give an object the cell nearest to its middle that is not the only one of another object."""
    scale = np.array(
        [(small - 1) / max(full - 1, 1) for full, small in zip(label_map.shape, labels.shape, strict=True)]
    )
    middle = np.argwhere(label_map == object_id).mean(axis=0) * scale
    names, counts = np.unique(labels, return_counts=True)
    lonely = names[(counts == 1) & (names != BACKGROUND) & (names != IGNORE_LABEL)]
    distance = np.square(np.indices(labels.shape) - middle[:, None, None]).sum(axis=0)
    distance[np.isin(labels, lonely)] = np.inf
    labels[np.unravel_index(distance.argmin(), distance.shape)] = object_id


def draw_cells(labels: Tensor, ids: Sequence[int], limit: int | None, seed: int) -> Tensor:
    """Indices into flattened `labels` of the cells of each of `ids`, at most `limit` of each, drawn at random.

    The same seed and labels draw the same cells. None draws all.
    """
    flat = labels.flatten()
    drawn = []
    for name in ids:
        cells = (flat == name).nonzero()[:, 0]
        if limit is not None and cells.numel() > limit:
            generator = torch.Generator().manual_seed((seed * 1_000_003 + name) % (1 << 63))
            chosen = torch.randperm(cells.numel(), generator=generator)[:limit].sort().values
            cells = cells[chosen.to(cells.device)]
        drawn.append(cells)
    return torch.cat(drawn) if drawn else flat.new_zeros(0)


def contradicted(background: Tensor, newcomer: Tensor, beside: Tensor) -> Tensor:
    """[n] bool: which background features a newly annotated object proves wrong.

    A late object was background before it was named. Old background that looks more like the object than like the
    background of the object's own frame would hold it back for ever.
    background: [n, C] remembered; newcomer: [m, C] the object's features; beside: [k, C] background of that frame.
    """
    to_newcomer = nearest_squared(background, newcomer)
    if beside.shape[0] == 0:
        return to_distance(to_newcomer) < _CLOSE
    return to_newcomer < nearest_squared(background, beside)
