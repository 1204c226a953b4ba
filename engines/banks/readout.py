"""Attention read of a bank: weighted values and each token's usage in one pass, by chunks of queries."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK_BYTES = {"cpu": 16 << 20, "cuda": 256 << 20}
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


def read_bank(query: Tensor, keys: Tensor, values: Tensor) -> Readout:
    """Softmax over the bank of query . key / sqrt(width), then the weighted sum of values.

    query: [q, width]; keys: [n, width]; values: [n, value width]. The chunk length depends on n alone, so that a read
    is bit-equal whatever else runs. Source: STM, Oh et al. 2019, section 3.2; usage: AFB-URR, Liang et al. 2020.
    """
    scale = 1.0 / math.sqrt(query.shape[1])
    rows = _chunk_rows(keys)
    out = values.new_empty(query.shape[0], values.shape[1])
    mass = torch.zeros(keys.shape[0], dtype=torch.float32, device=keys.device)
    hits = torch.zeros_like(mass)
    for start in range(0, query.shape[0], rows):
        part = slice(start, start + rows)
        weight = torch.softmax((query[part] * scale) @ keys.T, dim=1)
        out[part] = weight @ values
        mass += weight.sum(0, dtype=torch.float32)
        hits += (weight > _HIT_WEIGHT).sum(0)
    return Readout(out, mass, hits)


def _chunk_rows(keys: Tensor) -> int:
    limit = _CHUNK_BYTES.get(keys.device.type, _CHUNK_BYTES["cpu"])
    return max(16, limit // (4 * keys.shape[0]))
