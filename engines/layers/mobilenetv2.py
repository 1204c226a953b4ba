"""MobileNetV2 trunk with output stride 16 and the usual torchvision-like parameter names. Holds no state."""

from __future__ import annotations

from torch import Tensor, nn

from engines.layers.norm import BatchNorm2d

CHANNELS = (24, 32, 96, 1280)
"""Channels of the four maps that MobileNetV2 returns."""

# expansion, channels, repeats, stride, dilation of the repeats after the first
_STAGES = (
    (1, 16, 1, 1, 1),
    (6, 24, 2, 2, 1),
    (6, 32, 3, 2, 1),
    (6, 64, 4, 2, 1),
    (6, 96, 3, 1, 1),
    (6, 160, 3, 1, 2),  # stride 2 in classification; dilated here, and so is what follows
    (6, 320, 1, 1, 2),
)
_LAST_BLOCK_OF_MAP = (3, 6, 13, 18)


def _conv_norm_relu(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1, live: bool
) -> nn.Sequential:
    padding = (kernel - 1) // 2 * dilation
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, BatchNorm2d(outputs, live=live), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project; a residual where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, *, expand: int, stride: int, dilation: int, live: bool) -> None:
        super().__init__()
        hidden = inputs * expand
        self.residual = stride == 1 and inputs == outputs
        parts: list[nn.Module] = [] if expand == 1 else [_conv_norm_relu(inputs, hidden, 1, live=live)]
        parts += [
            _conv_norm_relu(hidden, hidden, 3, stride=stride, dilation=dilation, groups=hidden, live=live),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            BatchNorm2d(outputs, live=live),
        ]
        self.conv = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Four maps at strides 4, 8, 16 and 16.

    Source: Sandler et al. 2018, table 2; the last stages dilated as AOT does.
    """

    def __init__(self, *, live_norm: bool = False) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_conv_norm_relu(3, 32, 3, stride=2, live=live_norm)]
        inputs, first_dilation = 32, 1
        for expand, outputs, repeats, stride, dilation in _STAGES:
            for index in range(repeats):
                blocks.append(
                    InvertedResidual(
                        inputs,
                        outputs,
                        expand=expand,
                        stride=stride if index == 0 else 1,
                        dilation=first_dilation if index == 0 else dilation,
                        live=live_norm,
                    )
                )
                inputs = outputs
            first_dilation = dilation
        blocks.append(_conv_norm_relu(inputs, CHANNELS[-1], 1, live=live_norm))
        self.features = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] to maps of `CHANNELS` at H/4, H/8, H/16, H/16 (rounded up)."""
        maps = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in _LAST_BLOCK_OF_MAP:
                maps.append(x)
        return tuple(maps)
