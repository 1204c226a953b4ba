"""AFB-URR's network with the published state-dict keys: matching per channel, then uncertain-region refinement.

Source: AFB-URR, Liang et al. 2020; checked by tests/parity/afb_urr.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.afb_urr.config import AfbUrrConfig
from engines.space_time.decoder import KeyValue, MaskDecoder, ResidualBlock, upsample
from engines.space_time.encoders import build_encoder
from engines.space_time.network import MemoryNetwork, Query
from engines.visibility import uncertainty_map

_LOCAL_WINDOW = 7
_EPSILON = 1e-7


@dataclass(frozen=True)
class Refinement:
    """What the refinement of one frame gives, all at stride 2.

    rough_seg: [C, 1, h, w]; uncertainty: [h, w] in (0, 1]; logits: [C, 2, h, w], refined.
    """

    rough_seg: Tensor
    uncertainty: Tensor
    logits: Tensor


class RefiningDecoder(MaskDecoder):
    """The rough decoder, and a local one for where the rough one is in doubt."""

    def __init__(self, config: AfbUrrConfig, channels: tuple[int, int, int, int]) -> None:
        super().__init__(inputs=2 * config.value_width, skips=(channels[1], channels[2]), width=config.decoder_width)
        self.refinement = config.refinement
        self.local_convFM = nn.Conv2d(2 * channels[0], config.local_width, 3, padding=1)
        self.local_ResMM = ResidualBlock(config.local_width)
        self.local_pred2 = nn.Conv2d(config.local_width, 2, 3, padding=1)

    def refine(self, r1: Tensor, rough: Tensor) -> Refinement:
        """One frame. r1: [C1, h, w] query map; rough: [C, 2, h, w] logits, both at stride 2."""
        rough_seg = torch.softmax(torch.softmax(rough.float(), dim=1)[:, 1:], dim=0)
        uncertainty = uncertainty_map(rough_seg[:, 0])
        if not self.refinement:
            return Refinement(rough_seg, uncertainty, rough)
        seg = rough_seg.to(r1.dtype)
        local = self.local_logits(r1, seg) * _max_pool(seg)
        return Refinement(rough_seg, uncertainty, rough + uncertainty.to(r1.dtype) * local)

    def local_logits(self, r1: Tensor, seg: Tensor) -> Tensor:
        """[C, 2, h, w] from the query map and what it looks like, on average, inside each channel nearby.

        r1: [C1, h, w]; seg: [C, 1, h, w]. Source: AFB-URR, Liang et al. 2020, eq. 8-9.
        """
        reference = _average_pool(r1[None] * seg) / (_average_pool(seg) + 1e-8)
        x = torch.cat([r1.expand(seg.shape[0], *r1.shape), reference], dim=1)
        logits: Tensor = self.local_pred2(F.relu(self.local_ResMM(self.local_convFM(x))))
        return logits


def _average_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, _LOCAL_WINDOW, stride=1, padding=_LOCAL_WINDOW // 2)


def _max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, _LOCAL_WINDOW, stride=1, padding=_LOCAL_WINDOW // 2)


class AfbUrrNetwork(MemoryNetwork):
    """Two encoders, one key and value head, a refining decoder; one memory per channel, background included."""

    has_background = True

    def __init__(self, config: AfbUrrConfig) -> None:
        super().__init__()
        self.config = config
        self.key_width, self.value_width = config.key_width, config.value_width
        self.encoder_m = build_encoder(config.trunk, masks=True, live_norm=config.live_norm)
        self.encoder_q = build_encoder(config.trunk, masks=False, live_norm=config.live_norm)
        channels = self.encoder_q.channels
        self.keyval_r4 = KeyValue(channels[3], config.key_width, config.value_width)
        self.decoder = RefiningDecoder(config, channels)

    def memory_masks(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Each channel's mask and its complement, which is 1 in the padded border."""
        own = probability[:, None]
        return own, (1.0 - own).clamp(0.0, 1.0)

    def encode_memory(self, frame: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """[M, 3, H, W] frames and [M, 1, H, W] masks to key and value at stride 16."""
        key, value = self.keyval_r4(self.encoder_m(frame, own, other).r4)
        return key, value

    def encode_query(self, frame: Tensor) -> Query:
        """[B, 3, H, W] in 0..1, padded to whole stride cells."""
        maps = self.encoder_q(frame)
        key, value = self.keyval_r4(maps.r4)
        return Query(key, value, maps.r1, maps.r2, maps.r3)

    def segment(self, query: Query, reads: Tensor, channels: Sequence[int]) -> list[Tensor]:
        """Scores [K+1, H, W] of each frame, the logit of each channel's own probability."""
        return [scores_of(r.logits) for r in self.refinements(query, reads, channels)]

    def refinements(self, query: Query, reads: Tensor, channels: Sequence[int]) -> list[Refinement]:
        """Refined logits and uncertainty of each frame; reads: [M, value width, h, w]."""
        frame = query.repeat(channels)
        skip2, skip3 = self.decoder.skips(query.r2, query.r3)
        r4 = torch.cat([reads, query.value[frame]], dim=1)
        rough = upsample(self.decoder.rough(r4, skip2, skip3, frame), 2).split(list(channels))
        return [self.decoder.refine(query.r1[i], part) for i, part in enumerate(rough)]


def scores_of(logits: Tensor) -> Tensor:
    """[C, 2, H/2, W/2] to [C, H, W]: log odds of the second of two logits after upsampling."""
    p = torch.softmax(upsample(logits.float(), 2), dim=1)[:, 1].clamp(_EPSILON, 1.0 - _EPSILON)
    return torch.log(p / (1.0 - p))
