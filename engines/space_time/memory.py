"""Writes frames into a track's banks: encodes them per channel and decides what is kept where."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.banks import Tokens
from engines.banks.readout import Memory
from engines.banks.similarity import Targets, nearest
from engines.space_time.encoders import STRIDE
from engines.space_time.network import MemoryNetwork
from engines.space_time.track import BACKGROUND, SpaceTimeTrack

_ITEMS = {"cpu": 4, "cuda": 32}


def chunk_items(device: torch.device) -> int:
    """Channels that are encoded at a time: bounds the activations."""
    return _ITEMS.get(device.type, _ITEMS["cpu"])


class MemoryWriter:
    """Memorises frames for a network. reads_previous: what is not kept in a bank is read once more beside it."""

    def __init__(self, network: MemoryNetwork, *, reads_previous: bool) -> None:
        self._network = network
        self._reads_previous = reads_previous

    def write(
        self,
        track: SpaceTimeTrack,
        picture: Tensor,
        probability: Tensor,
        channels: list[int],
        *,
        reference: bool,
        due: bool = True,
    ) -> None:
        """Encode one frame for some channels, into their banks when due, else beside them until the next frame.

        picture: [1, 3, Hp, Wp]; probability: [K+1, h, w] at inner size.
        """
        own, other = self._network.memory_masks(track.geometry.pad(probability))
        order = self._network.channels(track.objects)
        rows = [order.index(c) for c in channels]
        keys, values = self._encode(picture, own[rows], other[rows])
        salients = _salient(own[rows], channels)
        whole = reference or track.banks.config.kind != "adaptive"
        for channel, key, value, salient in zip(channels, keys, values, salients, strict=True):
            memory = Memory(key.flatten(1).T.contiguous(), value.flatten(1).T.contiguous())
            track.short_term.pop(channel, None)
            if due:
                tokens = Tokens({"key": memory.keys, "value": memory.values}, salient=salient)
                track.banks[channel].write(tokens, step=track.steps, reference=reference)
            if self._reads_previous and not (due and whole):
                track.short_term[channel] = memory

    def make_way(self, track: SpaceTimeTrack, picture: Tensor, believed: Tensor, newcomers: Tensor) -> None:
        """Drop background memory that looks like a newcomer, or it would be pulled to the background for ever.

        picture: [1, 3, Hp, Wp]; believed: [K+1, h, w] what the track took the frame for; newcomers: [N+1, h, w] where
        the new objects are. The frame is encoded as the background's memory would have had it, so that like is
        compared with like.
        """
        if BACKGROUND not in track.banks:
            return
        own, other = self._network.memory_masks(track.geometry.pad(believed))
        key, _ = self._encode(picture, own[:1], other[:1])
        where = track.geometry.pad(newcomers[1:].sum(0))
        inside = F.avg_pool2d(where[None], STRIDE).flatten() > 0.5
        bank = track.banks[BACKGROUND]
        score, position = nearest(bank.view("key"), Targets(key[0].flatten(1).T), metric="cosine")
        bank.discard(inside[position] & (score > track.banks.config.merge_threshold))

    def _encode(self, picture: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        size = chunk_items(picture.device)
        parts = [
            self._network.encode_memory(picture.expand(len(o), -1, -1, -1), o, x)
            for o, x in zip(own.to(picture).split(size), other.to(picture).split(size), strict=True)
        ]
        return torch.cat([key for key, _ in parts]), torch.cat([value for _, value in parts])


def _salient(own: Tensor, channels: list[int]) -> Tensor:
    """[C, h * w] bool: cells that an object touches, from each channel's own mask [C, 1, H, W]."""
    share = F.avg_pool2d(own.float(), STRIDE).flatten(1)
    background = torch.tensor([c == BACKGROUND for c in channels], device=own.device)[:, None]
    return torch.where(background, share < 0.99, share > 0.01)
