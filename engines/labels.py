"""Object ids (the client's) to channels (positions in a tensor) and back; the only place where they meet.

Channel 0 is the background. An object's channel is its slot: given when it joins, never handed on while it may still be
written in a memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.types import IGNORE_LABEL, LabelMap

IGNORE_CHANNEL = 255
"""In a channel map: no channel at all, not even the background."""

ChannelMap = NDArray[np.uint8]
"""[H, W]; 0 background, otherwise a channel, or IGNORE_CHANNEL."""


@dataclass
class Slots:
    """Which object has which channel, for up to len(order) objects that share one background channel.

    order: the channels 1.., in the order in which they are given out.
    """

    order: tuple[int, ...]
    channels: dict[int, int] = field(default_factory=dict)
    retired: set[int] = field(default_factory=set)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ascending."""
        return tuple(sorted(self.channels))

    @property
    def width(self) -> int:
        """Channels up to the last one in use, background included."""
        return max(self.channels.values(), default=0) + 1

    @property
    def full(self) -> bool:
        """Whether every channel is taken or was."""
        return len(self.channels) + len(self.retired) >= len(self.order)

    def join(self, object_id: int) -> int:
        """The channel of a new object."""
        taken = set(self.channels.values()) | self.retired
        channel = next(c for c in self.order if c not in taken)
        self.channels[object_id] = channel
        return channel

    def leave(self, object_id: int) -> int:
        """Retire the channel of an object and return it. Raises KeyError for an unknown id."""
        channel = self.channels.pop(object_id)
        self.retired.add(channel)
        return channel

    def ordered_channels(self) -> list[int]:
        """The background's channel and then those of the objects by ascending id."""
        return [0, *(self.channels[object_id] for object_id in self.object_ids)]


def to_channels(label_map: LabelMap, channels: Mapping[int, int]) -> ChannelMap:
    """Object ids to channels; ids that have none are background, IGNORE_LABEL is IGNORE_CHANNEL."""
    table = np.zeros(256, dtype=np.uint8)
    for object_id, channel in channels.items():
        table[object_id] = channel
    table[IGNORE_LABEL] = IGNORE_CHANNEL
    return table[label_map]


def to_label_map(channel_map: ChannelMap, channels: Mapping[int, int]) -> LabelMap:
    """Channels to object ids; channels that no object has are background."""
    table = np.zeros(256, dtype=np.uint8)
    for object_id, channel in channels.items():
        table[channel] = object_id
    return table[channel_map]


def one_hot(channel_map: Tensor, width: int) -> Tensor:
    """[..., H, W] channels to [..., width, H, W] float32; what lies beyond `width` is zero in every channel."""
    channels = torch.arange(width, device=channel_map.device).view(-1, 1, 1)
    return (channel_map.unsqueeze(-3) == channels).float()


def compose(annotated: LabelMap, predicted: LabelMap, object_ids: Collection[int]) -> LabelMap:
    """A whole label map from a client's, which speaks for `object_ids` only, and the prediction for all others.

    The client's pixels win; where it says background or ignore, the predictions of other objects stay. Predicted pixels
    of an annotated object give way.
    """
    ours = np.isin(annotated, list(object_ids))
    kept = np.where(np.isin(predicted, list(object_ids)), 0, predicted)
    ignored = (annotated == IGNORE_LABEL) & (kept == 0)
    return np.where(ours | ignored, annotated, kept).astype(np.uint8)


def unknown_ids(label_map: LabelMap, object_ids: Iterable[int]) -> list[int]:
    """Ids in the map, ignore aside, that are not among `object_ids`."""
    return sorted(set(np.unique(label_map).tolist()) - set(object_ids) - {0, IGNORE_LABEL})


def by_object(channels: Tensor, object_ids: Iterable[int]) -> dict[int, Tensor]:
    """[K+1, ...] of a prediction, background first and then the objects by ascending id, as one [...] per object."""
    return dict(zip(sorted(object_ids), channels[1:], strict=True))


class Ranking(NamedTuple):
    """The two most probable channels of each pixel, all [H, W].

    label: uint8, the first of the largest. best, second: their probabilities; the second of one channel is 0.
    """

    label: Tensor
    best: Tensor
    second: Tensor


def rank_channels(probability: Tensor) -> Ranking:
    """Rank [C, H, W], C < 256; channel by channel, several times faster on CPU than sorting or arg-max over axis 0."""
    label = torch.zeros(probability.shape[1:], dtype=torch.uint8, device=probability.device)
    best, second = probability[0], torch.zeros_like(probability[0])
    for channel, p in enumerate(probability[1:], start=1):
        label.masked_fill_(p > best, channel)
        second = torch.maximum(second, torch.minimum(best, p))
        best = torch.maximum(best, p)
    return Ranking(label, best, second)


def most_probable(probability: Tensor) -> Tensor:
    """[C, H, W] to [H, W] uint8, the first of the largest."""
    return rank_channels(probability).label


def soft_aggregate(background: Tensor, objects: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Independent probabilities to one distribution over the background and all objects.

    background: [H, W], the product of each model's own; objects: [K, H, W]. Returns [K + 1, H, W] float32: each
    probability's odds, normalised. Source: STM, Oh et al. 2019, section 3.5 (soft aggregation).
    """
    p = torch.cat([background[None], objects]).float().clamp(epsilon, 1 - epsilon)
    odds = p / (1 - p)
    return odds / odds.sum(dim=0, keepdim=True)


def merge_groups(probabilities: Sequence[Tensor], slots: Sequence[Slots]) -> tuple[Tensor, tuple[int, ...]]:
    """Probabilities of groups of objects that were segmented apart to one distribution.

    probabilities: per group [k + 1, H, W], the background and then its objects by ascending id. Returns [K + 1, H, W],
    background first and then the objects by ascending id, and those ids. One group is taken as it is.
    """
    ids = [object_id for s in slots for object_id in s.object_ids]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    if len(probabilities) == 1:
        return probabilities[0].float(), tuple(ids)
    background = torch.stack([p[0] for p in probabilities]).prod(dim=0)
    objects = torch.cat([p[1:] for p in probabilities])[order]
    return soft_aggregate(background, objects), tuple(ids[i] for i in order)
