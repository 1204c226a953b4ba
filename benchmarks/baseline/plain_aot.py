"""AOT and DeAOT as one would write them down: unfolded windows, materialised attention, norms of their own.

The modules and weights are the engine's own. What differs is how attention is computed (as in the released code: keys
unfolded, weights scattered over the padded grid), batch norms that are not folded, and plain memory layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isqrt
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.aot.engine import AotEngine
from engines.aot.weights import load_network
from engines.catalog import CATALOG
from engines.layers.attention import Readout
from engines.layers.local_attention import WindowBias
from engines.protocols import EngineSpec


def plain_attend(query: Tensor, key: Tensor, value: Tensor, *, heads: int = 1, count_mass: bool = False) -> Readout:
    """The whole N x M matrix at once; see engines.layers.attention.attend."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
    mass = weights.sum(2).mean(1) if count_mass else None
    return Readout((weights @ v).transpose(1, 2).flatten(2), mass)


def plain_local_attend(
    query: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    bias: WindowBias,
    *,
    grid: tuple[int, int],
    heads: int = 1,
) -> Tensor:
    """Unfold the window of every position, then scatter the weights over the padded grid; one previous frame."""
    (key,), (value,) = keys, values
    (h, w), o = grid, isqrt(bias.logit.shape[-1])
    r, d = o // 2, query.shape[-1] // heads

    def maps(x: Tensor) -> Tensor:  # [B * heads, d, h, w]
        return x.unflatten(2, (heads, -1)).permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, grid).contiguous()

    unfolded = F.unfold(maps(key), o, padding=r).unflatten(1, (d, o * o))  # [B * heads, d, offsets, N]
    scores = (maps(query * d**-0.5).flatten(2)[:, :, None] * unfolded).sum(1)  # [B * heads, offsets, N]
    inside = F.unfold(torch.ones(1, 1, h, w), o, padding=r)  # [1, offsets, N]
    scores = scores + bias.logit.flatten(0, 1).transpose(1, 2) - (1 - inside) * 1e8
    weights = torch.softmax(scores, dim=1).transpose(1, 2)  # [B * heads, N, offsets]
    padded_w = w + 2 * r
    at = torch.arange(h)[:, None] * padded_w + torch.arange(w)
    offset = torch.arange(o)[:, None] * padded_w + torch.arange(o)
    index = (at.flatten()[:, None] + offset.flatten()).expand_as(weights)
    scattered = torch.zeros(weights.shape[0], h * w, (h + 2 * r) * padded_w).scatter_(2, index, weights)
    read = scattered @ F.pad(maps(value), (r, r, r, r)).flatten(2).transpose(1, 2)  # [B * heads, N, dv]
    if bias.value is not None:
        read = read + (weights.unflatten(0, (-1, heads)) @ bias.value.transpose(1, 2)).flatten(0, 1)
    return read.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Within it, AOT's layers compute attention the plain way."""
    with (
        patch("engines.layers.attention.attend", plain_attend),
        patch("engines.aot.model.attend", plain_attend),
        patch("engines.aot.memory.attend", plain_attend),
        patch("engines.aot.gpm.attend", plain_attend),
        patch("engines.aot.propagation.local_attend", plain_local_attend),
    ):
        yield


class _Contiguous(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.contiguous())
        return out


def build_plain(name: str, weights: dict[str, Tensor]) -> AotEngine:
    """An engine on CPU whose network is as loaded: nothing folded, recast or laid out for speed."""
    net, checkpoint = load_network(name, weights)
    net.encoder = _Contiguous(net.encoder)
    info = CATALOG[name]
    spec = EngineSpec(
        info, 480, net.config.memorize_every, checkpoint.sha256, torch.float32, torch.device("cpu"), deterministic=True
    )
    return AotEngine(net, spec)
