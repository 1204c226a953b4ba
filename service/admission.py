"""How many device bytes a session takes at most, from the catalog's facts alone, so that the API needs no torch.

The worker's engine knows more exactly (Engine.track_bytes); this must not be less than that for sessions as they come.
"""

from __future__ import annotations

import math

from engines.catalog import DEFAULT_BUDGET_FRAMES, TOKEN_OVERHEAD_BYTES, EngineInfo
from service.schemas import MemoryOptions

_NET_SHORT_SIDE = 480
_UNBOUNDED_FRAMES = 200
_OBJECTS_PER_PASS = 10
_SPARE_ROOM = 2
"""Storage doubles as it grows, and old and new live side by side for a moment."""
_MIB = 1024**2


def device_bytes(
    info: EngineInfo, size: tuple[int, int], objects: int, memory: MemoryOptions, max_side: int | None = None
) -> int:
    """Upper bound for one session. size: (height, width) as displayed; objects: 0 counts as one pass."""
    height, width = _network_size(size, max_side)
    tokens = math.ceil(height / info.stride) * math.ceil(width / info.stride)
    passes = max(1, math.ceil(objects / _OBJECTS_PER_PASS))
    copies = max(1, objects) if info.tokens_per_object else passes
    activations = height * width * (info.frame_bytes_per_px + copies * info.object_bytes_per_px)
    return _bank_bytes(info, tokens * copies, memory) * _SPARE_ROOM + activations


def _network_size(size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """Frames are shrunk to max_side, then to the short side that the networks are made for; never enlarged."""
    scale = 1.0 if max_side is None else min(1.0, max_side / max(size))
    scale = min(scale, _NET_SHORT_SIDE / min(size))
    return math.ceil(size[0] * scale), math.ceil(size[1] * scale)


def _bank_bytes(info: EngineInfo, frame_tokens: int, memory: MemoryOptions) -> int:
    if memory.budget_mib is not None:
        return int(memory.budget_mib * _MIB)
    frames = _UNBOUNDED_FRAMES if memory.kind == "every_k" else DEFAULT_BUDGET_FRAMES
    tokens = memory.budget_tokens or frames * frame_tokens
    return tokens * (info.token_bytes + TOKEN_OVERHEAD_BYTES)
