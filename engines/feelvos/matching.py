"""Nearest-neighbour distances between embeddings: to remembered pixels anywhere, and to the previous frame nearby.

Both work in tiles of a few MiB, so that no product of all query by all reference pixels ever exists. A tile is one
matrix product: with rows (q, 1) and (-2r, |r|^2) it gives |q-r|^2 up to |q|^2, which does not change the minimum.
Source: FEELVOS, Voigtlaender et al. 2019, section 3.3 and 3.4 (checked by tests/parity/feelvos).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

ABSENT = 1e20
"""Squared distance to an object of which nothing is remembered; its distance is exactly 1."""

_OUTSIDE = 1e9
"""Added to squared distances that do not count. Far above where to_distance() reaches 1, so its rounding is lost."""

_TILE_CPU = 1 << 20
_TILE_CUDA = 1 << 24
_LOCAL_TILE_CPU = 12
_LOCAL_TILE_CUDA = 32


def to_distance(squared: Tensor) -> Tensor:
    """1 - 2 / (1 + exp(d^2)) for squared distances: 0 for equal embeddings, 1 for far ones. Same as tanh(d^2 / 2)."""
    return torch.tanh(squared * 0.5)


def _as_query(embedding: Tensor) -> Tensor:
    """Rows (q, 1): [n, C] to [n, C+1]."""
    return torch.cat([embedding, embedding.new_ones(embedding.shape[0], 1)], dim=1)


def _as_reference(embedding: Tensor) -> Tensor:
    """Rows (-2r, |r|^2): [n, C] to [n, C+1]."""
    return torch.cat([embedding * -2.0, embedding.square().sum(1, keepdim=True)], dim=1)


@dataclass(frozen=True)
class GlobalMatch:
    """squared: [K, n] least squared distance of each query pixel to each channel, ABSENT where it has no features.

    hits: [m] float32, how many query pixels found their nearest neighbour in each reference feature; None unless asked.
    """

    squared: Tensor
    hits: Tensor | None = None


def global_matching(
    query: Tensor,
    reference: Tensor,
    identity: Tensor,
    channels: int,
    *,
    neighbors: int = 1,
    count_hits: bool = False,
) -> GlobalMatch:
    """Match every query pixel against the remembered features of every channel.

    query: [n, C]; reference: [m, C]; identity: [m] int64 channel of each reference feature, 0..channels-1.
    neighbors: the mean over this many nearest instead of the nearest (over all of them where there are fewer).
    """
    rows, columns = _as_query(query), _as_reference(reference)
    norm = query.square().sum(1)
    squared = []
    hits = query.new_zeros(reference.shape[0]) if count_hits else None
    for channel in range(channels):
        members = (identity == channel).nonzero()[:, 0]
        if members.numel() == 0:
            squared.append(torch.full_like(norm, ABSENT))
            continue
        own = columns[members]
        nearest = _nearest(rows, own, neighbors)
        squared.append(nearest + norm)
        if hits is not None:
            hits[members] = _arg_min_hits(rows, own)
    return GlobalMatch(torch.stack(squared), hits)


def _tiles(count: int, tile: int) -> Iterator[slice]:
    return (slice(start, min(start + tile, count)) for start in range(0, count, tile))


def _tile_side(device: torch.device) -> int:
    return 1 << ((_TILE_CUDA if device.type == "cuda" else _TILE_CPU).bit_length() // 2)


def _nearest(rows: Tensor, columns: Tensor, neighbors: int) -> Tensor:
    """[n] mean of the `neighbors` least entries of rows @ columns.T, with a running minimum over tiles."""
    side = _tile_side(rows.device)
    result = []
    for part in _tiles(rows.shape[0], side):
        best: Tensor | None = None
        for chunk in _tiles(columns.shape[0], side):
            least = _least(rows[part] @ columns[chunk].T, neighbors)
            if best is None:
                best = least
            elif neighbors == 1:
                best = torch.minimum(best, least)
            else:
                best = _least(torch.cat([best, least], dim=1), neighbors)
        result.append(best.mean(1) if best is not None else rows.new_full((rows[part].shape[0],), ABSENT))
    return torch.cat(result)


def _least(products: Tensor, count: int) -> Tensor:
    """[n, count] least entries of each row, or all where there are fewer."""
    if count == 1:
        return products.amin(1, keepdim=True)
    return products.topk(min(count, products.shape[1]), dim=1, largest=False).values


def _arg_min_hits(rows: Tensor, columns: Tensor) -> Tensor:
    """[m] how often each column is the nearest of a row."""
    side = _tile_side(rows.device)
    winners = []
    for part in _tiles(rows.shape[0], side):
        value = rows.new_full((part.stop - part.start,), torch.inf)
        index = torch.zeros_like(value, dtype=torch.int64)
        for chunk in _tiles(columns.shape[0], side):
            least = (rows[part] @ columns[chunk].T).min(1)
            index = torch.where(least.values < value, least.indices + chunk.start, index)
            value = torch.minimum(value, least.values)
        winners.append(index)
    return torch.bincount(torch.cat(winners), minlength=columns.shape[0]).to(rows.dtype)


def local_matching(query: Tensor, previous: Tensor, labels: Tensor, channels: int, *, window: int) -> Tensor:
    """Distance of every query pixel to the nearest previous pixel of each channel at most `window` away on both axes.

    query, previous: [h, w, C]; labels: [h, w] int64 channel of each previous pixel.
    Returns [channels, h, w] distances; exactly 1 where the window holds none of the channel.
    """
    height, width, _ = query.shape
    tile = _LOCAL_TILE_CUDA if query.device.type == "cuda" else _LOCAL_TILE_CPU
    boxes = [
        _Box(rows, columns, _grown(rows, window, height), _grown(columns, window, width))
        for rows in _tiles(height, tile)
        for columns in _tiles(width, tile)
    ]
    rows = _as_query(query.flatten(0, 1)).unflatten(0, (height, width))
    columns = _as_reference(previous.flatten(0, 1)).unflatten(0, (height, width))
    norm = query.square().sum(2)
    bias = _channel_bias(labels, channels, query.dtype)
    result = query.new_full((channels, height, width), ABSENT)
    for box, present in zip(boxes, _present(bias, boxes), strict=True):
        products = box.near_products(rows, columns, window)
        inner = bias[:, box.near_rows, box.near_columns].flatten(1)
        for channel in present:
            # Adding the bias to a tile that holds one channel only would change nothing.
            own = products if len(present) == 1 else products + inner[channel]
            least = own.amin(1).unflatten(0, (box.height, box.width))
            result[channel, box.rows, box.columns] = least + norm[box.rows, box.columns]
    return to_distance(result)


def _grown(part: slice, window: int, limit: int) -> slice:
    return slice(max(part.start - window, 0), min(part.stop + window, limit))


def _channel_bias(labels: Tensor, channels: int, dtype: torch.dtype) -> Tensor:
    """[channels, h, w]: 0 where a pixel belongs to the channel, _OUTSIDE elsewhere."""
    members = torch.arange(channels, device=labels.device)[:, None, None] == labels
    return torch.where(members, 0.0, _OUTSIDE).to(dtype)


def _present(bias: Tensor, boxes: list[_Box]) -> list[list[int]]:
    """For each box the channels that its neighbourhood holds; one transfer to the host for all."""
    least = torch.stack([bias[:, box.near_rows, box.near_columns].flatten(1).amin(1) for box in boxes])
    return [[channel for channel, value in enumerate(row) if value == 0.0] for row in least.tolist()]


@dataclass(frozen=True)
class _Box:
    """A tile of query pixels and the previous pixels that any of them can see."""

    rows: slice
    columns: slice
    near_rows: slice
    near_columns: slice

    @property
    def height(self) -> int:
        return int(self.rows.stop - self.rows.start)

    @property
    def width(self) -> int:
        return int(self.columns.stop - self.columns.start)

    def near_products(self, query: Tensor, previous: Tensor, window: int) -> Tensor:
        """[tile pixels, neighbourhood pixels] products, raised by _OUTSIDE beyond each pixel's own window."""
        inside = query[self.rows, self.columns].flatten(0, 1)
        near = previous[self.near_rows, self.near_columns].flatten(0, 1)
        vertical = _beyond(self.rows, self.near_rows, window, query)[:, None, :, None]
        horizontal = _beyond(self.columns, self.near_columns, window, query)[None, :, None, :]
        return inside @ near.T + (vertical + horizontal).flatten(2).flatten(0, 1)


def _beyond(part: slice, near: slice, window: int, like: Tensor) -> Tensor:
    """[len(part), len(near)]: 0 where two positions are at most `window` apart, _OUTSIDE elsewhere."""
    positions = torch.arange(part.start, part.stop, device=like.device)
    others = torch.arange(near.start, near.stop, device=like.device)
    far = (positions[:, None] - others[None]).abs() > window
    return torch.where(far, _OUTSIDE, 0.0).to(like.dtype)
