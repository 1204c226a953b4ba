"""FEELVOS as an engine: references in, one step at a time, several tracks per call.

Source: FEELVOS, Voigtlaender et al. 2019; where this differs from the released code, docs/methods.md says so.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.banks import BankConfig
from engines.catalog import CATALOG, TOKEN_OVERHEAD_BYTES
from engines.checkpoint import Weights, fit
from engines.errors import FrameSizeChanged, NoReferenceFrame
from engines.feelvos.config import CONFIGS, FeelvosConfig
from engines.feelvos.matching import global_matching, local_matching, to_distance
from engines.feelvos.memory import (
    DEFAULT_BUDGET_FRAMES,
    EMBEDDING,
    annotate,
    bank_settings,
    store_frame,
    store_reference,
    warn_of_small,
)
from engines.feelvos.model import FeelvosNet, FrameFeatures, feature_size, resize_aligned
from engines.feelvos.references import aligned_index, shrink_labels
from engines.feelvos.track import (
    FeelvosTrack,
    PreviousFrame,
    frame_checksum,
    load_track,
    open_track,
    save_track,
    without_object,
)
from engines.feelvos.weights import load_weights
from engines.protocols import EngineSpec
from engines.transforms import network_size, to_network
from engines.types import MAX_OBJECT_ID, Frame, LabelMap, MemoryPolicy, Prediction, Size, TrackState
from engines.visibility import predict

PUBLISHED_SHORT_SIDE = 480
PUBLISHED_MEMORIZE_EVERY = 9999
"""Published: only references are remembered for global matching."""

_OBJECTS_PER_PASS = 3
"""Objects that go through the head together; bounds its memory."""


@dataclass(frozen=True)
class _Query:
    """One track's frame in network terms: shared [1, C, h, w] for the head, embedding [h, w, E]."""

    shared: Tensor
    embedding: Tensor


