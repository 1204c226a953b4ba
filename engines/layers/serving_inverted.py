"""MobileNetV2's blocks for serving: a few rows at a time, so that the widened map never leaves the cache.

At 480p the widened map of the first blocks is 39 MB: written, read, clamped and given back to the system for every
frame. In bands of rows, with the clamp inside the convolution, these blocks take a third of the time. Numbers stay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.layers.mobilenetv2 import InvertedResidual
from engines.layers.serving_conv import ConvShape, ConvWeights, PointwiseConv2d, convolve

BAND_BYTES = 2 << 20
"""Of a widened map on CPU, held at once."""


class ServingInvertedResidual(nn.Module):
    """An InvertedResidual whose norms are folded: widen (unless the block does not), depthwise 3x3, project."""

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        *widening, depthwise, projection = (m for m in block.conv.modules() if isinstance(m, nn.Conv2d))
        self.widening = PointwiseConv2d(widening[0], relu6=True) if widening else None
        self.depthwise = depthwise
        self.projection = PointwiseConv2d(projection)
        self.residual, self.reach, self.stride = block.residual, depthwise.dilation[0], depthwise.stride[0]

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        rows = -(-x.shape[2] // self.stride)
        step = self._band_rows(x)
        y = self._in_bands(x, rows, step) if step < rows else self._block(x, (0, 0), self.reach)
        return x + y if self.residual else y

    def _band_rows(self, x: Tensor) -> int:
        """Rows of the output in a band; all of them where no cache is to be spared."""
        if not x.is_cpu:
            return x.shape[2]
        row_bytes = x.shape[0] * x.shape[3] * self.depthwise.in_channels * x.element_size()
        return max(2, BAND_BYTES // (row_bytes * self.stride))

    def _in_bands(self, x: Tensor, rows: int, step: int) -> Tensor:
        bands = []
        for first in range(0, rows, step):
            low = first * self.stride - self.reach
            high = (min(first + step, rows) - 1) * self.stride + self.reach + 1
            missing = max(0, -low), max(0, high - x.shape[2])
            bands.append(self._block(x[:, :, max(0, low) : high], missing, 0))
        return torch.cat(bands, dim=2)

    def _block(self, x: Tensor, missing: tuple[int, int], padding: int) -> Tensor:
        """All three convolutions. The widened map gets rows of zeros above and below, as many as are missing."""
        hidden = x if self.widening is None else self.widening(x)
        if any(missing):
            hidden = F.pad(hidden, (0, 0, *missing))
        shape = ConvShape(self.stride, (padding, self.reach), self.reach, self.depthwise.groups)
        hidden = convolve(hidden, ConvWeights(self.depthwise.weight, self.depthwise.bias), shape, relu6=True)
        return self.projection(hidden)


def recast_inverted(net: nn.Module) -> None:
    """Replace every InvertedResidual, norms folded, by its serving form, in place; state-dict keys change."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, InvertedResidual):
                setattr(parent, name, ServingInvertedResidual(child))
