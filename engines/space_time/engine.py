"""The engine behind STM and AFB-URR: tracks with a bank per channel, several tracks per call.

Knows frames, label maps and banks; the network it is given knows none of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engines.banks import BankConfig, bank_config
from engines.banks.budget import budget_tokens, require_budget
from engines.banks.readout import Memory, read_bank
from engines.banks.shares import SharedBanks
from engines.catalog import DEFAULT_BUDGET_FRAMES, TOKEN_OVERHEAD_BYTES
from engines.errors import FrameSizeChanged, NoReferenceFrame, StateMismatch
from engines.labels import compose
from engines.protocols import EngineSpec
from engines.space_time.memory import MemoryWriter, chunk_items
from engines.space_time.network import MemoryNetwork, Query
from engines.space_time.padding import Geometry
from engines.space_time.track import BACKGROUND, SpaceTimeTrack
from engines.types import MAX_OBJECT_ID, Frame, LabelMap, MemoryPolicy, Prediction, Size, TrackState
from engines.visibility import Visibility, VisibilityRule, predict

SCHEMA = 1


@dataclass(frozen=True)
class SpaceTimeSettings:
    """What distinguishes the engines beside their networks.

    reads_previous: the previous frame is read beside the bank (STM). update_rate, merge_threshold, grace_steps: of the
    adaptive bank. rule: when an object counts as seen, and is memorised.
    """

    reads_previous: bool
    update_rate: float = 0.1
    merge_threshold: float = 0.95
    grace_steps: int = 10
    rule: VisibilityRule = VisibilityRule()


class SpaceTimeEngine:
    """Weights on one device; holds nothing of any video. See engines.protocols.Engine for what its methods promise."""

    def __init__(self, spec: EngineSpec, network: MemoryNetwork, settings: SpaceTimeSettings) -> None:
        self._spec = spec
        self._network = network.to(device=spec.device, dtype=spec.dtype).eval().requires_grad_(False)
        self._settings = settings
        self._writer = MemoryWriter(self._network, reads_previous=settings.reads_previous)

    @property
    def spec(self) -> EngineSpec:
        """Facts of this engine and its weights."""
        return self._spec

    # --- tracks ------------------------------------------------------------------------------------------------------

    def open(self, size: Size, memory: MemoryPolicy) -> SpaceTimeTrack:
        """An empty track. Raises BudgetTooSmall when not even one object's reference fits half of the budget."""
        geometry = Geometry.of(size, self._spec.net_short_side)
        config = self._bank_config(geometry, memory)
        track = SpaceTimeTrack(
            geometry=geometry,
            banks=SharedBanks(config, shared=_names_a_budget(memory)),
            visibility=Visibility(geometry.cell_px, self._settings.rule),
            memorize_every=memory.memorize_every or self._spec.memorize_every,
            released=memory.exact,
        )
        self._require_budget(track, objects=1)
        return track

    def _bank_config(self, geometry: Geometry, memory: MemoryPolicy) -> BankConfig:
        tokens = budget_tokens(
            memory, token_bytes=self._token_bytes, default_tokens=DEFAULT_BUDGET_FRAMES * geometry.cells
        )
        config = bank_config(memory, budget_tokens=max(1, tokens))
        threshold = memory.merge_threshold or self._settings.merge_threshold
        rate, grace = self._settings.update_rate, self._settings.grace_steps
        return replace(config, merge_threshold=threshold, update_rate=rate, grace_steps=grace)

    def _require_budget(self, track: SpaceTimeTrack, *, objects: int) -> None:
        tokens = track.banks.config.budget_tokens
        if tokens is not None and track.banks.shared and not track.released:
            banks = objects + int(self._network.has_background)
            require_budget(tokens, track.geometry.cells, token_bytes=self._token_bytes, banks=banks)

    @property
    def _token_bytes(self) -> int:
        return (self._network.key_width + self._network.value_width) * self._spec.dtype.itemsize

    def forget(self, track: SpaceTimeTrack, object_id: int) -> None:
        """Stop following one object; its memory goes, the others get its room. Raises KeyError for an unknown id."""
        track.banks.drop(object_id, step=track.steps)
        track.objects.remove(object_id)
        track.visibility.forget(object_id)
        track.short_term.pop(object_id, None)
        if track.composed is not None:
            track.composed = np.where(track.composed == object_id, 0, track.composed).astype(np.uint8)

    def snapshot(self, track: SpaceTimeTrack) -> TrackState:
        """The whole state of a track, copied to the host."""
        state = track.snapshot()
        own: dict[str, int | str] = {"schema": SCHEMA, "engine": self._spec.info.name}
        own |= {"weights_sha256": self._spec.weights_sha256, "dtype": str(self._spec.dtype)}
        return TrackState({**state.meta, **own}, state.tensors)

    def restore(self, state: TrackState) -> SpaceTimeTrack:
        """The track that snapshot() saw, byte for byte. Raises StateMismatch."""
        spec = self._spec
        want = {"schema": SCHEMA, "engine": spec.info.name, "weights_sha256": spec.weights_sha256}
        for name, value in (want | {"dtype": str(spec.dtype)}).items():
            if state.meta.get(name) != value:
                raise StateMismatch(f"the snapshot's {name} is {state.meta.get(name)!r}, this engine's is {value!r}")
        return SpaceTimeTrack.restore(state, spec.device, self._settings.rule)

    def track_bytes(self, size: Size, objects: int, memory: MemoryPolicy) -> int:
        """Upper bound of device bytes of one track; an every_k bank is counted at the default budget."""
        geometry, info = Geometry.of(size, self._spec.net_short_side), self._spec.info
        channels = objects + int(self._network.has_background)
        held = self._bank_config(geometry, memory).budget_tokens or DEFAULT_BUDGET_FRAMES * geometry.cells
        if not _names_a_budget(memory):
            held *= channels
        fresh = 2 * channels * geometry.cells
        pixels = geometry.padded.height * geometry.padded.width
        items = min(objects, chunk_items(self._spec.device))
        activations = pixels * (info.frame_bytes_per_px + items * info.object_bytes_per_px)
        return 2 * held * (self._token_bytes + TOKEN_OVERHEAD_BYTES) + fresh * self._token_bytes + activations

    # --- references --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def memorize(
        self, track: SpaceTimeTrack, frame: Frame, label_map: LabelMap, *, object_ids: Collection[int]
    ) -> None:
        """Take a reference; what it does not annotate stays as the track last saw it.

        Raises FrameSizeChanged, BudgetTooSmall, and ValueError for ids outside 1..254.
        """
        ids = sorted(object_ids)
        if not ids or ids[0] < 1 or ids[-1] > MAX_OBJECT_ID:
            raise ValueError(f"a reference annotates ids from 1 to {MAX_OBJECT_ID}, not {ids}")
        _require_size(track, frame, label_map)
        geometry, device = track.geometry, self._spec.device
        new = [i for i in ids if i not in track.objects]
        if not track.objects:
            self._require_budget(track, objects=len(ids))
        before, was = track.composed, list(track.objects)
        seen = np.zeros_like(label_map) if before is None else before
        composed = track.composed = compose(label_map, seen, ids)
        track.objects = sorted({*was, *ids})
        picture = self._frames([track], [frame])
        if new and was and before is not None:
            newcomers = np.where(np.isin(composed, new), composed, 0).astype(np.uint8)
            self._writer.make_way(
                track, picture, geometry.one_hot(before, was, device), geometry.one_hot(newcomers, new, device)
            )
        channels = self._annotated(track, ids, restart=bool(new and was))
        track.banks.open(self._network.channels(track.objects), step=track.steps)
        one_hot = geometry.one_hot(composed, track.objects, device)
        self._writer.write(track, picture, one_hot, channels, reference=True)
        for object_id in ids:
            track.visibility.reset(object_id)

    def _annotated(self, track: SpaceTimeTrack, ids: list[int], *, restart: bool) -> list[int]:
        """Channels that a reference is written to. The released loop begins all banks anew for a newcomer."""
        if track.released and restart:
            track.banks.clear()
            return self._network.channels(track.objects)
        return [c for c in self._network.channels(track.objects) if c == BACKGROUND or c in ids]

    # --- steps -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def propagate(
        self, tracks: Sequence[SpaceTimeTrack], frames: Sequence[Frame], *, probability: bool = False
    ) -> list[Prediction]:
        """Move each track one frame on: read, segment, judge, and memorise what is certain.

        Raises NoReferenceFrame, FrameSizeChanged.
        """
        if len(tracks) != len(frames):
            raise ValueError(f"{len(tracks)} tracks need as many frames, not {len(frames)}")
        for track, frame in zip(tracks, frames, strict=True):
            _require_size(track, frame)
            if not track.objects:
                raise NoReferenceFrame("memorize a reference with at least one object before propagating")
        if self._spec.deterministic:
            return [self._step([t], [f], probability)[0] for t, f in zip(tracks, frames, strict=True)]
        return self._step(tracks, frames, probability) if tracks else []

    def _step(
        self, tracks: Sequence[SpaceTimeTrack], frames: Sequence[Frame], keep_probability: bool
    ) -> list[Prediction]:
        pictures = self._frames(tracks, frames)
        query = self._network.encode_query(pictures)
        reads = torch.cat([self._read(track, query, i) for i, track in enumerate(tracks)])
        logits = self._network.segment(query, reads, [len(self._network.channels(t.objects)) for t in tracks])
        predictions = []
        for index, (track, scores) in enumerate(zip(tracks, logits, strict=True)):
            inner = self._network.probability(track.geometry.crop(scores))
            shown = track.geometry.show(inner)
            prediction = predict(shown, track.objects, track.visibility, keep_probability=keep_probability)
            track.steps += 1
            track.composed = prediction.label_map
            self._feed(track, pictures[index : index + 1], inner)
            predictions.append(prediction)
        return predictions

    def _read(self, track: SpaceTimeTrack, query: Query, index: int) -> Tensor:
        """[C, value width, h, w] read-outs of one track; counts the usage of its banks."""
        tokens = query.tokens(index)
        reads = []
        for channel in self._network.channels(track.objects):
            bank = track.banks[channel]
            parts = [Memory(bank.view("key"), bank.view("value"))] if len(bank) else []
            beside = track.short_term.get(channel)
            readout = read_bank(tokens, *parts, *([beside] if beside else []))
            if parts:
                bank.add_usage(readout.hits if track.released else readout.mass)
            reads.append(readout.values.T)
        height, width = query.key.shape[2:]
        return torch.stack(reads).unflatten(2, (height, width))

    def _feed(self, track: SpaceTimeTrack, picture: Tensor, probability: Tensor) -> None:
        """Memorise the frame just segmented, for the channels that are certain."""
        due = track.steps % track.memorize_every == 0
        if not due and not self._settings.reads_previous:
            return
        certain = [c for c in self._network.channels(track.objects) if self._is_certain(track, c)]
        track.short_term = {}
        if certain:
            self._writer.write(track, picture, probability, certain, reference=False, due=due)

    def _is_certain(self, track: SpaceTimeTrack, channel: int) -> bool:
        return channel == BACKGROUND or track.released or track.visibility.is_certain(channel)

    def _frames(self, tracks: Sequence[SpaceTimeTrack], frames: Sequence[Frame]) -> Tensor:
        device = self._spec.device
        return torch.cat([t.geometry.frame(f, device) for t, f in zip(tracks, frames, strict=True)]).to(
            self._spec.dtype
        )


def _require_size(track: SpaceTimeTrack, *arrays: Frame | LabelMap) -> None:
    for array in arrays:
        if Size.of(array) != track.size:
            raise FrameSizeChanged(f"this track has frames of {track.size}, not {Size.of(array)}: open another track")


def _names_a_budget(memory: MemoryPolicy) -> bool:
    return memory.budget_tokens is not None or memory.budget_mib is not None
