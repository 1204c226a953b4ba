"""The feature pyramid decoder: tokens and shallow maps in, logits at a quarter of the input out."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from engines.aot.config import CHANNELS_PER_GROUP, WIDTH, AotConfig


class ConvNorm(nn.Module):
    """Convolution, group norm of 8 groups, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.gn = nn.GroupNorm(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] to [B, outputs, h, w]."""
        return F.relu(self.gn(self.conv(x)), inplace=True)


class Decoder(nn.Module):
    """From 1/16 to 1/4, adding the encoder's maps on the way.

    Source: AOT, Yang et al. 2021, section 5 (a feature pyramid as in CFBI).
    """

    def __init__(self, config: AotConfig) -> None:
        super().__init__()
        self.align_corners = config.align_corners
        c4, c8, c16, _ = config.encoder_channels
        self.conv_in = ConvNorm(config.decoder_width, WIDTH, 1)
        self.conv_16x = ConvNorm(WIDTH, WIDTH, 3)
        self.conv_8x = ConvNorm(WIDTH, WIDTH // 2, 3)
        self.conv_4x = ConvNorm(WIDTH // 2, WIDTH // 2, 3)
        self.adapter_16x = nn.Conv2d(c16, WIDTH, 1)
        self.adapter_8x = nn.Conv2d(c8, WIDTH, 1)
        self.adapter_4x = nn.Conv2d(c4, WIDTH // 2, 1)
        self.conv_out = nn.Conv2d(WIDTH // 2, CHANNELS_PER_GROUP, 1)

    def adapt(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """What the encoder's maps at 1/4, 1/8 and 1/16 add; the same for every group of objects in a frame."""
        return self.adapter_4x(maps[0]), self.adapter_8x(maps[1]), self.adapter_16x(maps[2])

    def forward(self, x: Tensor, adapted: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """[B, decoder width, h, w] to logits [B, 11, 4h - 3, 4w - 3] (4h, 4w without aligned corners)."""
        a4, a8, a16 = adapted
        x = self.conv_16x(self.conv_in(x) + a16)
        x = self.conv_8x(self._enlarge(x, a8) + a8)
        x = self.conv_4x(self._enlarge(x, a4) + a4)
        return self.conv_out(x)

    def _enlarge(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=self.align_corners)
