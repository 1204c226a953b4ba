"""The long-term memory of one group: a feature bank that all layers share. Knows channels, not object ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engines.aot.cells import pool_cells
from engines.aot.config import AotConfig
from engines.aot.propagation import LayerMemory
from engines.banks.protocol import FeatureBank, Tokens
from engines.banks.similarity import Targets, nearest
from engines.labels import one_hot
from engines.layers.attention import attend

PURE = 0.9
"""Share of one channel in a token's cell from which on the token may merge; below, it lies on a boundary."""

_SAMPLE = 4
"""Cells are judged on every fourth pixel of every fourth row."""


class CellLabels(NamedTuple):
    """Per token: the channel that fills most of its cell, [N] int64, and how much of it, [N] float32."""

    channel: Tensor
    share: Tensor


def cell_labels(channel_map: Tensor, width: int, *, aligned: bool) -> CellLabels:
    """What the cells of the token grid hold. channel_map: [H, W] at network size; aligned: sides are 16k + 1."""
    start = 0 if aligned else _SAMPLE // 2
    sampled = one_hot(channel_map[start::_SAMPLE, start::_SAMPLE], width)
    shares = pool_cells(sampled[None], _SAMPLE, align_corners=aligned)[0]
    share, channel = shares.flatten(1).max(dim=0)
    return CellLabels(channel, share)


class LongTermMemory:
    """Reads and writes of one bank; features are named key0, value0, key1, … by layer."""

    def __init__(self, config: AotConfig, bank: FeatureBank) -> None:
        self._config = config
        self.bank = bank

    def write(
        self,
        memory: Sequence[LayerMemory],
        cells: CellLabels,
        *,
        step: int,
        reference: bool,
        unsure: Collection[int] = (),
    ) -> None:
        """Memorise a frame (batch of one) but for the cells of `unsure` channels."""
        features = {f"key{i}": layer.key[0] for i, layer in enumerate(memory)}
        features |= {f"value{i}": layer.value[0] for i, layer in enumerate(memory)}
        channel, mergeable = cells.channel, cells.share >= PURE
        if unsure:
            kept = ~torch.isin(channel, torch.tensor(sorted(unsure), device=channel.device))
            features = {name: rows[kept] for name, rows in features.items()}
            channel, mergeable = channel[kept], mergeable[kept]
        self.bank.write(Tokens(features, identity=channel, mergeable=mergeable), step=step, reference=reference)

    def read(self, layer: int, query: Tensor, *, count_usage: bool) -> Tensor:
        """[1, N, key width] to [1, N, value width]. Usage is counted where merging is decided, in the last layer."""
        key, value = self.bank.view(f"key{layer}"), self.bank.view(f"value{layer}")
        counted = count_usage and layer == self._config.layers - 1
        readout = attend(query, key[None], value[None], heads=self._config.heads, count_mass=counted)
        if readout.mass is not None:
            self.bank.add_usage(readout.mass[0])
        return readout.value

    def forget(self, channel: int) -> None:
        """Drop all tokens of a channel."""
        if len(self.bank):
            self.bank.discard(self.bank.identity() == channel)

    def release_background(self, newest: LayerMemory, cells: CellLabels, newcomers: Collection[int]) -> int:
        """Drop background tokens that look more like a newcomer than like the rest of the newcomer's frame.

        They called the newcomer background before it was known. newest: last layer's memory of that frame.
        Returns how many went.
        """
        if not len(self.bank) or not newcomers:
            return 0
        background = self.bank.identity() == 0
        keys = self.bank.view(f"key{self._config.layers - 1}")[background]
        _, likest = nearest(keys, Targets(newest.key[0]), metric="cosine")
        taken = torch.isin(cells.channel, torch.tensor(sorted(newcomers), device=cells.channel.device))
        mask = background.clone()
        mask[background] = taken[likest]
        self.bank.discard(mask)
        return int(mask.sum())


def match_feature(config: AotConfig) -> str:
    """The feature whose similarity decides merges for all layers: the last layer's key."""
    return f"key{config.layers - 1}"


def token_bytes(config: AotConfig, element_bytes: int) -> int:
    """Bytes of one token's features over all layers."""
    return config.layers * (config.key_width + config.value_width) * element_bytes


def join_rows(rows: Sequence[tuple[LayerMemory, ...]]) -> tuple[LayerMemory, ...]:
    """Batches of one to one batch, layer by layer."""
    if len(rows) == 1:
        return rows[0]
    layers = zip(*rows, strict=True)
    return tuple(LayerMemory(torch.cat([m.key for m in x]), torch.cat([m.value for m in x])) for x in layers)


def row_of(memory: Sequence[LayerMemory], row: int) -> tuple[LayerMemory, ...]:
    """One row of a batch, its own copy unless it is the whole batch."""
    if memory[0].key.shape[0] == 1:
        return tuple(memory)
    return tuple(LayerMemory(m.key[row : row + 1].clone(), m.value[row : row + 1].clone()) for m in memory)
