"""What AOT's and DeAOT's layers have in common: the values they exchange and the window read-out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from engines.layers.local_attention import WindowBias, local_attend
from engines.layers.products import product

Grid = tuple[int, int]
"""Rows and columns of tokens."""


class Streams(NamedTuple):
    """visual: [B, N, 256]. identity: [B, N, 256] in DeAOT, None in AOT."""

    visual: Tensor
    identity: Tensor | None


class Query(NamedTuple):
    """What one layer made of a frame before it read the memory; with an ID embedding it becomes LayerMemory.

    key: [B, N, key width], query and key at once. visual: [B, N, .], what the memory's value is made from.
    identity: normed identity stream (DeAOT after the first layer). gate: [B, N, .] (DeAOT).
    """

    key: Tensor
    visual: Tensor
    identity: Tensor | None = None
    gate: Tensor | None = None


class LayerMemory(NamedTuple):
    """Tokens that one layer reads. key: [B, n, key width], value: [B, n, value width]."""

    key: Tensor
    value: Tensor


class LayerInput(NamedTuple):
    """Where a layer works. position: [N, 256] sine embedding."""

    grid: Grid
    position: Tensor


class PropagationLayer(Protocol):
    """One layer, in the four stages in which the network and the memory take turns."""

    def prepare(self, streams: Streams, at: LayerInput) -> tuple[Streams, Query]:
        """What comes before the memory is read."""
        ...

    def remember(self, query: Query, identity: Tensor) -> LayerMemory:
        """Join a frame with the ID embedding [B, N, 256] of its label map."""
        ...

    def complete(
        self, streams: Streams, query: Query, long_term: Tensor, short_term: Sequence[LayerMemory], at: LayerInput
    ) -> Streams:
        """Add both read-outs to the streams. long_term: [B, N, value width], read by `query.key`."""
        ...


def relative_key_embedding(key_width: int, heads: int, radius: int) -> nn.Conv2d:
    """One logit per head and window offset, from the query."""
    return nn.Conv2d(key_width, heads * (2 * radius + 1) ** 2, 1, groups=heads)


def read_window(
    query: Tensor,
    memory: Sequence[LayerMemory],
    grid: Grid,
    relative_key: nn.Conv2d,
    relative_value: Tensor | None = None,
) -> Tensor:
    """Read the window around each position in the previous frames.

    query: [B, N, key width]. relative_value: [heads, dv, offsets] or None. Returns [B, N, value width].
    """
    heads = relative_key.groups
    weight = relative_key.weight.flatten(1).unflatten(0, (heads, -1))  # [heads, offsets, d]
    logits = product(
        query.unflatten(-1, (heads, -1)).transpose(1, 2), weight.transpose(1, 2).expand(len(query), -1, -1, -1)
    )
    if relative_key.bias is not None:
        logits = logits + relative_key.bias.view(heads, 1, -1)
    keys, values = [m.key for m in memory], [m.value for m in memory]
    return local_attend(query, keys, values, WindowBias(logits, relative_value), grid=grid, heads=heads)
