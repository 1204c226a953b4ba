"""FEELVOS's networks: DeepLabv3+ features, pixel embedding, dynamic segmentation head.

Source: FEELVOS, Voigtlaender et al. 2019; constants as in the released checkpoint (checked by tests/parity/feelvos).
Knows tensors only; matching is in matching.py, the state of a video in engine.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.feelvos.config import FeelvosConfig
from engines.layers.mobilenetv2 import CHANNELS as MOBILE_CHANNELS
from engines.layers.mobilenetv2 import MobileNetV2
from engines.layers.norm import fold_norms
from engines.layers.products import linear
from engines.layers.serving_conv import recast_pointwise
from engines.layers.serving_inverted import recast_inverted
from engines.layers.xception import ConvNorm, NormConfig, SeparableConv, TrunkFeatures, Xception65, plain_conv

_DECODER_EPS = 1e-5
_EMBEDDING_GAIN = 0.1
"""Untrained embeddings start this small, so that squared distances are about 1 and the matching passes gradients."""


@dataclass(frozen=True)
class FrameFeatures:
    """One frame as FEELVOS sees it, at stride 4: `shared` [B, C, h, w] for the head, `embedding` [B, E, h, w]."""

    shared: Tensor
    embedding: Tensor


def resize_aligned(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] to another (height, width), bilinear, corner pixels on corner pixels."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def feature_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at stride 4 of an image of this height and width."""
    return (height - 1) // 4 + 1, (width - 1) // 4 + 1


