"""Attention inside a square window around each position, without unfolding the window.

Queries are taken in tiles of the grid: strips of columns, cut into bands of a few rows. The keys and values around a
strip are copied once; what a band's windows touch of them then lies side by side in memory, for one product. What lies
outside a query's own window is masked. All of it is plain tensor arithmetic, so autograd and compilation work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.layers.products import product

TILE_ROWS = 8
TILE_COLUMNS = 18
"""Queries in a tile on CPU: smaller tiles waste fewer multiplications, larger ones need fewer and better products."""

DENSE_TOKENS = 640
"""Grids up to this many positions are one tile on CPU; elsewhere, tiles are bands of `BAND_ROWS` whole rows."""

BAND_ROWS = 16


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
class _Span:
    """Positions `first` to `last` of one axis as queries, and `low` to `high` as the keys that their windows touch."""

    first: int
    last: int
    low: int
    high: int
    radius: int

    @property
    def queries(self) -> slice:
        return slice(self.first, self.last)

    @property
    def keys(self) -> slice:
        return slice(self.low, self.high)

    @property
    def kept(self) -> slice:
        """The keys that exist among those from `radius` before the first query to `radius` after the last."""
        skipped = self.low - (self.first - self.radius)
        return slice(skipped, skipped + self.high - self.low)

    @property
    def missing(self) -> tuple[int, int]:
        """How many of those do not exist, before and after."""
        return self.low - (self.first - self.radius), self.last + self.radius - self.high


def _spans(length: int, step: int, radius: int) -> list[_Span]:
    """The axis in equal parts of at most about `step` positions."""
    count = max(1, round(length / step))
    cuts = [length * index // count for index in range(count + 1)]
    return [_Span(a, b, max(0, a - radius), min(length, b + radius), radius) for a, b in pairwise(cuts)]


@dataclass(frozen=True)
class _Tile:
    """Queries and keys of a tile, row by row."""

    rows: _Span
    columns: _Span

    def spread(self, bias: Tensor) -> Tensor:
        """[T, queries, offsets] to [T, queries, keys]: each offset's logit at the key it means, no key elsewhere."""
        o, fill = 2 * self.rows.radius + 1, _never(bias)
        width = self.columns.last - self.columns.first
        x = bias.unflatten(2, (o, o)).unflatten(1, (-1, width)).transpose(2, 3)  # [T, i, dy, j, dx]
        x = band(x, fill)[..., self.columns.kept].permute(0, 3, 4, 1, 2)  # [T, j, kx, i, dy]
        x = band(x, fill)[..., self.rows.kept].permute(0, 3, 1, 4, 2)  # [T, i, j, ky, kx]
        return x.flatten(3, 4).flatten(1, 2)

    def collect(self, weights: Tensor) -> Tensor:
        """Inverse of spread(): [T, queries, keys] to [T, queries, offsets]."""
        o = 2 * self.rows.radius + 1
        width, key_width = self.columns.last - self.columns.first, self.columns.high - self.columns.low
        x = weights.unflatten(2, (-1, key_width)).unflatten(1, (-1, width))  # [T, i, j, ky, kx]
        x = F.pad(x, (*self.columns.missing, *self.rows.missing)).permute(0, 2, 4, 1, 3)  # [T, j, kx, i, ky]
        x = unband(x, o).permute(0, 3, 4, 1, 2)  # [T, i, dy, j, kx]
        return unband(x, o).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _tiling(grid: tuple[int, int], radius: int, device: torch.device) -> tuple[list[_Span], list[_Span]]:
    """Bands of rows and strips of columns."""
    height, width = grid
    if device.type != "cpu":
        return _spans(height, BAND_ROWS, radius), _spans(width, width, radius)
    if height * width <= DENSE_TOKENS:
        return _spans(height, height, radius), _spans(width, width, radius)
    return _spans(height, TILE_ROWS, radius), _spans(width, TILE_COLUMNS, radius)


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
    maps = [_fold_heads(query, heads) * (query.shape[-1] // heads) ** -0.5, bias.logit.flatten(0, 1)]
    maps += [_fold_heads(x, heads) for x in (*keys, *values)]
    q, logits, *memory = (x.unflatten(1, grid) for x in maps)  # [T, h, w, .], T = B * heads
    bands, strips = _tiling(grid, radius, query.device)
    parts = []
    for columns in strips:
        around = [x[:, :, columns.keys].contiguous() for x in memory]
        own = q[:, :, columns.queries], logits[:, :, columns.queries]
        tiles = [_read_tile(_Tile(rows, columns), *own, around, bias.value) for rows in bands]
        parts.append(_one(tiles, dim=1))
    return _one(parts, dim=2).flatten(1, 2).unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def _read_tile(tile: _Tile, query: Tensor, logits: Tensor, memory: Sequence[Tensor], relative: Tensor | None) -> Tensor:
    """[T, rows, columns, dv] of one tile. query, logits, memory (keys, then values): its strip, [T, h, ., .]."""
    read, near = tile.rows.queries, [x[:, tile.rows.keys].flatten(1, 2) for x in memory]
    keys, values = near[: len(near) // 2], near[len(near) // 2 :]
    allowed = tile.spread(logits[:, read].flatten(1, 2))
    scores = [product(query[:, read].flatten(1, 2), key.transpose(1, 2)).add_(allowed) for key in keys]
    weights = torch.softmax(_one(scores, dim=-1), dim=-1)
    found = product(weights, _one(values, dim=1))
    if relative is not None:
        found = found + _relative_values(weights, tile, relative, len(values))
    return found.unflatten(1, (-1, query.shape[2]))


def _relative_values(weights: Tensor, tile: _Tile, value: Tensor, frames: int) -> Tensor:
    """What the offsets themselves add: weights [B * heads, n, frames * keys], value [heads, dv, offsets]."""
    by_offset = tile.collect(weights.unflatten(-1, (frames, -1)).sum(dim=-2))  # [B * heads, n, offsets]
    by_head = by_offset.unflatten(0, (-1, value.shape[0]))
    return (by_head @ value.transpose(1, 2)).flatten(0, 1)
