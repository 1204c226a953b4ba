"""Branched ERFNet: one encoder, one decoder for offsets and sigmas, one for seeds.

Knows no instance and no image format. Member names are those of the published checkpoint.
Source: ERFNet, Romera et al. 2017; SpatialEmbeddings, Neven et al. 2019 (checked by tests/parity/spatial_embeddings).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.spatial_embeddings.config import NetworkConfig

SIGMA_BIAS = 1.0


class DownBlock(nn.Module):
    """Halve the size: a strided convolution beside a max-pool, joined by channel."""

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs - inputs, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H/2, W/2]."""
        joined = torch.cat([self.conv(features), F.max_pool2d(features, 2)], 1)
        return F.relu(self.bn(joined))


class NonBottleneck(nn.Module):
    """Residual block of two factorised 3x3 convolutions, the second one dilated."""

    def __init__(self, channels: int, eps: float, *, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=eps)
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation))
        self.bn2 = nn.BatchNorm2d(channels, eps=eps)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        inner = self.conv1x3_1(F.relu(self.conv3x1_1(features)))
        inner = self.conv3x1_2(F.relu(self.bn1(inner)))
        inner = self.bn2(self.conv1x3_2(F.relu(inner)))
        return F.relu(self.dropout(inner) + features)


class UpBlock(nn.Module):
    """Double the size by a transposed convolution."""

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(outputs, eps=eps)

    def forward(self, features: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, 2H, 2W]."""
        return F.relu(self.bn(self.conv(features)))


class Encoder(nn.Module):
    """ERFNet's encoder; `output_conv` serves only the encoder's own pre-training."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        eps = config.batch_norm_eps
        self.initial_block = DownBlock(3, 16, eps)
        layers: list[nn.Module] = [DownBlock(16, 64, eps)]
        layers += [NonBottleneck(64, eps, dropout=config.dropout_middle) for _ in range(5)]
        layers.append(DownBlock(64, 128, eps))
        layers += [
            NonBottleneck(128, eps, dilation=dilation, dropout=config.dropout_deep)
            for _ in range(2)
            for dilation in (2, 4, 8, 16)
        ]
        self.layers = nn.ModuleList(layers)
        self.output_conv = nn.Conv2d(128, 2 + config.num_sigmas + config.num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 128, H/8, W/8]."""
        features: Tensor = self.initial_block(image)
        for layer in self.layers:
            features = layer(features)
        return features


class Decoder(nn.Module):
    """Three doublings back to the image's size."""

    def __init__(self, outputs: int, eps: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                UpBlock(128, 64, eps),
                NonBottleneck(64, eps),
                NonBottleneck(64, eps),
                UpBlock(64, 16, eps),
                NonBottleneck(16, eps),
                NonBottleneck(16, eps),
            ]
        )
        self.output_conv = nn.ConvTranspose2d(16, outputs, 2, stride=2)

    def forward(self, features: Tensor) -> Tensor:
        """[B, 128, H/8, W/8] -> [B, outputs, H, W]."""
        for layer in self.layers:
            features = layer(features)
        maps: Tensor = self.output_conv(features)
        return maps


class BranchedERFNet(nn.Module):
    """Offsets, sigmas and seeds of every pixel."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        outputs = (2 + config.num_sigmas, config.num_classes)
        self.decoders = nn.ModuleList([Decoder(count, config.batch_norm_eps) for count in outputs])

    def forward(self, image: Tensor) -> Tensor:
        """Raw maps [B, 2 + num_sigmas + num_classes, H, W]: offset x, offset y, sigmas, seeds.

        image: [B, 3, H, W] RGB in 0..1, H and W multiples of 8; no mean, no deviation taken.
        """
        height, width = image.shape[-2:]
        if height % 8 or width % 8:
            raise ValueError(f"height and width must be multiples of 8, not {height} x {width}")
        features = self.encoder(image)
        return torch.cat([decoder(features) for decoder in self.decoders], 1)

    def encode(self, image: Tensor) -> Tensor:
        """The encoder's own coarse maps [B, 2 + num_sigmas + num_classes, H/8, W/8], for its pre-training."""
        maps: Tensor = self.encoder.output_conv(self.encoder(image))
        return maps

    @torch.no_grad()
    def reset_output(self, sigma_bias: float = SIGMA_BIAS) -> None:
        """Start training from offsets of zero and one sigma everywhere."""
        branch = self.decoders[0]
        if not isinstance(branch, Decoder) or branch.output_conv.bias is None:
            raise TypeError("the first branch must be a Decoder with a bias")
        branch.output_conv.weight.zero_()
        branch.output_conv.bias.zero_()
        branch.output_conv.bias[2:] = sigma_bias