class AtrousPyramid(nn.Module):
    """ASPP: the whole image's mean, a 1x1 and some dilated 3x3 views of the same features, projected together."""

    def __init__(self, width_in: int, width: int, rates: tuple[int, ...], norm: NormConfig) -> None:
        super().__init__()
        self.image_pooling = ConvNorm(plain_conv(width_in, width), norm)
        branches: list[nn.Module] = [ConvNorm(plain_conv(width_in, width), norm)]
        branches += [SeparableConv(width_in, width, norm, rate=rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        self.projection = ConvNorm(plain_conv(width * (len(branches) + 1), width), norm)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, width, h, w]."""
        pooled = self.image_pooling(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        projected: Tensor = self.projection(torch.cat([pooled, *(branch(x) for branch in self.branches)], dim=1))
        return projected


class Decoder(nn.Module):
    """Brings the pyramid's features to stride 4 and mixes in the trunk's own features of that stride."""

    def __init__(self, low_in: int, config: FeelvosConfig, norm: NormConfig) -> None:
        super().__init__()
        self.low_projection = ConvNorm(plain_conv(low_in, config.low_width), norm)
        self.convs = nn.Sequential(
            SeparableConv(config.aspp_width + config.low_width, config.decoder_width, norm),
            SeparableConv(config.decoder_width, config.decoder_width, norm),
        )

    def forward(self, pyramid: Tensor, low: Tensor) -> Tensor:
        """[B, decoder_width, h, w] at the size of `low`."""
        enlarged = resize_aligned(pyramid, (low.shape[2], low.shape[3]))
        mixed: Tensor = self.convs(torch.cat([enlarged, self.low_projection(low)], dim=1))
        return mixed


class BiasedSeparableConv(nn.Module):
    """Depthwise and pointwise convolution with biases and ReLU after both; no normalisation."""

    def __init__(self, width_in: int, width_out: int, kernel: int, *, gain: float = 1.0) -> None:
        """gain: scale of the untrained outputs. Without norms the usual initial values would fade with depth."""
        super().__init__()
        self.depthwise = nn.Conv2d(width_in, width_in, kernel, padding=kernel // 2, groups=width_in)
        self.pointwise = nn.Conv2d(width_in, width_out, 1)
        for conv in (self.depthwise, self.pointwise):
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
            nn.init.zeros_(_required(conv.bias))
        with torch.no_grad():
            self.pointwise.weight.mul_(gain)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] to [B, C', h, w]."""
        return F.relu(self.pointwise(F.relu(self.depthwise(x))))

    def forward_shared(self, shared: Tensor, own: Tensor, owner: Tensor) -> Tensor:
        """The same on cat(shared[owner], own) along the channels, with the work on `shared` done once for all objects.

        shared: [B, C, h, w], own: [N, D, h, w], owner: [N] row of `shared` that each object sees.
        """
        split, kernel, padding = shared.shape[1], self.depthwise.weight, self.depthwise.padding
        bias = _required(self.depthwise.bias)
        common = F.conv2d(shared, kernel[:split], bias[:split], padding=padding, groups=split)
        single = F.conv2d(own, kernel[split:], bias[split:], padding=padding, groups=own.shape[1])
        mixing = self.pointwise.weight.flatten(1)
        common = linear(F.relu(common).permute(0, 2, 3, 1), mixing[:, :split], self.pointwise.bias)
        single = linear(F.relu(single).permute(0, 2, 3, 1), mixing[:, split:])
        return F.relu(single + common[owner]).permute(0, 3, 1, 2)


def _required(parameter: Tensor | None) -> Tensor:
    if parameter is None:
        raise ValueError("this convolution was built without a bias")
    return parameter


class DynamicHead(nn.Module):
    """One logit map per object from the frame's features and the object's own distance and mask maps.

    The weights are the same for every object, so their number is free.
    """

    def __init__(self, config: FeelvosConfig) -> None:
        super().__init__()
        widths = [config.decoder_width + config.object_channels] + [config.head_width] * config.head_layers
        self.layers = nn.ModuleList(
            BiasedSeparableConv(widths[i], widths[i + 1], config.head_kernel) for i in range(config.head_layers)
        )
        self.logits = nn.Conv2d(config.head_width, 1, 1)
        # Only these few channels tell objects apart; untrained, they weigh as much as all the shared ones together.
        with torch.no_grad():
            mixing = self.layers[0].get_submodule("pointwise").get_parameter("weight")
            mixing[:, config.decoder_width :] *= math.sqrt(config.decoder_width / config.object_channels)

    def features(self, shared: Tensor, own: Tensor, owner: Tensor) -> Tensor:
        """[N, head_width, h, w], before the last 1x1 convolution."""
        first, *rest = self.layers
        if not isinstance(first, BiasedSeparableConv):
            raise TypeError("the head's first layer must be able to share work between objects")
        x = first.forward_shared(shared, own, owner)
        for layer in rest:
            x = layer(x)
        return x

    def forward(self, shared: Tensor, own: Tensor, owner: Tensor) -> Tensor:
        """[N, h, w] logits.

        shared: [B, C, h, w] decoder features; own: [N, D, h, w] global distance, previous mask, local distance of each
        object, in that order (those that the variant uses); owner: [N] int64 row of `shared` for each object.
        """
        logits: Tensor = self.logits(self.features(shared, own, owner))
        return logits[:, 0]


class MobileTrunk(nn.Module):
    """MobileNetV2 as a segmentation trunk: features at stride 4 and stride 16."""

    low_width = MOBILE_CHANNELS[0]
    high_width = MOBILE_CHANNELS[-1]

    def __init__(self, *, live_norm: bool) -> None:
        super().__init__()
        self.mobilenet = MobileNetV2(live_norm=live_norm)

    def forward(self, image: Tensor) -> TrunkFeatures:
        """image: [B, 3, H, W], normalised."""
        maps = self.mobilenet(image)
        return TrunkFeatures(low=maps[0], high=maps[-1])


class FeelvosNet(nn.Module):
    """Trunk, pyramid, decoder, embedding and head of one variant.

    live_norm: batch norms learn and follow the batches in train(); else they are the fixed maps of finished weights.
    """

    def __init__(self, config: FeelvosConfig, *, live_norm: bool = False) -> None:
        super().__init__()
        self.config = config
        norm = NormConfig(momentum=config.norm_momentum, live=live_norm)
        self.trunk: Xception65 | MobileTrunk
        self.trunk = Xception65(norm) if config.trunk == "xception65" else MobileTrunk(live_norm=live_norm)
        norm = replace(norm, eps=_DECODER_EPS)
        self.aspp = AtrousPyramid(self.trunk.high_width, config.aspp_width, config.aspp_rates, norm)
        self.decoder = Decoder(self.trunk.low_width, config, norm)
        self.embedding = BiasedSeparableConv(config.decoder_width, config.embedding_width, 3, gain=_EMBEDDING_GAIN)
        self.head = DynamicHead(config)

    def optimise_for_serving(self) -> None:
        """Fold the norms and recast 1x1 convolutions, in place; the state dict is another one afterwards."""
        fold_norms(self)
        recast_inverted(self)
        recast_pointwise(self)

    def encode(self, image: Tensor) -> FrameFeatures:
        """image: [B, 3, H, W], values 0..255 scaled to -1..1. Stride 4, see feature_size()."""
        trunk: TrunkFeatures = self.trunk(image)
        shared = self.decoder(self.aspp(trunk.high), trunk.low)
        return FrameFeatures(shared=shared, embedding=self.embedding(shared))

    def forward(self, image: Tensor) -> FrameFeatures:
        """Same as encode()."""
        return self.encode(image)
