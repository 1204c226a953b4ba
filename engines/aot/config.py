"""Every AOT and DeAOT variant as data. The network code asks this, and nothing else, what to build."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EncoderName = Literal["mobilenetv2", "resnet50", "swin_base"]

WIDTH = 256
"""Channels of the projected 1/16 map and of the identity embedding."""

CHANNELS_PER_GROUP = 11
OBJECTS_PER_GROUP = 10
STRIDE = 16


@dataclass(frozen=True)
class AotConfig:
    """One variant.

    gated: DeAOT's gated propagation (two streams, one head) instead of AOT's transformer layers (eight heads).
    memorize_every: the published gap between long-term memory frames.
    live_norm, drop_path, drop_path_memory, identity_dropout: training; the last drops the ID embedding's channels.
    window_radius, short_term_frames, use_gate, use_depthwise, decouple: what the papers ablate; defaults are published.
    """

    name: str
    encoder: EncoderName
    layers: int
    gated: bool
    memorize_every: int
    live_norm: bool = False
    drop_path: float = 0.1
    drop_path_memory: bool = False
    identity_dropout: float = 0.0
    window_radius: int = 7
    short_term_frames: int = 1
    use_gate: bool = True
    use_depthwise: bool = True
    decouple: bool = True

    @property
    def align_corners(self) -> bool:
        """Whether maps have 16k + 1 pixels and resizing aligns corners; Swin trunks have 16k."""
        return self.encoder != "swin_base"

    @property
    def encoder_channels(self) -> tuple[int, int, int, int]:
        """Channels of the maps at 1/4, 1/8, 1/16 and of the deepest one."""
        return {
            "mobilenetv2": (24, 32, 96, 1280),
            "resnet50": (256, 512, 1024, 1024),
            "swin_base": (128, 256, 512, 512),
        }[self.encoder]

    @property
    def map_widths(self) -> tuple[int, int, int, int]:
        """Channels of the maps of an EncodedFrame."""
        c4, c8, c16, _ = self.encoder_channels
        return c4, c8, c16, WIDTH

    @property
    def heads(self) -> int:
        """Attention heads."""
        return 1 if self.gated else 8

    @property
    def key_width(self) -> int:
        """Width of a memory key."""
        return WIDTH // 2 if self.gated else WIDTH

    @property
    def value_width(self) -> int:
        """Width of a memory value; DeAOT keeps the visual and the identity value side by side."""
        return WIDTH * (4 if self.decouple else 2) if self.gated else WIDTH

    @property
    def decoder_width(self) -> int:
        """Channels of what the decoder is given: DeAOT's streams, or AOT's map and every layer's output."""
        return WIDTH * (2 if self.decouple else 1) if self.gated else WIDTH * (self.layers + 1)


def _variants() -> dict[str, AotConfig]:
    trunks: tuple[tuple[str, str, EncoderName, int, int], ...] = (
        ("", "-t", "mobilenetv2", 1, 9999),
        ("", "-s", "mobilenetv2", 2, 9999),
        ("", "-b", "mobilenetv2", 3, 9999),
        ("", "-l", "mobilenetv2", 3, 5),
        ("r50-", "-l", "resnet50", 3, 5),
        ("swinb-", "-l", "swin_base", 3, 5),
    )
    configs = (
        AotConfig(f"{prefix}{family}{suffix}", encoder, layers, gated=family == "deaot", memorize_every=gap)
        for family in ("aot", "deaot")
        for prefix, suffix, encoder, layers, gap in trunks
    )
    return {config.name: config for config in configs}


VARIANTS: dict[str, AotConfig] = _variants()
"""Published variants by engine name."""