class FeelvosEngine:
    """Weights on one device; see engines.protocols.Engine for what its methods promise."""

    def __init__(self, network: FeelvosNet, spec: EngineSpec) -> None:
        self.network = network
        self._spec = spec

    @property
    def spec(self) -> EngineSpec:
        """Facts of this engine and its weights."""
        return self._spec

    @property
    def config(self) -> FeelvosConfig:
        """The variant's architecture and matching constants."""
        return self.network.config

    # --- tracks ------------------------------------------------------------------------------------------------------

    def open(self, size: Size, memory: MemoryPolicy) -> FeelvosTrack:
        """An empty track for frames of `size`. Raises BudgetTooSmall."""
        network_size = self.network_size(size)
        return open_track(size, network_size, memory, self._bank_settings(network_size, memory))

    def network_size(self, size: Size) -> Size:
        """The size that frames of `size` are segmented at: shrunk to the weights' short side, never enlarged."""
        return network_size(size, short_side=self._spec.net_short_side, stride=1, plus_one=False)

    def _token_bytes(self) -> int:
        return self.config.embedding_width * self._spec.dtype.itemsize

    def _bank_settings(self, network_size: Size, memory: MemoryPolicy) -> BankConfig:
        height, width = feature_size(network_size.height, network_size.width)
        return bank_settings(self.config, memory, frame_tokens=height * width, token_bytes=self._token_bytes())

    @torch.no_grad()
    def forget(self, track: FeelvosTrack, object_id: int) -> None:
        """Stop following one object; its features leave the memory. Raises KeyError for an unknown id."""
        if object_id not in track.object_ids:
            raise KeyError(f"the track does not follow object {object_id}; it follows {list(track.object_ids)}")
        without_object(track, object_id)

    def snapshot(self, track: FeelvosTrack) -> TrackState:
        """The whole state of a track, copied to the host. The track goes on unchanged."""
        return save_track(track, self._fingerprint())

    def restore(self, state: TrackState) -> FeelvosTrack:
        """The track that snapshot() saw, byte for byte. Raises StateMismatch."""
        return load_track(state, self._fingerprint(), self._spec.device)

    def _fingerprint(self) -> str:
        return f"{self._spec.info.name}/{self._spec.weights_sha256}/{self._spec.dtype}"

    def track_bytes(self, size: Size, objects: int, memory: MemoryPolicy) -> int:
        """Upper bound of device bytes that one track will take, its share of the activations included."""
        network_size = self.network_size(size)
        height, width = feature_size(network_size.height, network_size.width)
        bank = self._bank_settings(network_size, memory).budget_tokens or DEFAULT_BUDGET_FRAMES * height * width
        stored = bank * (self._token_bytes() + TOKEN_OVERHEAD_BYTES)
        return stored + height * width * self._cell_bytes(objects) + 24 * (objects + 1) * size.height * size.width

    def _cell_bytes(self, objects: int) -> int:
        """Activations per feature cell: the trunk's, or the head's for one pass. Rounded up from measured peaks."""
        encoding = 17 * self.config.decoder_width
        segmenting = 4 * self.config.decoder_width + 3 * self.config.head_width * min(objects + 1, _OBJECTS_PER_PASS)
        return self._spec.dtype.itemsize * max(encoding, segmenting)

    # --- references --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def memorize(self, track: FeelvosTrack, frame: Frame, label_map: LabelMap, *, object_ids: Collection[int]) -> None:
        """Take a reference. `object_ids` are those that the map annotates; 0 is background for them only.

        Does not move the track on. An object too small for one feature cell keeps one feature, and the track's warnings
        say so. Raises FrameSizeChanged; ValueError for ids out of range.
        """
        self._check_size(track, frame, "frame")
        self._check_size(track, label_map, "label map")
        annotated = sorted(set(object_ids))
        if not annotated or not all(1 <= name <= MAX_OBJECT_ID for name in annotated):
            raise ValueError(f"a reference needs object ids of 1 to {MAX_OBJECT_ID}, not {annotated}")
        embedding = self._queries([track], [frame])[0].embedding
        checksum = frame_checksum(frame)
        if track.previous is None:
            track.seed = checksum
        cells = shrink_labels(label_map, (embedding.shape[0], embedding.shape[1]), annotated)
        warn_of_small(track, cells)
        annotation = annotate(track, cells, annotated, checksum, self._spec.device)
        store_reference(track, embedding, annotation, self.config.reference_sample)
        track.previous = PreviousFrame(embedding, annotation.labels, None, checksum)
        track.object_ids = tuple(sorted({*track.object_ids, *annotated}))
        track.references += 1
        for name in annotated:
            track.visibility.reset(name)

    def _check_size(self, track: FeelvosTrack, array: NDArray[np.uint8], what: str) -> None:
        found, wanted = Size.of(array), track.size
        if found != wanted:
            raise FrameSizeChanged(
                f"the {what} is {found.height}x{found.width} (height x width), the track is for "
                f"{wanted.height}x{wanted.width}; scale it or open a new track"
            )

    # --- steps -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def propagate(
        self, tracks: Sequence[FeelvosTrack], frames: Sequence[Frame], *, probability: bool = False
    ) -> list[Prediction]:
        """Move each track one frame on and feed its memory by its own policy.

        All tracks share one network_size. Raises NoReferenceFrame, FrameSizeChanged.
        """
        for track, frame in zip(tracks, frames, strict=True):
            self._check_size(track, frame, "frame")
            if track.previous is None or not track.object_ids:
                raise NoReferenceFrame("the track follows no object: memorize a reference before propagating")
            if track.network_size != tracks[0].network_size:
                raise FrameSizeChanged("tracks of one call must share one network size; call once for each size")
        alone = self._spec.deterministic
        groups = [slice(i, i + 1) for i in range(len(tracks))] if alone else [slice(0, len(tracks))]
        found: list[Prediction] = []
        for group in groups:
            found += self._propagate_together(tracks[group], frames[group], probability)
        return found

    def _propagate_together(
        self, tracks: Sequence[FeelvosTrack], frames: Sequence[Frame], probability: bool
    ) -> list[Prediction]:
        if not tracks:
            return []
        queries = self._queries(tracks, frames)
        own = [self._object_maps(track, query) for track, query in zip(tracks, queries, strict=True)]
        owner = torch.repeat_interleave(torch.arange(len(tracks)), torch.tensor([len(part) for part in own]))
        shared = torch.cat([query.shared for query in queries])
        logits = self._head(shared, torch.cat(own), owner.to(self._spec.device))
        parts = logits.split([len(part) for part in own])
        return [
            self._finish(track, frame, query, part, probability)
            for track, frame, query, part in zip(tracks, frames, queries, parts, strict=True)
        ]

    def _queries(self, tracks: Sequence[FeelvosTrack], frames: Sequence[Frame]) -> list[_Query]:
        size = tracks[0].network_size
        color, device = self.config.color, self._spec.device
        images = torch.cat([to_network(frame, size, device, color) for frame in frames])
        features: FrameFeatures = self.network(images.to(self._spec.dtype))
        embeddings = features.embedding.permute(0, 2, 3, 1).contiguous()
        return [_Query(features.shared[i : i + 1], embeddings[i]) for i in range(len(frames))]

    def _object_maps(self, track: FeelvosTrack, query: _Query) -> Tensor:
        """[K+1, D, h, w] global distance, previous mask and local distance of background and each object."""
        previous = track.previous
        if previous is None:
            raise NoReferenceFrame("memorize a reference before propagating")
        embedding = query.embedding.float()
        maps = []
        if self.config.use_global:
            maps.append(self._global_distance(track, embedding))
        if self.config.use_previous:
            maps.append(previous.masks(track.ids))
        if self.config.use_local:
            before, window = previous.embedding.float(), self.config.window
            maps.append(local_matching(embedding, before, previous.labels, track.ids, window=window))
        return torch.stack(maps, dim=1).to(self._spec.dtype)

    def _global_distance(self, track: FeelvosTrack, embedding: Tensor) -> Tensor:
        """[K+1, h, w]; counts in the bank which features were the nearest, where that decides who may stay."""
        if not len(track.bank):
            return embedding.new_ones(len(track.ids), *embedding.shape[:2])
        competing = track.memory.kind == "adaptive" and not bool(track.bank.is_reference().all())
        match = global_matching(
            embedding.flatten(0, 1),
            track.bank.view(EMBEDDING).float(),
            track.bank.identity(),
            track.ids,
            neighbors=self.config.neighbors,
            count_hits=competing,
        )
        if match.hits is not None:
            track.bank.add_usage(match.hits)
        return to_distance(match.squared).view(-1, *embedding.shape[:2])

    def _head(self, shared: Tensor, own: Tensor, owner: Tensor) -> Tensor:
        """[N, h, w] float32 logits, a few objects at a time."""
        parts = zip(own.split(_OBJECTS_PER_PASS), owner.split(_OBJECTS_PER_PASS), strict=True)
        return torch.cat([self.network.head(shared, maps, rows).float() for maps, rows in parts])

    def _finish(
        self, track: FeelvosTrack, frame: Frame, query: _Query, logits: Tensor, probability: bool
    ) -> Prediction:
        """Mask, scores, and what the next frame and the memory need of this one."""
        track.steps += 1
        full = resize_aligned(logits[None], (track.size.height, track.size.width))[0].softmax(dim=0)
        prediction = predict(full, track.object_ids, track.visibility, keep_probability=probability)
        rows, columns = (
            torch.from_numpy(aligned_index(big, small)).to(full.device)
            for big, small in zip(full.shape[1:], logits.shape[1:], strict=True)
        )
        channel = full[:, rows][:, :, columns].argmax(dim=0)
        labels = torch.tensor(track.ids, device=full.device)[channel]
        soft = logits.softmax(dim=0) if self.config.previous_mask == "probability" else None
        checksum = frame_checksum(frame)
        track.previous = PreviousFrame(query.embedding, labels, soft, checksum)
        if track.steps % (track.memory.memorize_every or self._spec.memorize_every) == 0:
            store_frame(track, query.embedding, labels, self.config.frame_sample)
        return prediction


def build(
    name: str,
    *,
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
    deterministic: bool,
    compile: bool,
) -> FeelvosEngine:
    """Load a FEELVOS engine; `feelvos` also takes the TensorFlow checkpoint as published. Raises WeightsError."""
    network = FeelvosNet(CONFIGS[name])
    checkpoint = load_weights(weights, name)
    fit(network, checkpoint, name)
    network.eval().requires_grad_(requires_grad=False)
    network.optimise_for_serving()
    network.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compile:
        network.trunk.compile()
    short_side = checkpoint.integer("net_short_side", PUBLISHED_SHORT_SIDE)
    every = checkpoint.integer("memorize_every", PUBLISHED_MEMORIZE_EVERY)
    spec = EngineSpec(CATALOG[name], short_side, every, checkpoint.sha256, dtype, device, deterministic)
    return FeelvosEngine(network, spec)
