"""Visual trunks: an image to four maps at strides 4, 8, 16 and 32."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from engines.layers.mobilenetv2 import MobileNetV2
from engines.layers.norm import BatchNorm2d
from engines.layers.resnet import ResNet
from engines.layers.swin import SWIN_L, SwinTransformer
from engines.uniref.config import Backbone

TRUNK_CHANNELS: dict[Backbone, tuple[int, int, int, int]] = {
    "resnet50": (256, 512, 1024, 2048),
    "swin_l": (192, 384, 768, 1536),
    "mobilenetv2": (24, 32, 96, 128),
}

_MOBILE_MAPS = (3, 6, 13)  # last block at strides 4, 8 and 16
_MOBILE_BLOCKS = 14


class MobileTrunk(nn.Module):
    """MobileNetV2 up to its 96-channel stage (the trunk of the light engines), and one more stage at stride 32."""

    def __init__(self, *, live_norm: bool = False) -> None:
        super().__init__()
        self.features = MobileNetV2(live_norm=live_norm).features[:_MOBILE_BLOCKS]
        self.coarse = nn.Conv2d(96, 128, 3, 2, 1, bias=False)
        self.coarse_norm = BatchNorm2d(128, live=live_norm)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] to maps of 24, 32, 96 and 128 channels."""
        maps = []
        for index, block in enumerate(self.features):
            x = block(x)
            if index in _MOBILE_MAPS:
                maps.append(x)
        maps.append(F.relu(self.coarse_norm(self.coarse(x))))
        return tuple(maps)


def build_trunk(backbone: Backbone, *, live_norm: bool = False) -> nn.Module:
    """The trunk of that name. live_norm: batch norm learns, for training from scratch."""
    if backbone == "mobilenetv2":
        return MobileTrunk(live_norm=live_norm)
    if backbone == "swin_l":
        return SwinTransformer(SWIN_L)
    return ResNet(live_norm=live_norm)
