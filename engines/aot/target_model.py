"""A ridge regression from the encoder's features to the labels of the references: what each object looks like.

Its scores join the decoder's logits. The fit has a closed form, so that training runs through it and teaches the
encoder features in which objects can be told apart so simply. It costs one small system of equations per reference, and
its memory does not grow.

Source: Robinson et al. 2020 (FRTM) fit a small network per object for such scores; Bertinetto et al. 2019 learn
features through a ridge regression.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engines.aot.cells import pool_cells
from engines.labels import Slots
from engines.types import LabelMap, TrackState

RIDGE = 1e-3
CELL_PX = 8
"""Side of the cells that are scored, in pixels of the network's input."""

_LOWEST, _HIGHEST = -0.5, 1.5
_TENSORS = ("gram", "cross", "weights")


def target_features(maps: Sequence[Tensor], *, align_corners: bool) -> Tensor:
    """[B, D, h8, w8] float32: the encoder's maps at 1/4, 1/8, 1/16 and the projected one, each of unit length; and a 1.

    maps: [B, C, ., .] each, finest first.
    """
    cells = _to_cells([F.normalize(x.float(), dim=1) for x in maps], align_corners=align_corners)
    return torch.cat([*cells, torch.ones_like(cells[0][:, :1])], dim=1)


def ridge_sums(features: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """What a reference adds to the regression, all labels in it weighing the same, however small.

    features: [B, D, h, w]. shares: [B, C, h, w]. Returns [B, D, D] and [B, D, C], float32.
    """
    x, y = features.flatten(2), shares.flatten(2).float()
    area = y.sum(dim=2, keepdim=True)
    each = (y / area.clamp_min(1e-4)).sum(dim=1, keepdim=True) / (area > 0).sum(dim=1, keepdim=True).clamp_min(1)
    weighed = x * each
    return weighed @ x.transpose(1, 2), weighed @ y.transpose(1, 2)


def solve(gram: Tensor, cross: Tensor) -> Tensor:
    """Weights [B, D, C] of the regression with the sums [B, D, D] and [B, D, C]."""
    ridge = RIDGE * torch.eye(gram.shape[-1], device=gram.device)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(gram + ridge))


def score(maps: Sequence[Tensor], weights: Tensor, *, align_corners: bool) -> Tensor:
    """[B, C, h8, w8]: about 1 where a label is, about 0 where it is not.

    What target_features() and a product would give, but each map is weighed at its own size: pooling and enlarging are
    linear, and there are fewer labels than channels.
    """
    *parts, constant = weights.split([*(x.shape[1] for x in maps), 1], dim=1)
    each = [torch.einsum("bdhw,bdc->bchw", F.normalize(x.float(), dim=1), w) for x, w in zip(maps, parts, strict=True)]
    total = _to_cells(each, align_corners=align_corners)
    return (sum(total) + constant.transpose(1, 2)[..., None]).clamp(_LOWEST, _HIGHEST)


def _to_cells(maps: Sequence[Tensor], *, align_corners: bool) -> list[Tensor]:
    """Maps at 1/4, 1/8, 1/16, ... all at 1/8."""
    quarter, eighth, *coarse = maps
    size, pooled = eighth.shape[-2:], pool_cells(quarter, 2, align_corners=align_corners)
    return [pooled, eighth, *(F.interpolate(x, size, mode="bilinear", align_corners=align_corners) for x in coarse)]


@dataclass
class TargetModel:
    """What the references of one track have taught, and what it says of later frames.

    gain: weight of the scores in the logits. ids: the client's, of the columns; 0, the background, is the first.
    gram, cross, weights: [1, D, D], [1, D, C], [1, D, C]: sums over the references, and their solution.
    """

    gain: float
    align_corners: bool
    ids: list[int] = field(default_factory=lambda: [0])
    references: int = 0
    gram: Tensor = field(default_factory=lambda: torch.zeros(1, 0, 0))
    cross: Tensor = field(default_factory=lambda: torch.zeros(1, 0, 1))
    weights: Tensor = field(default_factory=lambda: torch.zeros(1, 0, 1))

    @property
    def nbytes(self) -> int:
        """Bytes of the state; they do not grow with references or frames."""
        return self.gram.nbytes + self.cross.nbytes + self.weights.nbytes

    def learn(self, maps: Sequence[Tensor], labels: LabelMap, object_ids: Iterable[int]) -> None:
        """Take a reference. maps: [1, C, ., .] each. labels: ids at the network's size, all objects of the track."""
        self.ids += [object_id for object_id in sorted(object_ids) if object_id not in self.ids]
        features = target_features(maps, align_corners=self.align_corners)
        shown = torch.from_numpy(np.stack([labels == i for i in self.ids])).to(features)
        gram, cross = ridge_sums(features, pool_cells(shown[None], CELL_PX, align_corners=self.align_corners))
        if self.references:
            gram, cross = gram + self.gram, cross + F.pad(self.cross, (0, cross.shape[2] - self.cross.shape[2]))
        self.gram, self.cross, self.references = gram, cross, self.references + 1
        self._solve()

    def forget(self, object_id: int) -> None:
        """An object becomes background. Unknown ids are none of its business."""
        if object_id not in self.ids:
            return
        column = self.ids.index(object_id)
        kept = [c for c in range(len(self.ids)) if c != column]
        gone, self.cross = self.cross[..., column], self.cross[..., kept]
        self.cross[..., 0] += gone
        self.ids.remove(object_id)
        self._solve()

    def add_scores(self, maps: Sequence[Tensor], logits: Sequence[Tensor], slots: Sequence[Slots]) -> list[Tensor]:
        """Logits [channels, h4, w4] of each group of objects, with one frame's scores. maps: [1, C, ., .] each."""
        if not self.references:
            return list(logits)
        scores = self.gain * score(maps, self.weights, align_corners=self.align_corners)
        size = logits[0].shape[-2:]
        resized = F.interpolate(scores, size, mode="bilinear", align_corners=self.align_corners)[0]
        return [self._added(resized, row, group) for row, group in zip(logits, slots, strict=True)]

    def _added(self, scores: Tensor, logits: Tensor, slots: Slots) -> Tensor:
        added = logits.float().clone()
        for column, object_id in enumerate(self.ids):
            added[slots.channels.get(object_id, 0)] += scores[column]  # to this group, others' objects are background
        return added

    def _solve(self) -> None:
        self.weights = solve(self.gram / self.references, self.cross / self.references)

    def snapshot(self) -> TrackState:
        """The whole state, copied to the host."""
        meta: dict[str, int | str] = {"ids": json.dumps(self.ids), "references": self.references}
        tensors = {name: getattr(self, name).to("cpu", copy=True) for name in _TENSORS}
        return TrackState(meta, tensors)

    def restore(self, state: TrackState, device: torch.device) -> None:
        """Take over what snapshot() saw."""
        self.ids, self.references = json.loads(str(state.meta["ids"])), int(state.meta["references"])
        self.gram, self.cross, self.weights = (state.tensors[name].to(device, copy=True) for name in _TENSORS)


def state_bytes(widths: Sequence[int], objects: int) -> int:
    """Bytes of the target model of a track with so many objects, for maps of these widths."""
    size = sum(widths) + 1
    return size * (size + 2 * (objects + 1)) * torch.float32.itemsize
