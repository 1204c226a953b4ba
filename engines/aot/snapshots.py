"""A track of AOT or DeAOT as plain values and tensors, and back. Byte for byte, counters and seeds included."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch import Tensor

from engines.aot.config import AotConfig
from engines.aot.memory import LongTermMemory
from engines.aot.propagation import LayerMemory
from engines.aot.target_model import TargetModel
from engines.aot.track import AotTrack, Group
from engines.banks import restore_bank
from engines.errors import StateMismatch
from engines.labels import Slots
from engines.protocols import EngineSpec
from engines.track_state import join_states, part_of
from engines.types import MemoryPolicy, Size, TrackState
from engines.visibility import Visibility

SCHEMA = 1


def identity_of(spec: EngineSpec) -> dict[str, int | str]:
    """What must agree between the engine that wrote a snapshot and the one that reads it."""
    return {
        "schema": SCHEMA,
        "engine": spec.info.name,
        "weights_sha256": spec.weights_sha256,
        "dtype": str(spec.dtype),
    }


def take_snapshot(track: AotTrack, spec: EngineSpec) -> TrackState:
    """The whole state, copied to the host."""
    own: dict[str, int | str] = identity_of(spec) | {
        "size": json.dumps([track.size.height, track.size.width]),
        "network_size": json.dumps([track.network_size.height, track.network_size.width]),
        "memory": json.dumps(asdict(track.memory), sort_keys=True),
        "memorize_every": track.memorize_every,
        "budget_tokens": json.dumps(track.budget_tokens),
        "visibility": track.visibility.to_json(),
        "groups": len(track.groups),
        "steps": track.steps,
        "started": int(track.started),
        "frame_mark": track.frame_mark,
    }
    labels = {"labels": torch.from_numpy(track.labels.copy())}
    parts: dict[str, TrackState] = {}
    for index, group in enumerate(track.groups):
        parts[f"group{index}"] = _group_state(group)
        parts[f"bank{index}"] = group.long_term.bank.snapshot()
    if track.target is not None:
        parts["target"] = track.target.snapshot()
    return join_states(TrackState(own, labels), parts)


def _group_state(group: Group) -> TrackState:
    meta: dict[str, int | str] = {
        "channels": json.dumps(sorted(group.slots.channels.items())),
        "order": json.dumps(group.slots.order),
        "retired": json.dumps(sorted(group.slots.retired)),
        "recent": len(group.short_term),
        "last_memorized": group.last_memorized,
        "memorized": group.memorized,
    }
    tensors: dict[str, Tensor] = {}
    for age, frame in enumerate(group.short_term):
        for layer, memory in enumerate(frame):
            tensors[f"recent{age}.key{layer}"] = memory.key.to("cpu", copy=True)
            tensors[f"recent{age}.value{layer}"] = memory.value.to("cpu", copy=True)
    return TrackState(meta, tensors)


def restore_track(
    state: TrackState, spec: EngineSpec, config: AotConfig, target: TargetModel | None = None
) -> AotTrack:
    """The track that take_snapshot() saw. target: an empty one, if the weights have it. Raises StateMismatch."""
    for name, value in identity_of(spec).items():
        if state.meta.get(name) != value:
            raise StateMismatch(f"the snapshot's {name} is {state.meta.get(name)!r}, this engine's is {value!r}")
    meta = state.meta
    track = AotTrack(
        size=Size(*json.loads(str(meta["size"]))),
        network_size=Size(*json.loads(str(meta["network_size"]))),
        memory=MemoryPolicy(**json.loads(str(meta["memory"]))),
        memorize_every=int(meta["memorize_every"]),
        budget_tokens=json.loads(str(meta["budget_tokens"])),
        visibility=Visibility.from_json(str(meta["visibility"])),
        steps=int(meta["steps"]),
        started=bool(int(meta["started"])),
        frame_mark=int(meta["frame_mark"]),
        labels=state.tensors["labels"].numpy().copy(),
    )
    if target is not None:
        target.restore(part_of(state, "target"), spec.device)
        track.target = target
    track.groups = [_restore_group(state, index, spec, config) for index in range(int(meta["groups"]))]
    return track


def _restore_group(state: TrackState, index: int, spec: EngineSpec, config: AotConfig) -> Group:
    part = part_of(state, f"group{index}")
    slots = Slots(
        tuple(json.loads(str(part.meta["order"]))),
        {object_id: channel for object_id, channel in json.loads(str(part.meta["channels"]))},
        set(json.loads(str(part.meta["retired"]))),
    )
    short_term = [
        tuple(
            LayerMemory(
                *(part.tensors[f"recent{age}.{kind}{layer}"].to(spec.device, copy=True) for kind in ("key", "value"))
            )
            for layer in range(config.layers)
        )
        for age in range(int(part.meta["recent"]))
    ]
    return Group(
        long_term=LongTermMemory(config, restore_bank(part_of(state, f"bank{index}"), spec.device)),
        slots=slots,
        short_term=short_term,
        last_memorized=int(part.meta["last_memorized"]),
        memorized=int(part.meta["memorized"]),
    )
