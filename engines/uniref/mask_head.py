"""Masks by dynamic convolution: every query brings the weights of its own three-layer mask network.

Source: CondInst, Tian et al. 2020, on features of the encoder's memory and of the trunk's stride-4 map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.uniref.transformer import MLP

STRIDE = 4


def aligned_bilinear(maps: Tensor, factor: int) -> Tensor:
    """[B, C, H, W] enlarged `factor` times so that source pixel i lies on target pixel factor * i + factor // 2."""
    if factor == 1:
        return maps
    height, width = maps.shape[-2:]
    maps = F.pad(maps, (0, 1, 0, 1), mode="replicate")
    grown = F.interpolate(maps, (factor * height + 1, factor * width + 1), mode="bilinear", align_corners=True)
    half = factor // 2
    return F.pad(grown, (half, 0, half, 0), mode="replicate")[..., : factor * height, : factor * width]


class _MaskTrunk(nn.Module):
    """From the memory at strides 32, 16 and 8 to a few channels at stride 8."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.lay3 = nn.Conv2d(dim, dim, 3, padding=1)
        self.lay4 = nn.Conv2d(dim, dim, 3, padding=1)
        self.jia_dcn = nn.Conv2d(dim, dim, 3, padding=1)
        self.lay1 = nn.Conv2d(dim, dim // 4, 3, padding=1)
        self.lay2 = nn.Conv2d(dim // 4, channels, 3, padding=1)

    def forward(self, stride32: Tensor, stride16: Tensor, stride8: Tensor) -> Tensor:
        x = F.relu(self.lay3(stride32))
        x = F.relu(self.lay4(F.interpolate(x, stride16.shape[-2:]) + stride16))
        x = F.relu(self.jia_dcn(F.interpolate(x, stride8.shape[-2:]) + stride8))
        return F.relu(self.lay2(F.relu(self.lay1(x))))


class MaskHead(nn.Module):
    """Mask features once per image, then masks of only those queries that are asked for."""

    def __init__(self, dim: int, stride4_channels: int, channels: int = 8, *, dense: bool = False) -> None:
        super().__init__()
        self.channels = channels
        self.mask_head = _MaskTrunk(dim, channels)
        self.lateral_conv = nn.Conv2d(stride4_channels, channels, 1)
        self.output_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.mask_conv = nn.Conv2d(channels, channels, 1)
        self.weight_shapes = ((channels, channels + 2), (channels, channels), (1, channels))
        parameters = sum(rows * columns + rows for rows, columns in self.weight_shapes)
        self.controller = MLP(dim, dim, parameters, 3)
        self.dense = nn.Conv2d(channels, 1, 1) if dense else None

    def features(self, memory: Sequence[Tensor], stride4: Tensor) -> Tensor:
        """Memory maps at strides 8, 16, 32 and the trunk's stride-4 map to [B, channels, H/4, W/4]."""
        stride8, stride16, stride32 = memory[:3]
        coarse = self.mask_head(stride32, stride16, stride8)
        lateral = self.lateral_conv(stride4)
        x = F.interpolate(coarse, lateral.shape[-2:], mode="bilinear", align_corners=False) + lateral
        return cast(Tensor, self.mask_conv(F.relu(self.output_conv(x))))

    def forward(self, features: Tensor, hidden: Tensor, points: Tensor) -> Tensor:
        """Mask logits.

        features: [B, channels, H/4, W/4]. hidden: [B, Q, C] of the wanted queries. points: [B, Q, 2] (x, y) in pixels
        of the network's input. Returns [B, Q, H/4, W/4].
        """
        batch, _, height, width = features.shape
        parameters = self.controller(hidden)
        x = self._inputs(features, points)
        for rows, (weight, bias) in enumerate(self._layers(parameters)):
            x = torch.baddbmm(bias.flatten(0, 1), weight.flatten(0, 1), x)
            x = x if rows == len(self.weight_shapes) - 1 else F.relu(x)
        return x.view(batch, hidden.shape[1], height, width)

    def _inputs(self, features: Tensor, points: Tensor) -> Tensor:
        """[B * Q, 2 + channels, H/4 * W/4]: the way from each place to the query's point, then the features."""
        height, width = features.shape[-2:]
        device = features.device
        y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
        places = torch.stack((x, y)).flatten(1) * STRIDE + STRIDE // 2  # [2, HW]
        way = points.unsqueeze(-1) - places  # [B, Q, 2, HW]
        shared = features.flatten(2).unsqueeze(1).expand(-1, points.shape[1], -1, -1)
        return torch.cat((way, shared), 2).flatten(0, 1)

    def _layers(self, parameters: Tensor) -> list[tuple[Tensor, Tensor]]:
        """[B, Q, P] to the weight [B, Q, rows, columns] and bias [B, Q, rows, 1] of each layer, weights first."""
        sizes = [rows * columns for rows, columns in self.weight_shapes] + [rows for rows, _ in self.weight_shapes]
        parts = parameters.split(sizes, -1)
        depth = len(self.weight_shapes)
        weights = [part.unflatten(-1, shape) for part, shape in zip(parts, self.weight_shapes, strict=False)]
        return [(weight, bias.unsqueeze(-1)) for weight, bias in zip(weights, parts[depth:], strict=True)]
