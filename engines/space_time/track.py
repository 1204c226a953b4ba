"""The state of one video under STM or AFB-URR: a bank per channel, the previous frame, what is visible."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import torch
from torch import Tensor

from engines.banks.readout import Memory
from engines.banks.shares import SharedBanks
from engines.space_time.padding import Geometry
from engines.track_state import join_states, part_of
from engines.types import LabelMap, Size, TrackState
from engines.visibility import Visibility, VisibilityRule

BACKGROUND = 0
_BANKS = "banks"


@dataclass
class SpaceTimeTrack:
    """One video in one direction.

    short_term: keys and values of the previous frame by channel, where the engine reads it and the bank lacks it.
    composed: the newest label map, references over predictions.
    released: the published loops to the letter (every frame is memorised for every object).
    """

    geometry: Geometry
    banks: SharedBanks
    visibility: Visibility
    memorize_every: int
    released: bool
    objects: list[int] = field(default_factory=list)
    steps: int = 0
    composed: LabelMap | None = None
    short_term: dict[int, Memory] = field(default_factory=dict)

    @property
    def size(self) -> Size:
        """Size of its frames and label maps, in pixels as displayed."""
        return self.geometry.shown

    @property
    def network_size(self) -> Size:
        """Size the network sees, padding included."""
        return self.geometry.padded

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The client's ids that the track follows, ascending."""
        return tuple(self.objects)

    @property
    def bank_bytes(self) -> int:
        """Bytes that the track's memory holds now, the previous frame included."""
        parts = [t for memory in self.short_term.values() for t in (memory.keys, memory.values)]
        return self.banks.nbytes + sum(t.numel() * t.element_size() for t in parts)

    @property
    def bank_tokens(self) -> int:
        """Tokens in the long-term memory now."""
        return len(self.banks)

    @property
    def bank_counts(self) -> dict[str, int]:
        """Tokens written, merged, evicted and thinned so far."""
        return self.banks.counts

    def snapshot(self) -> TrackState:
        """Everything, copied to the host."""
        shown, inner = self.geometry.shown, self.geometry.inner
        meta: dict[str, int | str] = {
            "height": shown.height,
            "width": shown.width,
            "inner_height": inner.height,
            "inner_width": inner.width,
            "steps": self.steps,
            "memorize_every": self.memorize_every,
            "released": int(self.released),
            "objects": json.dumps(self.objects),
            "short_term": json.dumps(list(self.short_term)),
            "visibility": self.visibility.to_json(),
        }
        tensors = {} if self.composed is None else {"composed": torch.from_numpy(self.composed.copy())}
        for channel, memory in self.short_term.items():
            tensors[f"short_term_key{channel}"] = _host(memory.keys)
            tensors[f"short_term_value{channel}"] = _host(memory.values)
        return join_states(TrackState(meta, tensors), {_BANKS: self.banks.snapshot()})

    @classmethod
    def restore(cls, state: TrackState, device: torch.device, rule: VisibilityRule) -> SpaceTimeTrack:
        """The track that snapshot() saw, byte for byte. Raises StateMismatch."""
        meta, tensors = state.meta, state.tensors
        composed = tensors.get("composed")
        inner = Size(int(meta["inner_height"]), int(meta["inner_width"]))
        track = cls(
            geometry=Geometry.of_inner(Size(int(meta["height"]), int(meta["width"])), inner),
            banks=SharedBanks.restore(part_of(state, _BANKS), device),
            visibility=Visibility.from_json(str(meta["visibility"]), rule),
            memorize_every=int(meta["memorize_every"]),
            released=bool(meta["released"]),
            objects=json.loads(str(meta["objects"])),
            steps=int(meta["steps"]),
            composed=None if composed is None else composed.numpy().copy(),
        )
        for channel in json.loads(str(meta["short_term"])):
            key, value = tensors[f"short_term_key{channel}"], tensors[f"short_term_value{channel}"]
            track.short_term[channel] = Memory(key.to(device, copy=True), value.to(device, copy=True))
        return track


def _host(tensor: Tensor) -> Tensor:
    return tensor.to("cpu", copy=True).contiguous()
