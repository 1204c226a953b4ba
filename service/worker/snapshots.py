"""A track's state as a safetensors file and back, and which engine can go on from it. Knows no sessions."""

from __future__ import annotations

import json

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from engines.errors import StateMismatch
from engines.protocols import EngineSpec
from engines.types import TrackState
from service.schemas import SCHEMA_VERSION, SnapshotRecord

_META = "meta"


def encode_state(state: TrackState) -> bytes:
    """The bytes of a snapshot file."""
    seen: set[int] = set()
    tensors = {name: _own_memory(tensor, seen) for name, tensor in state.tensors.items()}
    return save(tensors, metadata={_META: json.dumps(dict(state.meta))})


def decode_state(data: bytes) -> TrackState:
    """What encode_state() wrote, byte for byte. Raises StateMismatch for anything else."""
    try:
        length = int.from_bytes(data[:8], "little")
        meta = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_META])
        return TrackState(meta, load(data))
    except (SafetensorError, ValueError, KeyError) as error:
        raise StateMismatch(f"the snapshot file is damaged ({error})") from error


def snapshot_record(spec: EngineSpec, seq: int, segment: int) -> SnapshotRecord:
    """Where and by what a snapshot was taken; the file has no name yet."""
    dtype = str(spec.dtype)
    return SnapshotRecord(
        name="", seq=seq, segment=segment, engine=spec.info.name, weights_sha256=spec.weights_sha256, dtype=dtype
    )


def fits(snapshot: SnapshotRecord, spec: EngineSpec, segment: int) -> bool:
    """Whether an engine can go on from the snapshot, and it lies in the present segment."""
    mine = (spec.info.name, spec.weights_sha256, str(spec.dtype), SCHEMA_VERSION)
    its = (snapshot.engine, snapshot.weights_sha256, snapshot.dtype, snapshot.schema_version)
    return snapshot.segment == segment and mine == its


def _own_memory(tensor: Tensor, seen: set[int]) -> Tensor:
    """safetensors wants contiguous tensors that share no memory."""
    tensor = tensor.contiguous()
    pointer = tensor.untyped_storage().data_ptr()
    if pointer in seen:
        tensor = tensor.clone()
    seen.add(pointer)
    return tensor
