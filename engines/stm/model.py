"""Space-time memory network with the published state-dict keys. Holds weights only.

Source: STM, Oh et al. 2019; checked by tests/parity/stm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engines.space_time.decoder import KeyValue, MaskDecoder, upsample
from engines.space_time.encoders import build_encoder
from engines.space_time.network import MemoryNetwork, Query
from engines.stm.config import StmConfig

_EPSILON = 1e-7


class StmNetwork(MemoryNetwork):
    """Two encoders, two key and value heads, one decoder; one memory per object, none for the background."""

    has_background = False

    def __init__(self, config: StmConfig) -> None:
        super().__init__()
        self.config = config
        self.key_width, self.value_width = config.key_width, config.value_width
        self.Encoder_M = build_encoder(config.trunk, masks=True, live_norm=config.live_norm)
        self.Encoder_Q = build_encoder(config.trunk, masks=False, live_norm=config.live_norm)
        channels = self.Encoder_Q.channels
        self.KV_M_r4 = KeyValue(channels[3], config.key_width, config.value_width)
        self.KV_Q_r4 = KeyValue(channels[3], config.key_width, config.value_width)
        self.Decoder = MaskDecoder(
            inputs=2 * config.value_width, skips=(channels[1], channels[2]), width=config.decoder_width
        )

    def memory_masks(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Each object's mask, and the sum of the other objects' (the background is no object)."""
        own = probability[1:, None]
        return own, (own.sum(0, keepdim=True) - own).clamp(0.0, 1.0)

    def encode_memory(self, frame: Tensor, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """[M, 3, H, W] frames and [M, 1, H, W] masks to key and value at stride 16."""
        key, value = self.KV_M_r4(self.Encoder_M(frame, own, other).r4)
        return key, value

    def encode_query(self, frame: Tensor) -> Query:
        """[B, 3, H, W] in 0..1, padded to whole stride cells."""
        maps = self.Encoder_Q(frame)
        key, value = self.KV_Q_r4(maps.r4)
        return Query(key, value, maps.r1, maps.r2, maps.r3)

    def segment(self, query: Query, reads: Tensor, channels: Sequence[int]) -> list[Tensor]:
        """Soft-aggregated logits [K+1, H, W] of each frame; reads: [M, value width, h, w]."""
        frame = query.repeat(channels)
        skip2, skip3 = self.Decoder.skips(query.r2, query.r3)
        rough = self.Decoder.rough(torch.cat([reads, query.value[frame]], dim=1), skip2, skip3, frame)
        objects = torch.softmax(upsample(rough, 4).float(), dim=1)[:, 1]
        return [soft_aggregation(part) for part in objects.split(list(channels))]

    def probability(self, logits: Tensor) -> Tensor:
        """Softmax over the channels, and over the empty slots where the released 11 are asked for."""
        empty = max(0, (self.config.slots or 0) - logits.shape[0])
        bottom = _logit(logits.new_zeros(empty, *logits.shape[1:]))
        return torch.softmax(torch.cat([logits, bottom]).float(), dim=0)[: logits.shape[0]]


def soft_aggregation(objects: Tensor) -> Tensor:
    """Logits [K+1, H, W] from each object's own probability [K, H, W].

    The background is the product of what all objects leave. Source: STM, Oh et al. 2019, section 3.4 (as released).
    """
    background = (1.0 - objects).prod(dim=0, keepdim=True)
    return _logit(torch.cat([background, objects]))


def _logit(probability: Tensor) -> Tensor:
    p = probability.clamp(_EPSILON, 1.0 - _EPSILON)
    return torch.log(p / (1.0 - p))
