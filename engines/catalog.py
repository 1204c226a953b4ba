"""Engine facts without torch: what the API needs to accept or refuse a session.

This is the only module of `engines` that the API imports. It imports nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

ReferenceKind = Literal["mask", "text", "exemplar", "none"]


@dataclass(frozen=True)
class EngineInfo:
    """What is known of an engine before its weights are loaded.

    stride: pixels per memory token along one side. min_budget_frames: smallest memory budget, in frames of tokens.
    token_bytes: bytes of one long-term token in float32, all layers. starter: the name of the starter weights that are
    shipped for it, or None.
    """

    name: str
    family: str
    summary: str
    reference_kinds: tuple[ReferenceKind, ...] = ("mask",)
    stride: int = 16
    min_budget_frames: int = 2
    token_bytes: int = 0
    tokens_per_object: bool = False
    max_objects: int = 254
    starter: str | None = None
    weights_licence: str = ""
    vocabulary: tuple[str, ...] = field(default=())


_ENGINES: tuple[EngineInfo, ...] = (
    EngineInfo(
        name="fake",
        family="fake",
        summary="No weights: a running hash of all it has seen decides its masks. For tests of the service.",
        token_bytes=64,
        starter="fake",
    ),
)

DEFAULT_ENGINE = "deaot-t"

CATALOG: dict[str, EngineInfo] = {info.name: info for info in _ENGINES}


def engine_names() -> tuple[str, ...]:
    """All known engines, in the order of the catalog."""
    return tuple(CATALOG)
