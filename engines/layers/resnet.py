"""ResNet trunk of bottleneck blocks with torchvision-like parameter names. Holds no state."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from engines.layers.norm import BatchNorm2d

RESNET50_BLOCKS = (3, 4, 6, 3)
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 (which carries the stride), 1x1, and a projected shortcut where the shape changes."""

    def __init__(self, inputs: int, width: int, *, stride: int, live: bool) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = BatchNorm2d(width, live=live)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = BatchNorm2d(width, live=live)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = BatchNorm2d(outputs, live=live)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs, live=live)
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, 4 width, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)).add_(shortcut), inplace=True)


class ResNet(nn.Module):
    """Maps of the first `stages` stages at strides 4, 8, 16, 32.

    Source: He et al. 2016; stride on the 3x3 convolution, as in torchvision.
    """

    def __init__(self, blocks: tuple[int, ...] = RESNET50_BLOCKS, *, stages: int = 4, live_norm: bool = False) -> None:
        super().__init__()
        self.stages = stages
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = BatchNorm2d(64, live=live_norm)
        inputs = 64
        for index in range(stages):
            width = 64 * 2**index
            layer = nn.Sequential()
            for block in range(blocks[index]):
                stride = 2 if block == 0 and index > 0 else 1
                layer.append(Bottleneck(inputs, width, stride=stride, live=live_norm))
                inputs = width * EXPANSION
            self.add_module(f"layer{index + 1}", layer)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] to `stages` maps of 256, 512, 1024, 2048 channels."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x)), inplace=True), 3, 2, 1)
        maps = []
        for index in range(self.stages):
            x = self.get_submodule(f"layer{index + 1}")(x)
            maps.append(x)
        return tuple(maps)
