"""Nearest bank token of each new token, by blocks. The bank x new matrix never exists at full size.

Two passes: the best score of every block by a plain maximum (finding its place at once would cost several times as
much), then the place within the one block that won.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.banks.config import Metric
from engines.layers.products import product

_BLOCK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
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
    score is -inf where no target is allowed. Ties within a block go to the lower index.
    """
    score = new.new_full((new.shape[0],), -torch.inf, dtype=torch.float32)
    index = torch.zeros(new.shape[0], dtype=torch.int64, device=new.device)
    for rows, candidates in _groups(targets, identity):
        part = new if rows is None else new[rows]
        if part.shape[0]:
            found, place = _Search(part, targets.keys, candidates, metric).run()
            score[_all(rows)], index[_all(rows)] = found, place
    return score, index


def _all(rows: Tensor | None) -> Tensor | slice:
    return slice(None) if rows is None else rows


def _groups(targets: Targets, identity: Tensor | None) -> Iterator[tuple[Tensor | None, Tensor | None]]:
    """Indices of new tokens and of the targets they may choose from; None for all."""
    allowed = targets.allowed
    if identity is None or targets.identity is None:
        yield None, None if allowed is None or bool(allowed.all()) else allowed.nonzero().squeeze(1)
        return
    for one in identity.unique():
        same = targets.identity == one
        may = same if allowed is None else same & allowed
        yield (identity == one).nonzero().squeeze(1), may.nonzero().squeeze(1)


class _Search:
    """One search of new tokens among candidates, block by block."""

    def __init__(self, new: Tensor, keys: Tensor, candidates: Tensor | None, metric: Metric) -> None:
        self._metric = metric
        self._new = _unit(new.float()) if metric == "cosine" else new.float()
        self._keys, self._candidates = keys, candidates
        self._total = keys.shape[0] if candidates is None else candidates.shape[0]
        self._rows = max(256, _BLOCK_BYTES.get(new.device.type, _BLOCK_BYTES["cpu"]) // (4 * new.shape[0]))

    def run(self) -> tuple[Tensor, Tensor]:
        """Score [n] and index [n] into all keys."""
        best = self._new.new_full((self._new.shape[0],), -torch.inf)
        winner = torch.zeros_like(best, dtype=torch.int64)
        for block in range(-(-self._total // self._rows)):
            top = self._scores(self._new, self._block(block)).amax(dim=1)
            winner.masked_fill_(top > best, block)
            best = torch.maximum(best, top)
        return self._places(best, winner)

    def _places(self, best: Tensor, winner: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.zeros_like(winner)
        for block in winner.unique().tolist() if self._total else []:
            rows = (winner == block).nonzero().squeeze(1)
            best[rows], position = self._scores(self._new[rows], self._block(block)).max(dim=1)
            place[rows] = position + block * self._rows
        return best, place if self._candidates is None or not self._total else self._candidates[place]

    def _block(self, block: int) -> Tensor:
        part = slice(block * self._rows, (block + 1) * self._rows)
        keys = self._keys[part] if self._candidates is None else self._keys[self._candidates[part]]
        return _unit(keys.float()) if self._metric == "cosine" else keys.float()

    def _scores(self, new: Tensor, keys: Tensor) -> Tensor:
        if self._metric == "cosine":
            return product(new, keys.T)
        squares = new.square().sum(1, keepdim=True) + keys.square().sum(1)
        return product(2.0 * new, keys.T).sub_(squares).clamp_(max=0.0)


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=1, eps=_EPSILON)
