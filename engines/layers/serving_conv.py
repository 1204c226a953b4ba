"""Convolutions for serving: by oneDNN on CPU, ReLU6 in the same call. Changes no number beyond rounding."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvShape(NamedTuple):
    """How a convolution moves over its input; padding in rows and columns, of zeros."""

    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dilation: int = 1
    groups: int = 1


class ConvWeights(NamedTuple):
    """weight: [outputs, inputs / groups, kh, kw], bias: [outputs] or None."""

    weight: Tensor
    bias: Tensor | None


def convolve(x: Tensor, weights: ConvWeights, shape: ConvShape, *, relu6: bool = False) -> Tensor:
    """F.conv2d of [B, inputs, H, W], and ReLU6 of the outcome if wanted."""
    stride, padding, dilation, groups = shape
    if x.is_cpu and _AVAILABLE and not torch.compiler.is_compiling():
        where = (list(padding), [stride, stride], [dilation, dilation], groups)
        behind = ("hardtanh", [0.0, 6.0], "") if relu6 else ("none", [], "")
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(x, *weights, *where, *behind)
        return fused
    y = F.conv2d(x, *weights, stride, padding, dilation, groups)
    return F.relu6(y, inplace=True) if relu6 else y


_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class PointwiseConv2d(nn.Module):
    """A 1x1 convolution that asks oneDNN directly on CPU.

    F.conv2d takes a path without oneDNN for this shape when it runs on one thread, which makes a MobileNetV2 half as
    slow again (0.19 s instead of 0.13 s of CPU time at 481x849).
    """

    def __init__(self, conv: nn.Conv2d, *, relu6: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach(), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), requires_grad=False)
        self.relu6 = relu6

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, h, w] to [B, outputs, h, w]."""
        return convolve(x, ConvWeights(self.weight, self.bias), ConvShape(), relu6=self.relu6)


def recast_pointwise(net: nn.Module) -> None:
    """Replace every 1x1 convolution of stride 1 by PointwiseConv2d, in place."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.kernel_size == child.stride == (1, 1) and child.groups == 1:
                setattr(parent, name, PointwiseConv2d(child))
