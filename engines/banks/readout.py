"""Attention read of a bank: weighted values and each token's usage in one pass, by chunks of queries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.layers.attention import equal_rows
from engines.layers.products import product

_CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
_CACHED_BYTES, _FEW_QUERIES = 4 << 20, 96
_HIT_WEIGHT = 1e-3
"""A query uses a token when its weight exceeds this (released AFB-URR)."""


@dataclass(frozen=True)
class Readout:
    """What one read gives.

    values: [q, value width]. mass: [n] float32, attention weight that each bank token received, summed over queries.
    hits: [n] float32, queries that gave it a weight above 1e-3.
    """

    values: Tensor
    mass: Tensor
    hits: Tensor


@dataclass(frozen=True)
class Memory:
    """One part of what is read: keys [n, width] and values [n, value width]."""

    keys: Tensor
    values: Tensor


def read_bank(query: Tensor, *parts: Memory) -> Readout:
    """Softmax over all parts of query . key / sqrt(width), then the weighted sum of values.

    query: [q, width]. Usage is that of the first part, the bank; others are read beside it (the previous frame).
    The chunk length depends on the numbers of queries and tokens alone, so that a read is bit-equal whatever else runs.
    Source: STM, Oh et al. 2019, section 3.2; usage: AFB-URR, Liang et al. 2020.
    """
    bank = parts[0].keys.shape[0]
    rows = _chunk_rows(query.shape[0], sum(part.keys.shape[0] for part in parts), query.device)
    query = query * (1.0 / math.sqrt(query.shape[1]))
    mass = torch.zeros(bank, dtype=torch.float32, device=query.device)
    hits = torch.zeros_like(mass)
    out = []
    for chunk in query.split(rows):
        affinity = torch.cat([product(chunk, part.keys.T) for part in parts], dim=1)
        weight = torch.softmax(affinity.float(), dim=1)
        mass += weight[:, :bank].sum(0)
        hits += (weight[:, :bank] > _HIT_WEIGHT).sum(0)
        out.append(_weighted_sum(weight.to(query.dtype), parts))
    return Readout(torch.cat(out), mass, hits)


def _weighted_sum(weight: Tensor, parts: tuple[Memory, ...]) -> Tensor:
    total, start = torch.zeros(()), 0
    for index, part in enumerate(parts):
        stop = start + part.keys.shape[0]
        share = product(weight[:, start:stop], part.values)
        total, start = share if index == 0 else total + share, stop
    return total


def _chunk_rows(queries: int, tokens: int, device: torch.device) -> int:
    """Queries in each of as many equal chunks as it takes.

    On CPU their scores should stay in the cache until they meet the values, but a chunk of few queries reads the whole
    bank for little.
    """
    most = _CHUNK_BYTES.get(device.type, _CHUNK_BYTES["cpu"]) // (4 * tokens)
    if device.type == "cpu":
        most = max(_CACHED_BYTES // (4 * tokens), min(_FEW_QUERIES, most))
    return equal_rows(queries, max(16, most))
