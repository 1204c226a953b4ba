"""Attention inside a square window around each position, without unfolding the window.

Queries are cut into tiles. Each reads the one rectangle of keys that its windows touch: its own positions and a margin
of `radius` around them, and what lies outside a query's own window is masked. A small grid is one tile. All of it is
plain tensor arithmetic, so autograd and compilation work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 8
DENSE_TOKENS = 640
"""Grids up to this many positions are one tile: fewer multiplications than copying key rectangles is worth."""


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
class _Tiling:
    """How a grid of queries is cut. A grid that is one tile reads its own keys, with no margin."""

    grid: tuple[int, int]
    radius: int

    @property
    def whole(self) -> bool:
        return self.grid[0] * self.grid[1] <= DENSE_TOKENS

    @property
    def tile(self) -> tuple[int, int]:
        return self.grid if self.whole else (TILE, TILE)

    @property
    def counts(self) -> tuple[int, int]:
        return -(-self.grid[0] // self.tile[0]), -(-self.grid[1] // self.tile[1])

    @property
    def margins(self) -> tuple[int, int]:
        """Rows and columns of the last tiles that lie beyond the grid."""
        return self.counts[0] * self.tile[0] - self.grid[0], self.counts[1] * self.tile[1] - self.grid[1]

    def queries(self, x: Tensor) -> Tensor:
        """[B, h, w, C] to [B * tiles, tile, C]."""
        x = F.pad(x, (0, 0, 0, self.margins[1], 0, self.margins[0]))
        x = x.unflatten(2, (-1, self.tile[1])).unflatten(1, (-1, self.tile[0]))  # [B, down, i, across, j, C]
        return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)

    def merge(self, x: Tensor) -> Tensor:
        """[B * tiles, tile, C] back to [B, h, w, C]."""
        x = x.unflatten(1, self.tile).unflatten(0, (-1, *self.counts)).transpose(2, 3)  # [B, down, i, across, j, C]
        return x.flatten(3, 4).flatten(1, 2)[:, : self.grid[0], : self.grid[1]]

    def keys(self, x: Tensor) -> Tensor:
        """[B, h, w, C] to [B * tiles, (tile + 2 radius)^2, C], masked beyond the grid; [B, h * w, C] for one tile."""
        if self.whole:
            return x.flatten(1, 2)
        index, _ = _reach(self.grid, self.radius, x.device)
        rows = x.flatten(1, 2).index_select(1, index.flatten())
        return rows.unflatten(1, index.shape).flatten(0, 1)

    def spread(self, bias: Tensor) -> Tensor:
        """[T, tile, offsets] to [T, tile, keys]: each offset's logit at the key it means, no key elsewhere."""
        rows, cols = self.tile
        o, fill = 2 * self.radius + 1, _never(bias)
        x = bias.unflatten(2, (o, o)).unflatten(1, (rows, cols)).transpose(2, 3)  # [T, i, dy, j, dx]
        x = self._inner(band(x, fill), cols).permute(0, 3, 4, 1, 2)  # [T, j, kx, i, dy]
        x = self._inner(band(x, fill), rows).permute(0, 3, 1, 4, 2)  # [T, i, j, ky, kx]
        return x.flatten(3, 4).flatten(1, 2)

    def collect(self, weights: Tensor) -> Tensor:
        """Inverse of spread(): [T, tile, keys] to [T, tile, offsets]."""
        rows, cols = self.tile
        o, r = 2 * self.radius + 1, self.radius
        x = weights.unflatten(2, self.grid if self.whole else (rows + 2 * r, cols + 2 * r))
        x = F.pad(x, (r, r, r, r)) if self.whole else x
        x = x.unflatten(1, (rows, cols)).permute(0, 2, 4, 1, 3)  # [T, j, kx, i, ky]
        x = unband(x, o).permute(0, 3, 4, 1, 2)  # [T, i, dy, j, kx]
        return unband(x, o).transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _inner(self, x: Tensor, size: int) -> Tensor:
        return x[..., self.radius : self.radius + size] if self.whole else x

    def outside(self, x: Tensor) -> Tensor:
        """[tiles, 1, keys] additive mask of the keys that lie beyond the grid."""
        if self.whole:
            return x.new_zeros(1, 1, 1)
        _, beyond = _reach(self.grid, self.radius, x.device)
        return beyond.to(x.dtype)[:, None] * _never(x)


@lru_cache(maxsize=16)
def _reach(grid: tuple[int, int], radius: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which positions each tile reads: [tiles, keys] int64 index, clamped, and [tiles, keys] bool beyond the grid."""
    axes = []
    for length in grid:
        starts = torch.arange(0, length, TILE)[:, None]
        axes.append(starts + torch.arange(-radius, TILE + radius))  # [tiles along, keys along]
    rows, columns = axes[0][:, None, :, None], axes[1][None, :, None, :]
    beyond = (rows < 0) | (rows >= grid[0]) | (columns < 0) | (columns >= grid[1])
    index = rows.clamp(0, grid[0] - 1) * grid[1] + columns.clamp(0, grid[1] - 1)
    shape = (axes[0].shape[0] * axes[1].shape[0], -1)
    return index.reshape(shape).to(device), beyond.reshape(shape).to(device)


def _fold_heads(x: Tensor, heads: int, grid: tuple[int, int]) -> Tensor:
    """[B, h * w, heads * d] to [B * heads, h, w, d]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2).flatten(0, 1).unflatten(1, grid)


def _softmax_over(frames: list[Tensor]) -> Tensor:
    return torch.softmax(frames[0] if len(frames) == 1 else torch.cat(frames, dim=-1), dim=-1)


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
    tiling = _Tiling(grid, radius=(isqrt(bias.logit.shape[-1]) - 1) // 2)
    q = tiling.queries(_fold_heads(query, heads, grid) * (query.shape[-1] // heads) ** -0.5)
    logits = tiling.spread(tiling.queries(bias.logit.flatten(0, 1).unflatten(1, grid)))
    outside = tiling.outside(logits)
    logits = (logits.unflatten(0, (-1, outside.shape[0])) + outside).flatten(0, 1)
    scores = [torch.baddbmm(logits, q, tiling.keys(_fold_heads(k, heads, grid)).transpose(1, 2)) for k in keys]
    weights = _softmax_over(scores)
    rows = [tiling.keys(_fold_heads(v, heads, grid)) for v in values]
    read = torch.bmm(weights, rows[0] if len(rows) == 1 else torch.cat(rows, dim=1))
    if bias.value is not None:
        by_offset = tiling.collect(
            weights.unflatten(-1, (len(rows), -1)).sum(dim=-2)
        )  # [B * heads * tiles, n, offsets]
        by_head = by_offset.unflatten(0, (-1, heads, outside.shape[0]))
        read = read + (by_head @ bias.value.transpose(1, 2).unsqueeze(1)).flatten(0, 2)
    out = tiling.merge(read).flatten(1, 2).unflatten(0, (-1, heads))  # [B, heads, h * w, dv]
    return out.transpose(1, 2).flatten(2)
