"""How many device bytes a session takes at most, from the catalog's facts alone, so that the API needs no torch.

The worker's engine knows more exactly (Engine.track_bytes); this must not be less than that for sessions as they come.
"""

from __future__ import annotations

import math

from engines.catalog import DEFAULT_BUDGET_FRAMES, TOKEN_OVERHEAD_BYTES, EngineInfo
from service.schemas import MemoryOptions
from service.settings import MIB

_NET_SHORT_SIDE = 480
_NET_SIDE_STEP = 32
"""Networks pad their frames to a whole number of this many pixels, or of fewer."""
_UNBOUNDED_FRAMES = 200
_OBJECTS_PER_PASS = 10
_SPARE_ROOM = 2
"""Storage doubles as it grows, and old and new live side by side for a moment."""
_FRESH_FRAMES = 3
"""Frames whose tokens live beside the bank: the short-term memory, and those about to be written."""


def device_bytes(
    info: EngineInfo, size: tuple[int, int], objects: int, memory: MemoryOptions, max_side: int | None = None
) -> int:
    """Upper bound for one session. size: (height, width) as displayed; objects: 0 counts as one pass."""
    sides = _network_sides(info, size, max_side)
    grid = [info.tokens_along(side) for side in sides]
    pixels = math.prod(max(side, cells * info.stride) for side, cells in zip(sides, grid, strict=True))
    objects = max(1, objects)
    copies = objects if info.tokens_per_object else math.ceil(objects / _OBJECTS_PER_PASS)
    at_once = min(copies, info.objects_at_once or copies)
    activations = pixels * (info.frame_bytes_per_px + at_once * info.object_bytes_per_px)
    activations += math.prod(size) * (objects + 1) * info.displayed_object_bytes_per_px
    return _memory_bytes(info, math.prod(grid), copies, memory) + activations


def _network_sides(info: EngineInfo, size: tuple[int, int], max_side: int | None) -> tuple[int, ...]:
    """Frames are shrunk to max_side, then brought to the short side that the networks are made for, and padded."""
    shrink = 1.0 if max_side is None else min(1.0, max_side / max(size))
    scale = _NET_SHORT_SIDE / min(size)
    if not info.enlarges:
        scale = min(scale, shrink)
    if info.max_long_side is not None:
        scale = min(scale, info.max_long_side / max(size))
    return tuple(math.ceil(side * scale / _NET_SIDE_STEP) * _NET_SIDE_STEP for side in size)


def _memory_bytes(info: EngineInfo, frame_tokens: int, copies: int, memory: MemoryOptions) -> int:
    """The bank, and what lives beside it. copies: objects, or passes over groups of them, that keep tokens."""
    each = info.token_bytes + TOKEN_OVERHEAD_BYTES
    if info.reference_frames is not None:
        return copies * info.reference_frames * frame_tokens * each
    tokens = frame_tokens * (copies + int(info.background_tokens))
    fresh = _FRESH_FRAMES * tokens * each
    if memory.budget_mib is not None:
        return int(memory.budget_mib * MIB) * _SPARE_ROOM + fresh
    frames = _UNBOUNDED_FRAMES if memory.kind == "every_k" else DEFAULT_BUDGET_FRAMES
    return (memory.budget_tokens or frames * tokens) * each * _SPARE_ROOM + fresh
