"""Xception-65 as DeepLab uses it: separable convolutions throughout, output stride 8.

Source: Chollet 2017; Chen et al. 2018 (DeepLabv3+), the aligned variant. Knows nothing of what its features are for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from engines.layers.norm import BatchNorm2d


@dataclass(frozen=True)
class NormConfig:
    """Batch norm's settings; see engines.layers.norm. The defaults are the published trunk's."""

    eps: float = 1e-3
    momentum: float = 3e-4
    live: bool = False


@dataclass(frozen=True)
class TrunkFeatures:
    """What a segmentation trunk hands on: `low` at stride 4, `high` at the trunk's output stride, both [B, C, h, w]."""

    low: Tensor
    high: Tensor


def plain_conv(width_in: int, width_out: int, kernel: int = 1, *, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(width_in, width_out, kernel, stride=stride, padding=kernel // 2, bias=False)


def depthwise_conv(width: int, *, stride: int = 1, rate: int = 1) -> nn.Conv2d:
    """A dilated 3x3 convolution of each channel by itself, without bias."""
    return nn.Conv2d(width, width, 3, stride=stride, padding=rate, dilation=rate, groups=width, bias=False)


class ConvNorm(nn.Module):
    """Convolution, batch norm and, unless switched off, ReLU."""

    def __init__(self, conv: nn.Conv2d, norm: NormConfig, *, relu: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = BatchNorm2d(conv.out_channels, live=norm.live, eps=norm.eps, momentum=norm.momentum)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C', h', w']."""
        x = self.norm(self.conv(x))
        return F.relu(x, inplace=True) if self.relu else x


class SeparableConv(nn.Module):
    """Depthwise 3x3 and pointwise 1x1, each with batch norm, ReLU after both or after neither."""

    def __init__(
        self, width_in: int, width_out: int, norm: NormConfig, *, stride: int = 1, rate: int = 1, relu: bool = True
    ) -> None:
        super().__init__()
        self.depthwise = ConvNorm(depthwise_conv(width_in, stride=stride, rate=rate), norm, relu=relu)
        self.pointwise = ConvNorm(plain_conv(width_in, width_out), norm, relu=relu)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C', h', w']."""
        x = self.pointwise(self.depthwise(x))
        return x


@dataclass(frozen=True)
class UnitConfig:
    """One Xception unit: three separable convolutions, the stride in the last one."""

    widths: tuple[int, int, int]
    stride: int = 1
    rate: int = 1
    shortcut: str = "conv"
    """"conv" (1x1, strided), "identity" or "none"."""
    relu_before: bool = True
    """ReLU before each depthwise convolution and nowhere else; False: after each normalisation instead."""


class XceptionUnit(nn.Module):
    """Three separable convolutions and a shortcut around them, taken before any ReLU."""

    def __init__(self, width_in: int, config: UnitConfig, norm: NormConfig) -> None:
        super().__init__()
        self.relu_before = config.relu_before
        widths = (width_in, *config.widths)
        self.separable_conv = nn.ModuleList(
            SeparableConv(
                widths[i],
                widths[i + 1],
                norm,
                stride=config.stride if i == 2 else 1,
                rate=config.rate,
                relu=not config.relu_before,
            )
            for i in range(3)
        )
        self.shortcut: nn.Module | None = None
        self.residual = config.shortcut != "none"
        if config.shortcut == "conv":
            self.shortcut = ConvNorm(plain_conv(width_in, widths[-1], stride=config.stride), norm, relu=False)

    def convolve(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of the second and the third separable convolution, without the shortcut."""
        outputs = [x]
        for conv in self.separable_conv:
            outputs.append(conv(F.relu(outputs[-1]) if self.relu_before else outputs[-1]))
        return outputs[2], outputs[3]

    def add_shortcut(self, x: Tensor, residual: Tensor) -> Tensor:
        """The unit's output from its input and what its convolutions made of it."""
        if not self.residual:
            return residual
        return residual + (x if self.shortcut is None else self.shortcut(x))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C', h', w']."""
        return self.add_shortcut(x, self.convolve(x)[1])


class Xception65(nn.Module):
    """Image to features at stride 4 (256 wide, not rectified) and stride 8 (2048 wide).

    Stride 8 comes from dropping the last two strides; the convolutions after them are dilated by 2 and 4 instead.
    """

    low_width = 256
    high_width = 2048
    middle_units = 16

    def __init__(self, norm: NormConfig | None = None) -> None:
        super().__init__()
        norm = norm or NormConfig()
        self.conv1_1 = ConvNorm(plain_conv(3, 32, 3, stride=2), norm)
        self.conv1_2 = ConvNorm(plain_conv(32, 64, 3), norm)
        self.entry_block1 = XceptionUnit(64, UnitConfig((128, 128, 128), stride=2), norm)
        self.entry_block2 = XceptionUnit(128, UnitConfig((256, 256, 256), stride=2), norm)
        self.entry_block3 = XceptionUnit(256, UnitConfig((728, 728, 728)), norm)
        middle = UnitConfig((728, 728, 728), rate=2, shortcut="identity")
        self.middle = nn.Sequential(*(XceptionUnit(728, middle, norm) for _ in range(self.middle_units)))
        self.exit_block1 = XceptionUnit(728, UnitConfig((728, 1024, 1024), rate=2), norm)
        last = UnitConfig((1536, 1536, 2048), rate=4, shortcut="none", relu_before=False)
        self.exit_block2 = XceptionUnit(1024, last, norm)

    def forward(self, image: Tensor) -> TrunkFeatures:
        """image: [B, 3, H, W] in -1..1."""
        x = self.entry_block1(self.conv1_2(self.conv1_1(image)))
        low, residual = self.entry_block2.convolve(x)
        x = self.entry_block2.add_shortcut(x, residual)
        x = self.middle(self.entry_block3(x))
        return TrunkFeatures(low=low, high=self.exit_block2(self.exit_block1(x)))
