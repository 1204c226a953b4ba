"""Every AFB-URR variant as data."""

from __future__ import annotations

from dataclasses import dataclass

from engines.space_time.encoders import TrunkName


@dataclass(frozen=True)
class AfbUrrConfig:
    """One variant.

    refinement: uncertain-region refinement; off leaves the rough segmentation (the paper's ablation).
    local_width: channels of the refinement.
    live_norm: batch norm that trains, for weights trained from scratch.
    """

    name: str
    trunk: TrunkName = "resnet50"
    key_width: int = 128
    value_width: int = 512
    decoder_width: int = 256
    local_width: int = 32
    memorize_every: int = 1
    net_short_side: int = 480
    refinement: bool = True
    live_norm: bool = False


VARIANTS: dict[str, AfbUrrConfig] = {
    "afb-urr": AfbUrrConfig("afb-urr"),
    "afb-urr-t": AfbUrrConfig(
        "afb-urr-t",
        trunk="mobilenetv2",
        key_width=64,
        value_width=192,
        decoder_width=64,
        local_width=16,
        memorize_every=2,
        net_short_side=320,
    ),
}
"""Variants by engine name; afb-urr-t is ours."""
