"""Attention inside a square window around each position, without unfolding the window.

Queries are taken in bands of a few rows of the grid. A band reads the rows of keys that its windows touch, neighbours
in memory, so nothing is copied. What lies outside a query's own window is masked.
All of it is plain tensor arithmetic, so autograd and compilation work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.layers.products import product

BAND_ROWS = 4
"""Rows of queries in a band: fewer waste fewer multiplications, more need fewer steps."""

DENSE_TOKENS = 640
"""Grids up to this many positions are one band on CPU; on other devices, bands are four times as high."""


class WindowBias(NamedTuple):
    """Relative position terms of a window of (2 radius + 1)^2 offsets, row by row.

    logit: [B, heads, N, offsets] added to the scores. value: [heads, dv, offsets] added to the values, or None.
    """

    logit: Tensor
    value: Tensor | None = None


def _never(x: Tensor) -> float:
    """A score that loses every softmax, finite so that a row of nothing else stays free of NaN."""
    return torch.finfo(x.dtype).min / 2


def band(x: Tensor, fill: float) -> Tensor:
    """[..., n, d] to [..., n, n + d - 1]: row i moved right by i, the rest filled."""
    n, d = x.shape[-2:]
    padded = F.pad(x, (0, n), value=fill)  # rows of width n + d: each row, cut at n + d - 1, starts one later
    return padded.flatten(-2)[..., : n * (n + d - 1)].unflatten(-1, (n, n + d - 1))


def unband(x: Tensor, d: int) -> Tensor:
    """Inverse of band(): [..., n, n + d - 1] to [..., n, d]."""
    n = x.shape[-2]
    return F.pad(x.flatten(-2), (0, n)).unflatten(-1, (n, n + d))[..., :d]


@dataclass(frozen=True)
class _Band:
    """Rows `first` to `last` of a grid as queries, and the rows `low` to `high` of keys that their windows touch."""

    width: int
    radius: int
    first: int
    last: int
    low: int
    high: int

    @property
    def queries(self) -> slice:
        return slice(self.first * self.width, self.last * self.width)

    @property
    def keys(self) -> slice:
        return slice(self.low * self.width, self.high * self.width)

    def spread(self, bias: Tensor) -> Tensor:
        """[T, queries, offsets] to [T, queries, keys]: each offset's logit at the key it means, no key elsewhere."""
        o, r, fill = 2 * self.radius + 1, self.radius, _never(bias)
        x = bias.unflatten(2, (o, o)).unflatten(1, (-1, self.width)).transpose(2, 3)  # [T, i, dy, j, dx]
        x = band(x, fill)[..., r : r + self.width].permute(0, 3, 4, 1, 2)  # [T, j, kx, i, dy]
        skipped = self.low - (self.first - r)
        x = band(x, fill)[..., skipped : skipped + self.high - self.low].permute(0, 3, 1, 4, 2)  # [T, i, j, ky, kx]
        return x.flatten(3, 4).flatten(1, 2)

    def collect(self, weights: Tensor) -> Tensor:
        """Inverse of spread(): [T, queries, keys] to [T, queries, offsets]."""
        o, r = 2 * self.radius + 1, self.radius
        x = weights.unflatten(2, (-1, self.width)).unflatten(1, (-1, self.width))  # [T, i, j, ky, kx]
        skipped = self.low - (self.first - r)
        x = F.pad(x, (r, r, skipped, self.last + r - self.high)).permute(0, 2, 4, 1, 3)  # [T, j, kx, i, ky]
        x = unband(x, o).permute(0, 3, 4, 1, 2)  # [T, i, dy, j, kx]
        return unband(x, o).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _bands(grid: tuple[int, int], radius: int, device: torch.device) -> list[_Band]:
    height, width = grid
    if device.type != "cpu":
        rows = 4 * BAND_ROWS
    else:
        rows = height if height * width <= DENSE_TOKENS else BAND_ROWS
    bands = []
    for first in range(0, height, rows):
        last = min(first + rows, height)
        bands.append(_Band(width, radius, first, last, max(0, first - radius), min(height, last + radius)))
    return bands


def _fold_heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, heads * d] to [B * heads, N, d]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1)


def _one(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def local_attend(
    query: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    bias: WindowBias,
    *,
    grid: tuple[int, int],
    heads: int = 1,
) -> Tensor:
    """Each position reads its (2 radius + 1)^2 window in each of the given frames; keys beyond the grid do not exist.

    query: [B, h * w, heads * d]; keys, values: per frame [B, h * w, heads * d] and [B, h * w, heads * dv].
    Returns [B, h * w, heads * dv]. Scores are q k / sqrt(d) plus `bias.logit`; several frames share one softmax.
    Source: AOT, Yang et al. 2021, section 4.3 (short-term attention).
    """
    radius = (isqrt(bias.logit.shape[-1]) - 1) // 2
    q = _fold_heads(query, heads) * (query.shape[-1] // heads) ** -0.5
    k, v = [_fold_heads(x, heads) for x in keys], [_fold_heads(x, heads) for x in values]
    logits = bias.logit.flatten(0, 1)
    parts = []
    for part in _bands(grid, radius, query.device):
        allowed = part.spread(logits[:, part.queries])
        scores = [product(q[:, part.queries], x[:, part.keys].transpose(1, 2)).add_(allowed) for x in k]
        weights = torch.softmax(_one(scores, dim=-1), dim=-1)
        read = product(weights, _one([x[:, part.keys] for x in v], dim=1))
        parts.append(read if bias.value is None else read + _relative_values(weights, part, bias.value, len(v)))
    return _one(parts, dim=1).unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def _relative_values(weights: Tensor, part: _Band, value: Tensor, frames: int) -> Tensor:
    """What the offsets themselves add: weights [B * heads, n, frames * keys], value [heads, dv, offsets]."""
    by_offset = part.collect(weights.unflatten(-1, (frames, -1)).sum(dim=-2))  # [B * heads, n, offsets]
    by_head = by_offset.unflatten(0, (-1, value.shape[0]))
    return (by_head @ value.transpose(1, 2)).flatten(0, 1)
