"""Engine facts without torch: what the API needs to accept or refuse a session.

This is the only module of `engines` that the API imports. It imports nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engines.prompts.words import MEANINGFUL as TEXT_RULE_WORDS
from engines.uniref.words import WORDS

TOKEN_OVERHEAD_BYTES = 30
"""Bytes that a bank adds to each token: arrival, identity, reference number (8 each), usage (4), two flags."""

DEFAULT_BUDGET_FRAMES = 16
"""Memory of a session that names no budget, in frames of tokens (of each object with tokens_per_object)."""

ReferenceKind = Literal["mask", "text", "exemplar", "none"]

TokenGrid = Literal["covering", "aligned", "nearest"]
"""How a side of s pixels is cut into tokens of one stride: as many as cover it; s moved to the nearest whole number of
strides plus one pixel, as networks with aligned corners need (AOT); or to the nearest whole number of strides (Swin).
"""


@dataclass(frozen=True)
class EngineInfo:
    """What is known of an engine before its weights are loaded.

    stride: pixels per memory token along one side. min_budget_frames: smallest memory budget, in frames of tokens, for
    one object; with tokens_per_object each further one takes two more. net_short_side: short side of the largest frame
    that the network sees, None where its weights decide (where several are known, the least). max_long_side: of that
    frame, None without bound. grid: see TokenGrid. frame_bytes_per_px, object_bytes_per_px: peak of the
    activations in float32 per pixel of the network's frame, for the frame and for each object (or pass) of a chunk.
    token_bytes: bytes of one long-term token in float32, all layers. starter: the name of the starter weights that are
    shipped for it, or None. follows: whether it propagates masks; the others only find objects in one frame.
    background_tokens: whether the background has a bank of its own beside each object's. reference_frames: frames of
    tokens that it keeps of each object whatever the budget, None where the budget says. enlarges: whether small frames
    grow to the network's size. objects_at_once: most objects whose activations live at one time, None for all.
    displayed_object_bytes_per_px: bytes for each pixel of the displayed frame, for each object and the background.
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
    follows: bool = True
    net_short_side: int | None = None
    max_long_side: int | None = None
    grid: TokenGrid = "covering"
    frame_bytes_per_px: int = 420
    object_bytes_per_px: int = 260
    background_tokens: bool = False
    reference_frames: int | None = None
    enlarges: bool = False
    objects_at_once: int | None = None
    displayed_object_bytes_per_px: int = 0

    def smallest_budget_tokens(self, height: int, width: int, objects: int) -> int | None:
        """Fewest memory tokens that a session can begin with; None where only the loaded weights can tell.

        height, width: of its frames in pixels, after max_side. References may fill half of a budget.
        """
        if self.net_short_side is None:
            return None
        scale = min(1.0, self.net_short_side / min(height, width))
        if self.max_long_side is not None:
            scale = min(scale, self.max_long_side / max(height, width))
        rows, columns = (self.tokens_along(side * scale) for side in (height, width))
        more = 2 * (objects - 1) if self.tokens_per_object else 0
        return rows * columns * (self.min_budget_frames + more)

    def tokens_along(self, side: float) -> int:
        """Tokens along one side of `side` pixels of the network's frame."""
        if self.grid == "covering":
            return -(-max(1, round(side)) // self.stride)
        extra = int(self.grid == "aligned")
        return max(1, round((int(side) - extra) / self.stride)) + extra

    def budget_tokens(self, mib: float) -> int:
        """Memory tokens that fit `mib`, as float32 and with the bank's own bytes."""
        return int(mib * 2**20) // (self.token_bytes + TOKEN_OVERHEAD_BYTES)


def _aot(name: str, trunk: str, layers: int, *, starter: str | None = None) -> EngineInfo:
    gated = "deaot" in name
    return EngineInfo(
        name=name,
        family="aot",
        summary=f"{'DeAOT' if gated else 'AOT'} on {trunk}, {layers} layer{'s' if layers > 1 else ''}.",
        token_bytes=layers * (128 + 1024 if gated else 256 + 256) * 4,
        starter=starter,
        weights_licence="BSD-3-Clause",
        net_short_side=480 if starter is None else _STARTER_SHORT_SIDE,
        max_long_side=1040,
        grid="nearest" if name.startswith("swinb") else "aligned",
    )


def _uniref(
    name: str,
    summary: str,
    token_bytes: int,
    *,
    weights_licence: str = "",
    vocabulary: tuple[str, ...] = (),
    starter: str | None = None,
) -> EngineInfo:
    return EngineInfo(
        name=name,
        family="uniref",
        summary=summary,
        reference_kinds=("mask", "text", "exemplar"),
        stride=8,
        min_budget_frames=3,
        token_bytes=token_bytes,
        tokens_per_object=True,
        vocabulary=vocabulary,
        weights_licence=weights_licence,
        starter=starter,
        max_long_side=1333,
        frame_bytes_per_px=0,
        object_bytes_per_px=1560,
        reference_frames=3,
        enlarges=True,
        objects_at_once=4,
    )


_AOT_TRUNKS = (
    ("", "-t", "MobileNetV2", 1),
    ("", "-s", "MobileNetV2", 2),
    ("", "-b", "MobileNetV2", 3),
    ("", "-l", "MobileNetV2, long-term memory every 5 frames", 3),
    ("r50-", "-l", "ResNet-50, long-term memory every 5 frames", 3),
    ("swinb-", "-l", "Swin-B, long-term memory every 5 frames", 3),
)

_STARTER_SHORT_SIDE = 320
_STARTERS = {"deaot-t": "deaot-t"}

_ENGINES: tuple[EngineInfo, ...] = (
    *(
        _aot(f"{prefix}{family}{size}", trunk, layers, starter=_STARTERS.get(f"{prefix}{family}{size}"))
        for family in ("deaot", "aot")
        for prefix, size, trunk, layers in _AOT_TRUNKS
    ),
    EngineInfo(
        name="fake",
        family="fake",
        summary="No weights: a running hash of all it has seen decides its masks. For tests of the service.",
        token_bytes=64,
        starter="fake",
    ),
    _uniref(
        "uniref",
        "UniRef++ with ResNet-50: follows a mask, a text or an exemplar; remembers three masks per object.",
        2730,
        weights_licence="MIT",
    ),
    _uniref(
        "uniref-l", "UniRef++ with Swin-L: the most accurate of the family, for GPUs.", 2730, weights_licence="MIT"
    ),
    _uniref(
        "uniref-t",
        "Light UniRef++ for CPU with a small vocabulary of colours, sizes, positions and ordinals.",
        1030,
        vocabulary=WORDS,
        starter="uniref-t",
    ),
    EngineInfo(
        name="stm",
        family="stm",
        summary="Space-time memory network, ResNet-50: every fifth frame is remembered per object.",
        token_bytes=(128 + 512) * 4,
        tokens_per_object=True,
        net_short_side=480,
        frame_bytes_per_px=700,
        object_bytes_per_px=550,
        weights_licence="CC BY-NC-SA 4.0",
    ),
    EngineInfo(
        name="stm-t",
        family="stm",
        summary="Light STM on MobileNetV2 for CPU use.",
        token_bytes=(64 + 192) * 4,
        tokens_per_object=True,
        net_short_side=320,
        starter="stm-t",
    ),
    EngineInfo(
        name="afb-urr",
        family="afb_urr",
        summary="Adaptive feature bank per object and uncertain-region refinement, ResNet-50.",
        token_bytes=(128 + 512) * 4,
        min_budget_frames=4,
        tokens_per_object=True,
        net_short_side=480,
        frame_bytes_per_px=1250,
        object_bytes_per_px=550,
        weights_licence="academic use only",
        background_tokens=True,
    ),
    EngineInfo(
        name="afb-urr-t",
        family="afb_urr",
        summary="Light AFB-URR on MobileNetV2 for CPU use.",
        token_bytes=(64 + 192) * 4,
        min_budget_frames=4,
        tokens_per_object=True,
        net_short_side=320,
        starter="afb-urr-t",
        background_tokens=True,
    ),
    EngineInfo(
        name="spatial-embeddings",
        family="spatial_embeddings",
        summary="ERFNet with seeds and margins: proposes a frame's objects when no reference is given.",
        reference_kinds=("none",),
        stride=8,
        weights_licence="CC BY-NC 4.0",
        starter="spatial-embeddings",
        follows=False,
    ),
    EngineInfo(
        name="text-rules",
        family="text_rules",
        summary="A small grammar over proposals: colours, sizes, positions and ordinals.",
        reference_kinds=("text",),
        vocabulary=TEXT_RULE_WORDS,
        follows=False,
    ),
    EngineInfo(
        name="feelvos",
        family="feelvos",
        summary="FEELVOS on Xception-65: nearest-neighbour matching to the references and to the previous frame.",
        stride=4,
        token_bytes=400,
        weights_licence="Apache-2.0",
        net_short_side=480,
        displayed_object_bytes_per_px=24,
        frame_bytes_per_px=850,
    ),
    EngineInfo(
        name="feelvos-t",
        family="feelvos",
        summary="Light FEELVOS on MobileNetV2 for CPU use.",
        stride=4,
        token_bytes=256,
        starter="feelvos-t",
        displayed_object_bytes_per_px=24,
    ),
)

DEFAULT_ENGINE = "deaot-t"

CATALOG: dict[str, EngineInfo] = {info.name: info for info in _ENGINES}


def engine_names() -> tuple[str, ...]:
    """All known engines, in the order of the catalog."""
    return tuple(CATALOG)
