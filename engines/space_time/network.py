"""The interface of a memory network that reads one bank per channel, and the values that cross it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engines.space_time.encoders import Encoder


@dataclass(frozen=True)
class Query:
    """Encoded query frames, a batch of B.

    key: [B, key width, h, w]; value: [B, value width, h, w]; r1, r2, r3: maps at strides 2, 4, 8.
    """

    key: Tensor
    value: Tensor
    r1: Tensor
    r2: Tensor
    r3: Tensor

    def tokens(self, index: int) -> Tensor:
        """[h * w, key width] keys of one frame."""
        return self.key[index].flatten(1).T

    def repeat(self, channels: Sequence[int]) -> Tensor:
        """[M] int64 index of the frame that each (frame, channel) item belongs to."""
        counts = torch.tensor(list(channels), device=self.key.device)
        return torch.arange(len(channels), device=self.key.device).repeat_interleave(counts)


class MemoryNetwork(nn.Module, ABC):
    """Weights of STM or AFB-URR. has_background: the background is a channel with memory of its own."""

    has_background: bool
    key_width: int
    value_width: int

    def optimise_for_serving(self) -> None:
        """Fold norms, recast convolutions and put channels last in memory, in place; changes the state dict's names."""
        for module in list(self.modules()):
            if isinstance(module, Encoder):
                module.optimise_for_serving()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def channels(self, object_ids: Sequence[int]) -> list[int]:
        """The channels of a frame in tensor order: the background, where it is one, then the objects."""
        return [0, *object_ids] if self.has_background else list(object_ids)

    @abstractmethod
    def memory_masks(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Own and other mask of each channel, both [C, 1, H, W].

        probability: [K+1, H, W] background first, padded with zeros. C is K, or K+1 with has_background.
        """

    @abstractmethod
    def encode_memory(self, frame: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """[M, 3, H, W] frames and [M, 1, H, W] masks to key [M, key width, h, w] and value [M, value width, h, w]."""

    @abstractmethod
    def encode_query(self, frame: Tensor) -> Query:
        """[B, 3, H, W] in 0..1, padded to whole stride cells."""

    @abstractmethod
    def segment(self, query: Query, reads: Tensor, channels: Sequence[int]) -> list[Tensor]:
        """Channel scores of each frame.

        reads: [M, value width, h, w], the channels of frame 0, then of frame 1, …; channels: how many each frame has.
        Returns per frame logits [K+1, H, W] whose softmax over channels, taken after cropping, is the probability.
        """

    def probability(self, logits: Tensor) -> Tensor:
        """[K+1, H, W] logits to probabilities that sum to 1."""
        return torch.softmax(logits.float(), dim=0)
