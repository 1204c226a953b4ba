"""Nearest bank token of each new token, by chunks. The bank x new matrix never exists at full size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.banks.config import Metric

_CHUNK_BYTES = 16 << 20
_EPSILON = 1e-12


@dataclass(frozen=True)
class Targets:
    """The tokens that may be found.

    keys: [m, width]. allowed: [m] bool, None for all. identity: [m] int64, None when identity does not matter.
    """

    keys: Tensor
    allowed: Tensor | None = None
    identity: Tensor | None = None


def nearest(new: Tensor, targets: Targets, *, metric: Metric, identity: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Best score and index of each new token among the targets.

    new: [n, width]; identity: [n] int64, matched against the targets' where both are given.
    Returns score [n] float32 (cosine similarity, or minus the squared distance) and index [n] int64;
    score is -inf where no target is allowed. Ties go to the lower index.
    """
    score = new.new_full((new.shape[0],), -torch.inf, dtype=torch.float32)
    index = torch.zeros(new.shape[0], dtype=torch.int64, device=new.device)
    prepared = _unit(new.float()) if metric == "cosine" else new.float()
    rows = max(256, _CHUNK_BYTES // (4 * max(1, new.shape[0])))
    for start in range(0, targets.keys.shape[0], rows):
        part = slice(start, start + rows)
        scores = _score(prepared, targets.keys[part].float(), metric)
        _forbid(scores, targets, part, identity)
        best, position = scores.max(dim=1)
        better = best > score
        score = torch.where(better, best, score)
        index = torch.where(better, position + start, index)
    return score, index


def _score(new: Tensor, keys: Tensor, metric: Metric) -> Tensor:
    if metric == "cosine":
        return new @ _unit(keys).T
    squares = new.square().sum(1, keepdim=True) + keys.square().sum(1)
    return torch.addmm(squares, new, keys.T, beta=-1.0, alpha=2.0).clamp_(max=0.0)


def _forbid(scores: Tensor, targets: Targets, part: slice, identity: Tensor | None) -> None:
    if targets.allowed is not None:
        scores.masked_fill_(~targets.allowed[part], -torch.inf)
    if identity is not None and targets.identity is not None:
        scores.masked_fill_(identity[:, None] != targets.identity[part], -torch.inf)


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=1, eps=_EPSILON)
