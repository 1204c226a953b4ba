"""Several states in one: a track's snapshot is made of its banks' snapshots and its own counters."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from engines.errors import StateMismatch
from engines.types import TrackState

_SEPARATOR = "/"


def join_states(own: TrackState, parts: Mapping[str, TrackState]) -> TrackState:
    """One state that holds `own` and every part under "name/". Names must not contain "/"."""
    meta: dict[str, int | str] = dict(own.meta)
    tensors: dict[str, Tensor] = dict(own.tensors)
    for name, part in parts.items():
        if _SEPARATOR in name:
            raise ValueError(f"a part's name must not contain {_SEPARATOR!r}: {name!r}")
        meta |= {f"{name}{_SEPARATOR}{key}": value for key, value in part.meta.items()}
        tensors |= {f"{name}{_SEPARATOR}{key}": value for key, value in part.tensors.items()}
    return TrackState(meta, tensors)


def part_of(state: TrackState, name: str) -> TrackState:
    """The part that was joined under `name`. Raises StateMismatch when there is none."""
    prefix = name + _SEPARATOR
    meta = {key.removeprefix(prefix): value for key, value in state.meta.items() if key.startswith(prefix)}
    tensors = {key.removeprefix(prefix): value for key, value in state.tensors.items() if key.startswith(prefix)}
    if not meta and not tensors:
        raise StateMismatch(f"the snapshot holds no {name!r}: it is incomplete or of another engine")
    return TrackState(meta, tensors)
