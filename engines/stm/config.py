"""Every STM variant as data."""

from __future__ import annotations

from dataclasses import dataclass

from engines.space_time.encoders import TrunkName


@dataclass(frozen=True)
class StmConfig:
    """One variant.

    memorize_every: steps between kept memory frames. slots: channels in the final softmax, empty ones included; the
    released code has 11, None has only those of the background and the objects.
    live_norm: batch norm that trains, for weights trained from scratch.
    """

    name: str
    trunk: TrunkName = "resnet50"
    key_width: int = 128
    value_width: int = 512
    decoder_width: int = 256
    memorize_every: int = 5
    net_short_side: int = 480
    slots: int | None = None
    live_norm: bool = False


VARIANTS: dict[str, StmConfig] = {
    "stm": StmConfig("stm"),
    "stm-t": StmConfig(
        "stm-t", trunk="mobilenetv2", key_width=64, value_width=192, decoder_width=64, net_short_side=320
    ),
}
"""Variants by engine name; stm-t is ours."""
