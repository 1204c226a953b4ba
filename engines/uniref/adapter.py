"""UniFusion as a plug-in: any segmenter that can be cut after its image encoder learns to follow an exemplar.

The host stays frozen; UniFusion, the reference encoder and, if wanted, the host's head learn. Before any training the
adapted segmenter gives exactly what the host gives. Source: UniRef++, Wu et al. 2023, §4.6 (there the host is SAM).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.uniref.unifusion import ReferenceTokens, UniFusion


class Host(Protocol):
    """What the adapter needs of a segmenter, which must be an nn.Module too."""

    def encode(self, images: Tensor) -> Sequence[Tensor]:
        """[B, 3, H, W] images to feature maps [B, Ci, Hi, Wi]."""
        ...

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Feature maps to mask logits."""
        ...


class ExemplarTokens(nn.Module):
    """One level of an exemplar: its features are the keys; features and mask together are the values."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.value = nn.Conv2d(dim + 1, dim, 1)

    def forward(self, level: Tensor, masks: Tensor) -> ReferenceTokens:
        """level: [B, C, h, w]. masks: [B, 1, H, W] 0..1. The condition is the mean feature of what is marked."""
        share = F.adaptive_avg_pool2d(masks, (level.shape[-2], level.shape[-1]))
        keys = level.flatten(2).transpose(1, 2)
        values = cast(Tensor, self.value(torch.cat((level, share), 1))).flatten(2).transpose(1, 2)
        weight = share.flatten(2).transpose(1, 2)
        marked = (keys * weight).sum(1) / weight.sum(1).clamp(min=1e-6)
        return ReferenceTokens(keys, values, marked)


class AdaptedSegmenter(nn.Module):
    """A frozen host with UniFusion between its encoder and its decoder.

    widths: channels of the host's levels. heads: prefixes of those parameters of the host that learn all the same.
    """

    def __init__(
        self, host: nn.Module, widths: Sequence[int], *, attention_heads: int = 4, heads: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.host = host
        self.fusion = nn.ModuleList(UniFusion(width, attention_heads, width) for width in widths)
        self.exemplar = nn.ModuleList(ExemplarTokens(width) for width in widths)
        for name, parameter in host.named_parameters():
            parameter.requires_grad_(any(name.startswith(prefix) for prefix in heads))

    def train(self, mode: bool = True) -> AdaptedSegmenter:
        """The host stays in eval mode: its norms' statistics are frozen too."""
        super().train(mode)
        self.host.eval()
        return self

    def learning(self) -> Iterator[nn.Parameter]:
        """The parameters that learn."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def forward(self, images: Tensor, exemplars: Tensor, masks: Tensor) -> Tensor:
        """Mask logits: what `masks` [B, 1, H, W] marks in `exemplars` [B, 3, H, W], found in `images` [B, 3, H, W]."""
        host = cast(Host, self.host)
        shown = host.encode(exemplars)
        fused = [
            fuse(level, [encode(reference, masks)])
            for fuse, encode, level, reference in zip(
                self.fusion, self.exemplar, host.encode(images), shown, strict=True
            )
        ]
        return host.decode(fused)
