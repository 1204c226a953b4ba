"""An engine without weights, but with state: a running hash of all that it has seen decides its masks.

For tests of the service: a frame that is lost, doubled or reordered, or a snapshot that is not exact, changes every
mask from there on. Its memory is a real bank, whose content enters the hash.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from engines.banks import FeatureBank, Tokens, bank_config, build_bank, restore_bank
from engines.banks.budget import budget_tokens
from engines.catalog import CATALOG
from engines.checkpoint import Weights
from engines.errors import FrameSizeChanged, NoReferenceFrame, StateMismatch, WeightsError
from engines.protocols import EngineSpec
from engines.track_state import join_states, part_of
from engines.types import IGNORE_LABEL, Frame, LabelMap, MemoryPolicy, Prediction, Size, TrackState

_WIDTH = 8
_TOKENS_PER_FRAME = 4
_DEFAULT_TOKENS = 64
_MAX_SHIFT_PX = 8


@dataclass
class FakeTrack:
    """The state of one video: the hash, the newest reference, and a bank of made-up features."""

    size: Size
    bank: FeatureBank
    reference: LabelMap
    memorize_every: int
    digest: bytes = b""
    steps: int = 0
    ids: set[int] = field(default_factory=set)

    @property
    def network_size(self) -> Size:
        """The fake network sees frames as they are."""
        return self.size

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The client's ids, ascending."""
        return tuple(sorted(self.ids))

    @property
    def bank_bytes(self) -> int:
        """Bytes of the bank."""
        return self.bank.nbytes

    @property
    def bank_tokens(self) -> int:
        """Tokens in the bank."""
        return len(self.bank)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Objects that no reference shows."""
        absent = (object_id for object_id in self.object_ids if not (self.reference == object_id).any())
        return tuple(f"object {object_id} has no pixels in its reference" for object_id in absent)


class FakeEngine:
    """Masks are the newest reference, moved by a few pixels that the hash decides."""

    def __init__(self, spec: EngineSpec, step_s: float = 0.0) -> None:
        self.spec = spec
        self._step_s = step_s

    def open(self, size: Size, memory: MemoryPolicy) -> FakeTrack:
        """An empty track."""
        token_bytes = 2 * _WIDTH * 4
        tokens = budget_tokens(memory, token_bytes=token_bytes, default_tokens=_DEFAULT_TOKENS)
        bank = build_bank(bank_config(memory, budget_tokens=tokens))
        every = memory.memorize_every or self.spec.memorize_every
        return FakeTrack(size, bank, np.zeros((size.height, size.width), np.uint8), every)

    def memorize(self, track: FakeTrack, frame: Frame, label_map: LabelMap, *, object_ids: Collection[int]) -> None:
        """Take a reference: its pixels replace those of the objects that it annotates."""
        _check_size(track, frame, label_map)
        annotated = np.isin(label_map, list(object_ids)) & (label_map != IGNORE_LABEL)
        track.reference = np.where(np.isin(track.reference, list(object_ids)), 0, track.reference).astype(np.uint8)
        track.reference[annotated] = label_map[annotated]
        track.ids |= set(object_ids)
        self._take(track, frame, track.reference, reference=True)

    def propagate(
        self, tracks: Sequence[FakeTrack], frames: Sequence[Frame], *, probability: bool = False
    ) -> list[Prediction]:
        """Move each track one frame on; a step takes `step_s`, however many tracks share it."""
        if self._step_s:
            time.sleep(self._step_s)
        return [self._propagate(track, frame, probability) for track, frame in zip(tracks, frames, strict=True)]

    def forget(self, track: FakeTrack, object_id: int) -> None:
        """Stop following one object."""
        track.ids.remove(object_id)
        track.reference[track.reference == object_id] = 0

    def snapshot(self, track: FakeTrack) -> TrackState:
        """The whole state, copied."""
        meta: dict[str, int | str] = {
            "engine": self.spec.info.name,
            "digest": track.digest.hex(),
            "steps": track.steps,
            "memorize_every": track.memorize_every,
            "object_ids": " ".join(str(object_id) for object_id in track.object_ids),
        }
        own = TrackState(meta, {"reference": torch.from_numpy(track.reference.copy())})
        return join_states(own, {"bank": track.bank.snapshot()})

    def restore(self, state: TrackState) -> FakeTrack:
        """The track that snapshot() saw."""
        if state.meta.get("engine") != self.spec.info.name:
            raise StateMismatch(f"the snapshot is of engine {state.meta.get('engine')!r}, not {self.spec.info.name!r}")
        reference = state.tensors["reference"].numpy().copy()
        return FakeTrack(
            size=Size.of(reference),
            bank=restore_bank(part_of(state, "bank")),
            reference=reference,
            memorize_every=int(state.meta["memorize_every"]),
            digest=bytes.fromhex(str(state.meta["digest"])),
            steps=int(state.meta["steps"]),
            ids={int(word) for word in str(state.meta["object_ids"]).split()},
        )

    def track_bytes(self, size: Size, objects: int, memory: MemoryPolicy) -> int:
        """Two label maps and the bank."""
        token_bytes = 2 * _WIDTH * 4
        tokens = budget_tokens(memory, token_bytes=token_bytes, default_tokens=_DEFAULT_TOKENS)
        return 2 * size.height * size.width + 2 * tokens * (token_bytes + 32)

    def _propagate(self, track: FakeTrack, frame: Frame, probability: bool) -> Prediction:
        if not track.ids:
            raise NoReferenceFrame("memorize() a reference before propagate()")
        _check_size(track, frame, track.reference)
        track.steps += 1
        track.digest = _hash(track.digest, _checksum(frame))
        dy, dx = (int(byte) % (2 * _MAX_SHIFT_PX + 1) - _MAX_SHIFT_PX for byte in track.digest[:2])
        label_map = np.roll(track.reference, (dy, dx), axis=(0, 1))
        if track.steps % track.memorize_every == 0:
            self._take(track, frame, label_map, reference=False)
        scores = {i: (0.5 + track.digest[2] / 512.0) if (label_map == i).any() else 0.0 for i in track.object_ids}
        return Prediction(
            label_map=label_map,
            scores=scores,
            uncertainty=dict.fromkeys(track.object_ids, track.digest[3] / 255.0),
            probability=_one_hot(label_map, track.object_ids) if probability else None,
        )

    def _take(self, track: FakeTrack, frame: Frame, label_map: LabelMap, *, reference: bool) -> None:
        """Write features drawn from the hash, then fold the whole bank into the hash."""
        digest = _hash(track.digest, _checksum(frame), _checksum(label_map))
        seed = int.from_bytes(digest[:8], "big")
        drawn = np.random.default_rng(seed).standard_normal((2, _TOKENS_PER_FRAME, _WIDTH)).astype(np.float32)
        features = {"key": torch.from_numpy(drawn[0]), "value": torch.from_numpy(drawn[1])}
        track.bank.write(Tokens(features), step=track.steps, reference=reference)
        track.bank.add_usage(torch.from_numpy(_shares(digest, len(track.bank))))
        held = (track.bank.view(name).contiguous().numpy().tobytes() for name in ("key", "value"))
        track.digest = _hash(digest, *held)


def build(
    name: str,
    *,
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
    deterministic: bool,
    compile: bool,
) -> FakeEngine:
    """The fake engine, on the host and exact whatever is asked for. weights: a word, or {"step_s": seconds}."""
    if isinstance(weights, Mapping):
        step_s = float(weights["step_s"])
    elif weights in ("starter", "auto"):
        step_s = 0.0
    else:
        raise WeightsError(f"engine {name!r} has no weights to load from {weights}; leave weights away")
    spec = EngineSpec(
        info=replace(CATALOG[name]),
        net_short_side=0,
        memorize_every=3,
        weights_sha256=hashlib.sha256(b"fake").hexdigest(),
        dtype=torch.float32,
        device=torch.device("cpu"),
        deterministic=True,
    )
    return FakeEngine(spec, step_s)


def _hash(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _checksum(array: Frame | LabelMap) -> bytes:
    """Of all pixels in their order; a fifth of the hash's time, so that what a test measures is the service."""
    return zlib.crc32(np.ascontiguousarray(array).data).to_bytes(4, "big")


def _shares(digest: bytes, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Made-up attention mass for `count` tokens."""
    seed = int.from_bytes(digest[8:16], "big")
    return np.random.default_rng(seed).random(count, dtype=np.float32)


def _one_hot(label_map: LabelMap, object_ids: Sequence[int]) -> Tensor:
    maps = [label_map == 0, *(label_map == object_id for object_id in object_ids)]
    return torch.from_numpy(np.stack(maps).astype(np.float32))


def _check_size(track: FakeTrack, *arrays: Frame | LabelMap) -> None:
    for array in arrays:
        if Size.of(array) != track.size:
            raise FrameSizeChanged(f"the track has frames of {track.size}, this is {Size.of(array)}")
