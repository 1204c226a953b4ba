"""The state of one video in AOT and DeAOT: groups of objects, each with its memories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from engines.aot.memory import LongTermMemory
from engines.aot.propagation import LayerMemory
from engines.aot.target_model import TargetModel
from engines.labels import Slots
from engines.types import LabelMap, MemoryPolicy, Size
from engines.visibility import Visibility


@dataclass
class Group:
    """Objects that share one pass and one identity bank: ten at most, as many as the weights tell apart.

    short_term: memories of the newest frames, newest first, each a batch of one. last_memorized: the track's step of
    the newest frame in the long-term memory. memorized: frames written there that were no reference.
    """

    long_term: LongTermMemory
    slots: Slots
    short_term: list[tuple[LayerMemory, ...]] = field(default_factory=list)
    last_memorized: int = 0
    memorized: int = 0


@dataclass
class AotTrack:
    """One video in one direction.

    labels: the newest frame's label map at network size, before objects were judged lost. frame_mark: checksum of that
    frame, to tell whether a reference belongs to it. budget_tokens: of all groups together, None for no bound.
    target: for weights that were trained with one.
    """

    size: Size
    network_size: Size
    memory: MemoryPolicy
    memorize_every: int
    budget_tokens: int | None
    visibility: Visibility
    target: TargetModel | None = None
    groups: list[Group] = field(default_factory=list)
    steps: int = 0
    started: bool = False
    frame_mark: int = 0
    labels: LabelMap = field(default_factory=lambda: np.zeros((0, 0), dtype=np.uint8))

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The client's ids, ascending."""
        return tuple(sorted(object_id for group in self.groups for object_id in group.slots.object_ids))

    @property
    def bank_bytes(self) -> int:
        """Bytes of long-term and short-term memory, and of the target model."""
        recent = (m for group in self.groups for frame in group.short_term for m in frame)
        banks = sum(group.long_term.bank.nbytes for group in self.groups)
        return banks + sum(m.key.nbytes + m.value.nbytes for m in recent) + (self.target.nbytes if self.target else 0)

    @property
    def bank_tokens(self) -> int:
        """Tokens in the long-term memories."""
        return sum(len(group.long_term.bank) for group in self.groups)

    @property
    def bank_counts(self) -> dict[str, int]:
        """Tokens written, merged, evicted and thinned so far, all groups together."""
        total: Counter[str] = Counter()
        for group in self.groups:
            total.update(group.long_term.bank.counts)
        return dict(total)

    def group_of(self, object_id: int) -> Group:
        """The group that follows an object. Raises KeyError."""
        for group in self.groups:
            if object_id in group.slots.channels:
                return group
        raise KeyError(f"no object {object_id} in this track; it follows {list(self.object_ids)}")

    def open_group(self) -> Group | None:
        """A group with a free channel, or None."""
        return next((group for group in self.groups if not group.slots.full), None)

    def unsure_channels(self, group: Group) -> Iterator[int]:
        """Channels of objects that are lost or unsure in the newest frame."""
        for object_id, channel in group.slots.channels.items():
            if not self.visibility.is_certain(object_id):
                yield channel
