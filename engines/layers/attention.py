"""Softmax attention over memory tokens, in blocks of queries. Knows tensors, not memories or videos."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.layers.products import product

SCORES_PER_BLOCK = 1 << 21
"""Attention scores held at once (8 MiB in float32), whatever the length of the memory."""

ROWS_PER_BLOCK = 560
"""Queries in a block on CPU: with more, their scores leave the cache before they have met the values."""


class Readout(NamedTuple):
    """value: [B, N, heads * dv]. mass: [B, M] attention that each memory token got, or None when not asked for."""

    value: Tensor
    mass: Tensor | None


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, heads, n, d]


def attend(query: Tensor, key: Tensor, value: Tensor, *, heads: int = 1, count_mass: bool = False) -> Readout:
    """softmax(q k / sqrt(d)) v over all M tokens, without ever holding the N x M matrix.

    query: [B, N, heads * d], key: [B, M, heads * d], value: [B, M, heads * dv]. The mass is summed over queries and
    averaged over heads, so that it adds up to N.
    """
    q, k, v = (_split_heads(x, heads) for x in (query, key, value))
    if not count_mass and (q.is_cuda or (q.shape[-1] == v.shape[-1] and torch.is_grad_enabled())):
        merged = F.scaled_dot_product_attention(q, k, v)
        return Readout(merged.transpose(1, 2).flatten(2), None)
    if torch.is_grad_enabled() or not q.is_cpu:
        return _attend_in_blocks(q, k, v, count_mass=count_mass)
    return _attend_one_by_one(q, k, v, count_mass=count_mass)


def _attend_one_by_one(q: Tensor, k: Tensor, v: Tensor, *, count_mass: bool) -> Readout:
    """Head by head, which spares a CPU the copies of a batched product."""
    values, masses = [], []
    for row in range(q.shape[0]):
        at = slice(row, row + 1)
        heads = [
            _attend_in_blocks(q[at, head], k[at, head], v[at, head], count_mass=count_mass)
            for head in (slice(index, index + 1) for index in range(q.shape[1]))
        ]
        values.append(torch.cat([head.value for head in heads], dim=2))
        masses += [torch.stack([head.mass for head in heads if head.mass is not None]).mean(0)] if count_mass else []
    return Readout(torch.cat(values), torch.cat(masses) if count_mass else None)


def _attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, *, count_mass: bool) -> Readout:
    batch, heads, n, d = q.shape
    q = q * d**-0.5
    k = k.transpose(-2, -1)
    rows = _block_rows(n, batch * heads * k.shape[-1], on_cpu=q.is_cpu)
    parts: list[Tensor] = []
    mass = q.new_zeros(batch, k.shape[-1], dtype=torch.float32) if count_mass else None
    for start in range(0, n, rows):
        weights = torch.softmax(product(q[:, :, start : start + rows], k), dim=-1)  # [B, heads, rows, M]
        parts.append(product(weights, v))
        if mass is not None:
            mass += weights.detach().float().sum(dim=2).mean(dim=1)
    merged = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return Readout(merged.transpose(1, 2).flatten(2), mass)


def equal_rows(rows: int, most: int) -> int:
    """Rows of each part when they are cut into as few parts of at most `most` as will do, all alike but the last."""
    return -(-rows // -(-rows // most))


def _block_rows(queries: int, scores_per_row: int, *, on_cpu: bool) -> int:
    """Queries in each of as many equal blocks as it takes."""
    most = max(32, SCORES_PER_BLOCK // scores_per_row)
    return equal_rows(queries, min(most, ROWS_PER_BLOCK) if on_cpu else most)


class DepthwiseConv2d(nn.Module):
    """5x5 depthwise convolution over tokens laid out on their grid."""

    def __init__(self, channels: int, kernel: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, h * w, C] to the same."""
        maps = x.unflatten(1, grid).permute(0, 3, 1, 2)  # [B, C, h, w], channels last in memory
        return self.conv(maps).permute(0, 2, 3, 1).flatten(1, 2)


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence with itself, with its own projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.linear_Q = nn.Linear(width, width)
        self.linear_K = nn.Linear(width, width)
        self.linear_V = nn.Linear(width, width)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x: [B, N, width]; position: [N, width], added to queries and keys only."""
        placed = x + position
        readout = attend(self.linear_Q(placed), self.linear_K(placed), self.linear_V(x), heads=self.heads)
        return self.projection(readout.value)
