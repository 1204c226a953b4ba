"""AOT and DeAOT as an engine: tracks in, label maps out. Knows objects and memories; the network is in model.py."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from engines.aot.config import OBJECTS_PER_GROUP, STRIDE, AotConfig
from engines.aot.groups import new_group, share_budget
from engines.aot.memory import CellLabels, cell_labels, join_rows, row_of, token_bytes
from engines.aot.model import AotNet, EncodedFrame, Step
from engines.aot.output import memory_labels, object_probability
from engines.aot.propagation import LayerMemory
from engines.aot.snapshots import restore_track, take_snapshot
from engines.aot.target_model import TargetModel, state_bytes
from engines.aot.track import AotTrack, Group
from engines.banks.budget import budget_tokens, require_budget
from engines.catalog import DEFAULT_BUDGET_FRAMES
from engines.errors import FrameSizeChanged, NoReferenceFrame
from engines.labels import compose, most_probable, one_hot, rank_channels, to_channels
from engines.protocols import EngineSpec
from engines.transforms import network_size, resize_labels, to_network
from engines.types import Frame, LabelMap, MemoryPolicy, Prediction, Size, TrackState
from engines.visibility import Visibility, predict

PUBLISHED_ORDER = tuple(range(1, OBJECTS_PER_GROUP + 1))

_ROW_ACTIVATION_BYTES_PER_PIXEL = 260
_FRAME_ACTIVATION_BYTES_PER_PIXEL = 420


class AotEngine:
    """One variant with its weights on one device."""

    def __init__(
        self,
        net: AotNet,
        spec: EngineSpec,
        channel_order: tuple[int, ...] = PUBLISHED_ORDER,
        *,
        target_gain: float = 0.0,
    ) -> None:
        """channel_order: identity channels that a pass hands out, best told apart first; as many objects share it.

        target_gain: weight of a target model's scores, 0 for none.
        """
        self._net = net
        self._spec = spec
        self._channel_order = channel_order
        self._target_gain = target_gain

    @property
    def spec(self) -> EngineSpec:
        """Facts of this engine and its weights."""
        return self._spec

    @property
    def config(self) -> AotConfig:
        """The variant."""
        return self._net.config

    # --- tracks ------------------------------------------------------------------------------------------------------

    def open(self, size: Size, memory: MemoryPolicy) -> AotTrack:
        """An empty track for frames of `size`. Raises BudgetTooSmall."""
        seen = self._network_size(size)
        tokens = self._tokens(seen)
        budget = None
        if memory.kind != "every_k":
            each = self._token_bytes()
            budget = budget_tokens(memory, token_bytes=each, default_tokens=DEFAULT_BUDGET_FRAMES * tokens)
            require_budget(budget, tokens, token_bytes=each)
        return AotTrack(
            size=size,
            network_size=seen,
            memory=memory,
            memorize_every=memory.memorize_every or self._spec.memorize_every,
            budget_tokens=budget,
            visibility=Visibility(cell_px=size.height * size.width / tokens),
            target=self._new_target(),
        )

    @torch.inference_mode()
    def snapshot(self, track: AotTrack) -> TrackState:
        """The whole state of a track, copied to the host."""
        return take_snapshot(track, self._spec)

    @torch.inference_mode()
    def restore(self, state: TrackState) -> AotTrack:
        """The track that snapshot() saw, byte for byte. Raises StateMismatch."""
        return restore_track(state, self._spec, self.config, self._new_target())

    def track_bytes(self, size: Size, objects: int, memory: MemoryPolicy) -> int:
        """Upper bound of device bytes of one track; an unbounded memory is counted as 200 frames."""
        seen = self._network_size(size)
        tokens, pixels = self._tokens(seen), seen.height * seen.width
        groups = max(1, -(-objects // len(self._channel_order)))
        budget = self.open(size, memory).budget_tokens or 200 * tokens * groups
        short_term = tokens * groups * (self.config.short_term_frames + 1)
        activations = pixels * (_FRAME_ACTIVATION_BYTES_PER_PIXEL + groups * _ROW_ACTIVATION_BYTES_PER_PIXEL)
        target = state_bytes(self.config.map_widths, objects) if self._target_gain else 0
        return (budget * 2 + short_term) * self._token_bytes() + target + activations

    @torch.inference_mode()
    def forget(self, track: AotTrack, object_id: int) -> None:
        """Stop following an object; its tokens leave the memory. Raises KeyError for an unknown id."""
        group = track.group_of(object_id)
        channel = group.slots.leave(object_id)
        track.visibility.forget(object_id)
        if track.target is not None:
            track.target.forget(object_id)
        track.labels = np.where(track.labels == object_id, 0, track.labels).astype(np.uint8)
        if group.slots.channels:
            group.long_term.forget(channel)
        else:
            track.groups.remove(group)
            share_budget(track)

    # --- references --------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def memorize(self, track: AotTrack, frame: Frame, label_map: LabelMap, *, object_ids: Collection[int]) -> None:
        """Take a reference; see protocols.Engine. Objects that it does not speak for are segmented first."""
        self._check_size(track, frame, label_map)
        encoded = self._encode([track], [frame])
        others = set(track.object_ids) - set(object_ids)
        predicted = self._labels_of(track, frame, encoded) if others else np.zeros_like(label_map, shape=_shape(track))
        composed = compose(resize_labels(label_map, track.network_size), predicted, object_ids)
        newcomers = [object_id for object_id in sorted(object_ids) if object_id not in track.object_ids]
        for object_id in newcomers:
            group = track.open_group() or new_group(track, self.config, self._channel_order)
            group.slots.join(object_id)
        touched = [group for group in track.groups if set(group.slots.channels) & set(object_ids)]
        for group in touched:
            self._memorize_reference(track, group, encoded, composed, newcomers)
        if track.target is not None:
            track.target.learn(encoded.maps, composed, track.object_ids)
        for object_id in object_ids:
            track.visibility.reset(object_id)
        track.labels, track.frame_mark, track.started = composed, zlib.crc32(frame.tobytes()), True

    def _memorize_reference(
        self, track: AotTrack, group: Group, encoded: EncodedFrame, labels: LabelMap, newcomers: Sequence[int]
    ) -> None:
        channel_map = self._channel_map(labels, group)
        identity = self._net.embed_ids(one_hot(channel_map, group.slots.width)[None].to(self._spec.dtype))
        memory = self._net.reference_step(encoded, identity).own_memory()
        cells = self._cells(channel_map, group)
        joined = [group.slots.channels[object_id] for object_id in newcomers if object_id in group.slots.channels]
        group.long_term.release_background(memory[-1], cells, joined)
        group.long_term.write(memory, cells, step=track.steps, reference=True)
        group.short_term = [memory]
        group.last_memorized = track.steps

    def _labels_of(self, track: AotTrack, frame: Frame, encoded: EncodedFrame) -> LabelMap:
        """Where the track's objects are in a frame, without moving on."""
        if zlib.crc32(frame.tobytes()) == track.frame_mark:
            return track.labels
        _, logits = self._segment(encoded, track.groups, count_usage=False)
        probability, ids = self._probability(track, logits, encoded.maps)
        return memory_labels(most_probable(probability), ids, track.network_size)

    # --- frames ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def propagate(
        self, tracks: Sequence[AotTrack], frames: Sequence[Frame], *, probability: bool = False
    ) -> list[Prediction]:
        """Move each track one frame on; see protocols.Engine.

        A deterministic engine gives each track its own kernel calls, so that its masks do not depend on its company.
        """
        for track, frame in zip(tracks, frames, strict=True):
            self._check_size(track, frame)
            if not track.started:
                raise NoReferenceFrame("memorize() a reference before propagate()")
        if len({track.network_size for track in tracks}) > 1:
            raise ValueError(f"tracks of one call share one network size, not {sorted(map(_shape, tracks))}")
        if self._spec.deterministic:
            pairs = zip(tracks, frames, strict=True)
            return [self._advance([track], [frame], probability=probability)[0] for track, frame in pairs]
        return self._advance(tracks, frames, probability=probability) if tracks else []

    def _advance(self, tracks: Sequence[AotTrack], frames: Sequence[Frame], *, probability: bool) -> list[Prediction]:
        owners = [index for index, track in enumerate(tracks) for _ in track.groups]
        groups = [group for track in tracks for group in track.groups]
        encoded = self._encode(tracks, frames)
        step, logits = self._segment(encoded.rows(owners), groups, count_usage=True) if groups else (None, [])
        predictions = []
        for index, (track, frame) in enumerate(zip(tracks, frames, strict=True)):
            own = [logits[row] for row, owner in enumerate(owners) if owner == index]
            merged, ids = self._probability(track, own, encoded.maps_of(index))
            ranking = rank_channels(merged)
            predictions.append(predict(merged, ids, track.visibility, keep_probability=probability, ranking=ranking))
            track.labels = memory_labels(ranking.label, ids, track.network_size)
            track.frame_mark, track.steps = zlib.crc32(frame.tobytes()), track.steps + 1
        if step is not None:
            self._remember(tracks, step)
        return predictions

    def _segment(
        self, encoded: EncodedFrame, groups: Sequence[Group], *, count_usage: bool
    ) -> tuple[Step, list[Tensor]]:
        """Read the memories of each group (one per row of `encoded`) and decode: per row [channels, h4, w4]."""
        if encoded.tokens.shape[0] != len(groups):
            encoded = encoded.rows([0] * len(groups))

        def read(layer: int, query: Tensor) -> Tensor:
            rows = [
                group.long_term.read(layer, query[i : i + 1], count_usage=count_usage and group.memorized > 0)
                for i, group in enumerate(groups)
            ]
            return rows[0] if len(rows) == 1 else torch.cat(rows)

        depth = max(len(group.short_term) for group in groups)
        # A frame read twice in one softmax counts as once, so a shorter past repeats its oldest.
        recent = [join_rows([g.short_term[min(age, len(g.short_term) - 1)] for g in groups]) for age in range(depth)]
        step = self._net.propagate_step(encoded, read, recent)
        logits = self._net.decode(step, encoded)
        return step, [row[: group.slots.width] for row, group in zip(logits, groups, strict=True)]

    def _probability(
        self, track: AotTrack, logits: Sequence[Tensor], maps: Sequence[Tensor]
    ) -> tuple[Tensor, tuple[int, ...]]:
        """[K + 1, H, W] at the frame's size, and the ids of its channels after the background.

        logits: of each group of the track. maps: of the track's frame alone.
        """
        size = (track.size.height, track.size.width)
        if not logits:
            return torch.ones(1, *size, device=self._spec.device), ()
        slots = [group.slots for group in track.groups]
        if track.target is not None:
            logits = track.target.add_scores(maps, logits, slots)
        return object_probability(logits, slots, track.size, align_corners=self.config.align_corners)

    def _remember(self, tracks: Sequence[AotTrack], step: Step) -> None:
        owned = [(track, group) for track in tracks for group in track.groups]
        width = max(group.slots.width for _, group in owned)
        maps = [self._channel_map(track.labels, group) for track, group in owned]
        identity = self._net.embed_ids(one_hot(torch.stack(maps), width).to(self._spec.dtype))
        memory = self._net.remember(step, identity)
        for row, ((track, group), channel_map) in enumerate(zip(owned, maps, strict=True)):
            newest = row_of(memory, row)
            group.short_term = [newest, *group.short_term][: max(1, self.config.short_term_frames)]
            if track.steps - group.last_memorized >= track.memorize_every:
                self._memorize_step(track, group, newest, channel_map)

    def _memorize_step(
        self, track: AotTrack, group: Group, memory: tuple[LayerMemory, ...], channel_map: Tensor
    ) -> None:
        unsure = () if track.memory.kind == "every_k" else tuple(track.unsure_channels(group))
        cells = self._cells(channel_map, group)
        group.long_term.write(memory, cells, step=track.steps, reference=False, unsure=unsure)
        group.last_memorized = track.steps
        group.memorized += 1

    # --- small things ------------------------------------------------------------------------------------------------

    def _encode(self, tracks: Sequence[AotTrack], frames: Sequence[Frame]) -> EncodedFrame:
        device = self._spec.device
        images = [to_network(frame, track.network_size, device) for track, frame in zip(tracks, frames, strict=True)]
        return self._net.encode(torch.cat(images).to(self._spec.dtype))

    def _new_target(self) -> TargetModel | None:
        return TargetModel(self._target_gain, self.config.align_corners) if self._target_gain else None

    def _channel_map(self, labels: LabelMap, group: Group) -> Tensor:
        return torch.from_numpy(to_channels(labels, group.slots.channels)).to(self._spec.device)

    def _cells(self, channel_map: Tensor, group: Group) -> CellLabels:
        return cell_labels(channel_map, group.slots.width, aligned=self.config.align_corners)

    def _network_size(self, size: Size) -> Size:
        side = self._spec.net_short_side
        return network_size(size, short_side=side, stride=STRIDE, plus_one=self.config.align_corners)

    def _tokens(self, seen: Size) -> int:
        return -(-seen.height // STRIDE) * -(-seen.width // STRIDE)

    def _token_bytes(self) -> int:
        return token_bytes(self.config, self._spec.dtype.itemsize)

    def _check_size(self, track: AotTrack, *arrays: Frame | LabelMap) -> None:
        for array in arrays:
            if Size.of(array) != track.size:
                raise FrameSizeChanged(f"the track's frames are {track.size}, this one is {Size.of(array)}")


def _shape(track: AotTrack) -> tuple[int, int]:
    return track.network_size.height, track.network_size.width
