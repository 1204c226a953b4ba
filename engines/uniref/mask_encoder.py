"""Mask references: a frame and one object's mask become tokens that UniFusion reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut. Unlike the usual ResNet's, these convolutions have a bias."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)) + shortcut)


class _ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), x through a 3x3 convolution if the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.downsample = None if inputs == outputs else nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change = self.conv2(F.relu(self.conv1(F.relu(x))))
        return cast(Tensor, change + (x if self.downsample is None else self.downsample(x)))


class _ChannelGate(nn.Module):
    def __init__(self, dim: int, reduction: int = 16) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(dim, dim // reduction), nn.ReLU(), nn.Linear(dim // reduction, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        weight = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return x * cast(Tensor, weight).sigmoid()[:, :, None, None]


class _SpatialConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(x))


class _SpatialGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spatial = _SpatialConvolution()

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.stack((x.amax(1), x.mean(1)), 1)
        return x * cast(Tensor, self.spatial(pooled)).sigmoid()


class ConvolutionalAttention(nn.Module):
    """Channel gate, then spatial gate. Source: CBAM, Woo et al. 2018."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ChannelGate = _ChannelGate(dim)
        self.SpatialGate = _SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        return cast(Tensor, self.SpatialGate(self.ChannelGate(x)))


class _LevelFuser(nn.Module):
    """Joins a tap of the mask trunk with the frame's own level."""

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.block1 = _ResidualBlock(inputs, dim)
        self.attention = ConvolutionalAttention(dim)
        self.block2 = _ResidualBlock(dim, dim)

    def forward(self, tap: Tensor, level: Tensor) -> Tensor:
        x = self.block1(torch.cat((tap, level), 1))
        return cast(Tensor, self.block2(x + self.attention(x)))


class MaskEncoder(nn.Module):
    """A ResNet-18-like trunk on image and mask, fused with the frame's levels into values for UniFusion."""

    def __init__(self, dim: int = 256, widths: tuple[int, int, int, int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, widths[0], 7, 2, 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        for index, width in enumerate(widths):
            inputs = widths[max(index - 1, 0)]
            blocks = nn.Sequential(_BasicBlock(inputs, width, 1 if index == 0 else 2), _BasicBlock(width, width, 1))
            self.add_module(f"layer{index + 1}", blocks)
        self.final_layer = nn.Sequential(nn.Conv2d(widths[-1], dim, 3, 2, 1), nn.GroupNorm(32, dim))
        for index, tap in enumerate((*widths[1:], dim)):
            self.add_module(f"fuser{index + 2}", _LevelFuser(dim + tap, dim))

    def _taps(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        taps = []
        for index in range(4):
            x = self.get_submodule(f"layer{index + 1}")(x)
            taps.append(x)
        return [*taps[1:], self.final_layer(x)]

    def forward(self, pixels: Tensor, masks: Tensor, levels: Sequence[Tensor]) -> list[Tensor]:
        """Values of one object per batch entry.

        pixels: [B, 3, H, W] normalised and padded. masks: [B, 1, H, W] 0..1. levels: [B, C, Hi, Wi] of the same
        frame. Returns [B, C, Hi, Wi] for each level.
        """
        taps = self._taps(torch.cat((pixels, masks.to(pixels)), 1))
        return [
            self.get_submodule(f"fuser{index + 2}")(tap, level)
            for index, (tap, level) in enumerate(zip(taps, levels, strict=True))
        ]
