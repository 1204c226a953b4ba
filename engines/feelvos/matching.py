"""Nearest-neighbour distances between embeddings: to remembered pixels anywhere, and to the previous frame nearby.

Both work in tiles of a few MiB, so that no product of all query by all reference pixels ever exists. A tile is one
matrix product: with rows (q, 1) and (-2r, |r|^2) it gives |q-r|^2 up to |q|^2, which does not change the minimum.
Source: FEELVOS, Voigtlaender et al. 2019, section 3.3 and 3.4 (checked by tests/parity/feelvos).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.layers.products import product

ABSENT = 1e20
"""Squared distance to an object of which nothing is remembered; its distance is exactly 1."""

_OUTSIDE = 1e9
"""Added to squared distances that do not count. Far above where to_distance() reaches 1, so its rounding is lost."""

_TILE_CPU = 1 << 20
_TILE_CUDA = 1 << 24
_LOCAL_TILE_CPU = 10
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
    """squared: [K, n] least squared distance of each query pixel to each object, ABSENT where it has no features.

    hits: [m] float32, how many query pixels found their nearest neighbour in each reference feature; None unless asked.
    """

    squared: Tensor
    hits: Tensor | None = None


def global_matching(
    query: Tensor,
    reference: Tensor,
    identity: Tensor,
    ids: Sequence[int],
    *,
    neighbors: int = 1,
    count_hits: bool = False,
) -> GlobalMatch:
    """Match every query pixel against the remembered features of each of `ids`.

    query: [n, C]; reference: [m, C]; identity: [m] int64, whose feature each one is; K = len(ids).
    neighbors: the mean over this many nearest instead of the nearest (over all of them where there are fewer).
    """
    squared = []
    hits = query.new_zeros(reference.shape[0]) if count_hits else None
    for name in ids:
        members = (identity == name).nonzero()[:, 0]
        own = reference[members]
        if hits is None or neighbors > 1 or members.numel() == 0:
            squared.append(nearest_squared(query, own, neighbors=neighbors))
        if hits is not None and members.numel():
            least, winners = _nearest_indexed(query, own)
            hits[members] = torch.bincount(winners, minlength=members.numel()).to(query.dtype)
            if neighbors == 1:
                squared.append(least)
    return GlobalMatch(torch.stack(squared), hits)


def nearest_squared(query: Tensor, reference: Tensor, *, neighbors: int = 1) -> Tensor:
    """[n] squared distance of each query row to its nearest reference row, or the mean over several nearest.

    query: [n, C]; reference: [m, C]; ABSENT when m is 0. Rounding may leave values slightly below 0.
    """
    if reference.shape[0] == 0:
        return query.new_full((query.shape[0],), ABSENT)
    rows, columns = _as_query(query), _as_reference(reference)
    side = _tile_side(query.device)
    least = [_least_of_row(rows[part], columns, side, neighbors) for part in _tiles(rows.shape[0], side)]
    return torch.cat(least) + query.square().sum(1)


def _tiles(count: int, tile: int) -> Iterator[slice]:
    return (slice(start, min(start + tile, count)) for start in range(0, count, tile))


def _tile_side(device: torch.device) -> int:
    return 1 << ((_TILE_CUDA if device.type == "cuda" else _TILE_CPU).bit_length() // 2)


def _least_of_row(rows: Tensor, columns: Tensor, side: int, neighbors: int) -> Tensor:
    """[n] mean of the `neighbors` least entries of rows @ columns.T, with a running minimum over tiles of columns."""
    best = rows.new_zeros(rows.shape[0], 0)
    for chunk in _tiles(columns.shape[0], side):
        best = _least(torch.cat([best, _least(product(rows, columns[chunk].T), neighbors)], dim=1), neighbors)
    return best.mean(1)


def _least(products: Tensor, count: int) -> Tensor:
    """[n, count] least entries of each row, or all where there are fewer."""
    if count == 1:
        return products.amin(1, keepdim=True)
    return products.topk(min(count, products.shape[1]), dim=1, largest=False).values


def _nearest_indexed(query: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """[n] squared distance to the nearest reference row, and [n] which row that is. Dearer than nearest_squared()."""
    rows, columns = _as_query(query), _as_reference(reference)
    side = _tile_side(query.device)
    values, winners = [], []
    for part in _tiles(rows.shape[0], side):
        value = rows.new_full((part.stop - part.start,), torch.inf)
        index = torch.zeros_like(value, dtype=torch.int64)
        for chunk in _tiles(columns.shape[0], side):
            least = product(rows[part], columns[chunk].T).min(1)
            index = torch.where(least.values < value, least.indices + chunk.start, index)
            value = torch.minimum(value, least.values)
        values.append(value)
        winners.append(index)
    return torch.cat(values) + query.square().sum(1), torch.cat(winners)


def local_matching(query: Tensor, previous: Tensor, labels: Tensor, ids: Sequence[int], *, window: int) -> Tensor:
    """Distance of every query pixel to the nearest previous pixel of each object at most `window` away on both axes.

    query, previous: [h, w, C]; labels: [h, w] int64 object of each previous pixel; K = len(ids).
    Returns [K, h, w] distances; exactly 1 where the window holds nothing of the object.
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
    bias = _object_bias(labels, ids, query.dtype)
    result = query.new_full((len(ids), height, width), ABSENT)
    for box, members in zip(boxes, _near_members(bias, boxes), strict=True):
        products = box.near_products(rows, columns, window)
        for channel, whole in members:
            own = products if whole else products + bias[channel, box.near_rows, box.near_columns].flatten()
            least = own.amin(1).unflatten(0, (box.height, box.width))
            result[channel, box.rows, box.columns] = least + norm[box.rows, box.columns]
    return to_distance(result)


def _grown(part: slice, window: int, limit: int) -> slice:
    return slice(max(part.start - window, 0), min(part.stop + window, limit))


def _object_bias(labels: Tensor, ids: Sequence[int], dtype: torch.dtype) -> Tensor:
    """[K, h, w]: 0 where a pixel belongs to the object, _OUTSIDE elsewhere."""
    members = torch.tensor(ids, device=labels.device)[:, None, None] == labels
    return torch.where(members, 0.0, _OUTSIDE).to(dtype)


def _near_members(bias: Tensor, boxes: list[_Box]) -> list[list[tuple[int, bool]]]:
    """For each box the channels found near it, and whether all pixels there are that channel's.

    One transfer to the host for all boxes.
    """
    near = [bias[:, box.near_rows, box.near_columns].flatten(1) for box in boxes]
    extremes = torch.stack([torch.stack([part.amin(1), part.amax(1)], dim=1) for part in near])
    return [
        [(channel, most == 0.0) for channel, (least, most) in enumerate(box) if least == 0.0]
        for box in extremes.tolist()
    ]


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
        return product(inside, near.T) + (vertical + horizontal).flatten(2).flatten(0, 1)


def _beyond(part: slice, near: slice, window: int, like: Tensor) -> Tensor:
    """[len(part), len(near)]: 0 where two positions are at most `window` apart, _OUTSIDE elsewhere."""
    positions = torch.arange(part.start, part.stop, device=like.device)
    others = torch.arange(near.start, near.stop, device=like.device)
    far = (positions[:, None] - others[None]).abs() > window
    return torch.where(far, _OUTSIDE, 0.0).to(like.dtype)
