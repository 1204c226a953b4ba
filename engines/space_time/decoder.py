"""Key and value head and the coarse-to-fine mask decoder under the published names. Hold no video."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHUNK_ITEMS = {"cpu": 4, "cuda": 32}


def upsample(x: Tensor, factor: int) -> Tensor:
    """Bilinear, align_corners=False."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


class KeyValue(nn.Module):
    """3x3 heads for keys and values on the stride-16 map."""

    def __init__(self, inputs: int, key: int, value: int) -> None:
        super().__init__()
        self.Key = nn.Conv2d(inputs, key, 3, padding=1)
        self.Value = nn.Conv2d(inputs, value, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, h, w] to key [B, key, h, w] and value [B, value, h, w]."""
        return self.Key(x), self.Value(x)


class ResidualBlock(nn.Module):
    """Pre-activation residual block without norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, h, w] to the same."""
        y: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return y


class Refine(nn.Module):
    """Adds a skip map to the upsampled coarse map."""

    def __init__(self, skip: int, width: int) -> None:
        super().__init__()
        self.convFS = nn.Conv2d(skip, width, 3, padding=1)
        self.ResFS = ResidualBlock(width)
        self.ResMM = ResidualBlock(width)

    def skip(self, skip: Tensor) -> Tensor:
        """[B, skip, 2h, 2w] to [B, width, 2h, 2w]: the part that all objects of a frame share."""
        x: Tensor = self.ResFS(self.convFS(skip))
        return x

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """skip: what skip() gave, [B, width, 2h, 2w]; coarse: [B, width, h, w]. Returns [B, width, 2h, 2w]."""
        x: Tensor = self.ResMM(skip + upsample(coarse, 2))
        return x


class MaskDecoder(nn.Module):
    """Stride-16 read-out and the query's skip maps to two logits (not the object, the object) at stride 4."""

    def __init__(self, *, inputs: int, skips: tuple[int, int], width: int) -> None:
        super().__init__()
        self.convFM = nn.Conv2d(inputs, width, 3, padding=1)
        self.ResMM = ResidualBlock(width)
        self.RF3 = Refine(skips[1], width)
        self.RF2 = Refine(skips[0], width)
        self.pred2 = nn.Conv2d(width, 2, 3, padding=1)

    def skips(self, r2: Tensor, r3: Tensor) -> tuple[Tensor, Tensor]:
        """The skip branches of a batch of frames, computed once for all their objects."""
        return self.RF2.skip(r2), self.RF3.skip(r3)

    def rough(self, r4: Tensor, skip2: Tensor, skip3: Tensor, frame: Tensor) -> Tensor:
        """Logits [M, 2, 4h, 4w], by chunks of items, so that many objects do not multiply the activations.

        r4: [M, inputs, h, w]; skip2, skip3: skip branches of B frames; frame: [M] int64, the frame of each item.
        """
        size = _CHUNK_ITEMS.get(r4.device.type, 4)
        chunks = zip(r4.split(size), frame.split(size), strict=True)
        return torch.cat([self._rough(part, skip2[index], skip3[index]) for part, index in chunks])

    def _rough(self, r4: Tensor, skip2: Tensor, skip3: Tensor) -> Tensor:
        x = self.ResMM(self.convFM(r4))
        x = self.RF2(skip2, self.RF3(skip3, x))
        logits: Tensor = self.pred2(F.relu(x))
        return logits
