"""The state of one video in one direction: bank, previous frame, who is visible; and its snapshot."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from engines.banks import FeatureBank, build_bank, restore_bank
from engines.banks.config import BankConfig
from engines.errors import StateMismatch
from engines.track_state import join_states, part_of
from engines.types import Frame, MemoryPolicy, Size, TrackState
from engines.visibility import Visibility

SCHEMA = 1


def frame_checksum(frame: Frame) -> int:
    """Of the pixels; two frames of one video with equal sums are taken to be the same frame."""
    return zlib.crc32(np.ascontiguousarray(frame).tobytes())


@dataclass(frozen=True)
class PreviousFrame:
    """What the next frame is compared with.

    embedding: [h, w, C]; labels: [h, w] int64 object ids; probability: [K+1, h, w] of background and the track's
    objects, or None where only labels are known. checksum: frame_checksum() of that frame.
    """

    embedding: Tensor
    labels: Tensor
    probability: Tensor | None
    checksum: int

    def masks(self, ids: Sequence[int]) -> Tensor:
        """[len(ids), h, w] float: probabilities where they are known, else hard masks."""
        if self.probability is not None:
            return self.probability.float()
        return (torch.tensor(ids, device=self.labels.device)[:, None, None] == self.labels).float()


@dataclass
class FeelvosTrack:
    """See engines.protocols.Track. seed belongs to the video: it decides all random samples."""

    size: Size
    network_size: Size
    memory: MemoryPolicy
    bank: FeatureBank
    visibility: Visibility
    object_ids: tuple[int, ...] = ()
    steps: int = 0
    references: int = 0
    seed: int = 0
    warnings: tuple[str, ...] = ()
    previous: PreviousFrame | None = field(default=None, repr=False)

    @property
    def ids(self) -> tuple[int, ...]:
        """Background, then the objects: the order of all channels."""
        return (0, *self.object_ids)

    @property
    def bank_bytes(self) -> int:
        """Bytes that the long-term memory holds now."""
        return self.bank.nbytes

    @property
    def bank_tokens(self) -> int:
        """Features in the long-term memory now."""
        return len(self.bank)

    def warn(self, message: str) -> None:
        """Note something that the client should know; each message once."""
        if message not in self.warnings:
            self.warnings = (*self.warnings, message)

    def sample_seed(self) -> int:
        """The seed of the next random sample; differs between steps and references."""
        return (self.seed * 1_000_003 + self.steps) * 1_009 + self.references


def open_track(size: Size, network_size: Size, memory: MemoryPolicy, bank: BankConfig) -> FeelvosTrack:
    """An empty track."""
    visibility = Visibility(cell_px=_cell_px(size, network_size))
    return FeelvosTrack(size, network_size, memory, build_bank(bank), visibility)


def _cell_px(size: Size, network_size: Size) -> float:
    """Area of one feature cell in pixels of the displayed frame."""
    return 16.0 * size.height * size.width / (network_size.height * network_size.width)


def save_track(track: FeelvosTrack, engine: str) -> TrackState:
    """Everything of a track on the host. engine: what must be the same at load_track()."""
    meta: dict[str, int | str] = {
        "schema": SCHEMA,
        "engine": engine,
        "size": json.dumps([track.size.height, track.size.width]),
        "network_size": json.dumps([track.network_size.height, track.network_size.width]),
        "memory": json.dumps(asdict(track.memory)),
        "object_ids": json.dumps(track.object_ids),
        "steps": track.steps,
        "references": track.references,
        "seed": track.seed,
        "warnings": json.dumps(track.warnings),
        "visibility": track.visibility.to_json(),
    }
    tensors: dict[str, Tensor] = {}
    if track.previous is not None:
        meta["checksum"] = track.previous.checksum
        kept = {name: getattr(track.previous, name) for name in ("embedding", "labels", "probability")}
        tensors = {f"previous_{n}": t.to("cpu", copy=True) for n, t in kept.items() if t is not None}
    return join_states(TrackState(meta, tensors), {"bank": track.bank.snapshot()})


def load_track(state: TrackState, engine: str, device: torch.device) -> FeelvosTrack:
    """The track that save_track() saw. Raises StateMismatch."""
    meta = state.meta
    if meta.get("schema") != SCHEMA or meta.get("engine") != engine:
        found = f"schema {meta.get('schema')} of {meta.get('engine')}"
        raise StateMismatch(f"the snapshot is {found}, this is schema {SCHEMA} of {engine}: start from the references")
    track = FeelvosTrack(
        size=Size(*json.loads(str(meta["size"]))),
        network_size=Size(*json.loads(str(meta["network_size"]))),
        memory=MemoryPolicy(**json.loads(str(meta["memory"]))),
        bank=restore_bank(part_of(state, "bank"), device),
        visibility=Visibility.from_json(str(meta["visibility"])),
        object_ids=tuple(json.loads(str(meta["object_ids"]))),
        steps=int(meta["steps"]),
        references=int(meta["references"]),
        seed=int(meta["seed"]),
        warnings=tuple(json.loads(str(meta["warnings"]))),
    )
    if "checksum" in meta:
        probability = state.tensors.get("previous_probability")
        track.previous = PreviousFrame(
            embedding=state.tensors["previous_embedding"].to(device, copy=True),
            labels=state.tensors["previous_labels"].to(device, copy=True),
            probability=None if probability is None else probability.to(device, copy=True),
            checksum=int(meta["checksum"]),
        )
    return track


def without_object(track: FeelvosTrack, object_id: int) -> None:
    """Drop an object from a track, its memory and its previous mask."""
    track.object_ids = tuple(name for name in track.object_ids if name != object_id)
    track.visibility.forget(object_id)
    if len(track.bank):
        track.bank.discard(track.bank.identity() == object_id)
    if track.previous is not None:
        labels = track.previous.labels.masked_fill(track.previous.labels == object_id, 0)
        track.previous = replace(track.previous, labels=labels, probability=None)
