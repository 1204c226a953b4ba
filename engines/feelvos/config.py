"""What FEELVOS's variants are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engines.transforms import IMAGENET, ColorStatistics


@dataclass(frozen=True)
class FeelvosConfig:
    """Architecture and matching constants of one variant. The defaults are the published checkpoint's.

    window: local matching looks this many stride-4 positions up, down, left and right.
    previous_mask: what of the previous frame enters the head; the released code feeds the hard mask, the paper says
    the soft probabilities. The three use_* switches take away what the paper ablates; the head gets narrower.
    norm_momentum: of batch norm's running statistics where they are trained.
    frame_sample: pixels per object kept of a memorised frame, drawn at random; None keeps all. reference_sample is the
    same for reference frames; the paper draws 1,024 in training and keeps all at test time.
    """

    name: str = "feelvos"
    color: ColorStatistics = ColorStatistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    trunk: Literal["xception65", "mobilenetv2"] = "xception65"
    embedding_width: int = 100
    aspp_width: int = 256
    aspp_rates: tuple[int, ...] = (12, 24, 36)
    low_width: int = 48
    decoder_width: int = 256
    head_width: int = 256
    head_layers: int = 4
    head_kernel: int = 7
    window: int = 15
    neighbors: int = 1
    previous_mask: Literal["one_hot", "probability"] = "one_hot"
    use_global: bool = True
    use_local: bool = True
    use_previous: bool = True
    norm_momentum: float = 3e-4
    frame_sample: int | None = 1024
    reference_sample: int | None = None

    @property
    def object_channels(self) -> int:
        """Channels of the head's input that belong to one object."""
        return sum((self.use_global, self.use_previous, self.use_local))


FEELVOS = FeelvosConfig()

FEELVOS_T = FeelvosConfig(
    name="feelvos-t",
    color=IMAGENET,
    trunk="mobilenetv2",
    embedding_width=64,
    aspp_width=128,
    aspp_rates=(6, 12),
    low_width=32,
    decoder_width=128,
    head_width=64,
    head_layers=3,
    norm_momentum=0.03,
    frame_sample=512,
    reference_sample=2048,
)

CONFIGS: dict[str, FeelvosConfig] = {config.name: config for config in (FEELVOS, FEELVOS_T)}
