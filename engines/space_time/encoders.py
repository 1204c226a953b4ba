"""Encoders of frames, with or without masks: ResNet-50 (published) and MobileNetV2 (ours, light). Hold no video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.layers.mobilenetv2 import MobileNetV2
from engines.layers.norm import BatchNorm2d, fold_norms
from engines.layers.resnet import EXPANSION, RESNET50_BLOCKS, Bottleneck
from engines.layers.serving_conv import recast_pointwise
from engines.layers.serving_inverted import recast_inverted

TrunkName = Literal["resnet50", "mobilenetv2"]
STRIDE = 16

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Pyramid:
    """Maps at strides 2, 4, 8 and 16: each [B, C, H / stride, W / stride]."""

    r1: Tensor
    r2: Tensor
    r3: Tensor
    r4: Tensor


class Encoder(nn.Module):
    """A trunk that normalises its input and, for memory frames, adds what it sees of the masks to the first map.

    The border that padding added is normalised too, as published: it is black, not zero.
    """

    mean: Tensor
    std: Tensor
    channels: tuple[int, int, int, int]

    def __init__(self, *, stem: int, kernel: int, masks: bool) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))
        self.conv1_m: nn.Conv2d | None = None
        self.conv1_o: nn.Conv2d | None = None
        if masks:
            self.conv1_m = nn.Conv2d(1, stem, kernel, 2, kernel // 2, bias=False)
            self.conv1_o = nn.Conv2d(1, stem, kernel, 2, kernel // 2, bias=False)

    def forward(self, frame: Tensor, own: Tensor | None = None, other: Tensor | None = None) -> Pyramid:
        """frame: [B, 3, H, W] in 0..1; own, other: [B, 1, H, W] in 0..1, for memory encoders only."""
        x = self._first((frame - self.mean) / self.std)
        if self.conv1_m is not None and self.conv1_o is not None and own is not None and other is not None:
            x = x + self.conv1_m(own) + self.conv1_o(other)
        return self._stages(x)

    def optimise_for_serving(self) -> None:
        """Fold every norm but the first, which masks are added before, and recast convolutions, in place.

        The state dict is not the published one afterwards.
        """
        for stage in self._later_stages():
            fold_norms(stage)
        recast_inverted(self)
        recast_pointwise(self)

    def _later_stages(self) -> list[nn.Module]:
        """What follows the first norm."""
        raise TypeError(f"{type(self).__name__} has no stages")

    def _first(self, frame: Tensor) -> Tensor:
        """The first convolution, before its norm."""
        raise TypeError(f"{type(self).__name__} has no first convolution")

    def _stages(self, x: Tensor) -> Pyramid:
        """What follows the first convolution."""
        raise TypeError(f"{type(self).__name__} has no stages")


class ResNetEncoder(Encoder):
    """ResNet-50 up to stride 16 under the published names."""

    channels = (64, 256, 512, 1024)

    def __init__(self, *, masks: bool, live_norm: bool) -> None:
        super().__init__(stem=64, kernel=7, masks=masks)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = BatchNorm2d(64, live=live_norm)
        self.res2 = _stage(64, 64, RESNET50_BLOCKS[0], stride=1, live=live_norm)
        self.res3 = _stage(64 * EXPANSION, 128, RESNET50_BLOCKS[1], stride=2, live=live_norm)
        self.res4 = _stage(128 * EXPANSION, 256, RESNET50_BLOCKS[2], stride=2, live=live_norm)

    def _first(self, frame: Tensor) -> Tensor:
        x: Tensor = self.conv1(frame)
        return x

    def _later_stages(self) -> list[nn.Module]:
        return [self.res2, self.res3, self.res4]

    def _stages(self, x: Tensor) -> Pyramid:
        r1 = F.relu(self.bn1(x))
        r2 = self.res2(F.max_pool2d(r1, 3, 2, 1))
        r3 = self.res3(r2)
        return Pyramid(r1, r2, r3, self.res4(r3))


def _stage(inputs: int, width: int, blocks: int, *, stride: int, live: bool) -> nn.Sequential:
    layers = [Bottleneck(inputs, width, stride=stride, live=live)]
    layers += [Bottleneck(width * EXPANSION, width, stride=1, live=live) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


class MobileEncoder(Encoder):
    """MobileNetV2 cut after its 96-channel stage."""

    channels = (16, 24, 32, 96)
    _LAST = (1, 3, 6, 13)

    def __init__(self, *, masks: bool, live_norm: bool) -> None:
        super().__init__(stem=32, kernel=3, masks=masks)
        self.features = MobileNetV2(live_norm=live_norm).features[: self._LAST[-1] + 1]

    def _first(self, frame: Tensor) -> Tensor:
        x: Tensor = self.features[0][0](frame)  # type: ignore[index]
        return x

    def _later_stages(self) -> list[nn.Module]:
        return list(self.features)[1:]

    def _stages(self, x: Tensor) -> Pyramid:
        norm_relu = self.features[0][1:]  # type: ignore[index]
        x = norm_relu(x)
        maps = []
        for index, block in enumerate(self.features):
            x = x if index == 0 else block(x)
            if index in self._LAST:
                maps.append(x)
        return Pyramid(*maps)


def build_encoder(trunk: TrunkName, *, masks: bool, live_norm: bool) -> Encoder:
    """An encoder of frames, or of frames with masks."""
    kind = ResNetEncoder if trunk == "resnet50" else MobileEncoder
    return kind(masks=masks, live_norm=live_norm)
