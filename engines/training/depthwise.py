"""Depthwise convolutions whose backward pass does not crawl on a CPU. Training only; the numbers stay the same."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class _Depthwise(torch.autograd.Function):
    """Odd kernel, same padding. The input's gradient is one more convolution; the weight's, k * k products.

    oneDNN has no fast path for the backward pass of strided, dilated or bfloat16 5x5 depthwise kernels: measured 4 to
    7 times slower than this.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2 * dilation, dilation, x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        stride, dilation, radius = ctx.stride, ctx.dilation, weight.shape[-1] // 2 * ctx.dilation
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        spread = gradient
        if stride > 1:
            spread = torch.zeros_like(x)
            spread[..., ::stride, ::stride] = gradient
        of_x = F.conv2d(spread, weight.flip(2, 3), None, 1, radius, dilation, x.shape[1])
        rows, columns = ((n - 1) * stride + 1 for n in gradient.shape[-2:])
        padded = F.pad(x.movedim(1, -1), (0, 0, *(radius,) * 4)).movedim(-1, 1)
        offsets = range(0, 2 * radius + 1, dilation)
        products = [
            (gradient * padded[..., dy : dy + rows : stride, dx : dx + columns : stride]).sum(
                (0, 2, 3), dtype=torch.float32
            )
            for dy in offsets
            for dx in offsets
        ]
        of_weight = torch.stack(products, dim=1).view(weight.shape).to(weight.dtype)
        return of_x, of_weight, None, None


class QuickDepthwise(nn.Module):
    """Stands in for a depthwise nn.Conv2d of the same weight and the same state-dict key."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.stride, self.dilation = int(conv.stride[0]), int(conv.dilation[0])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C, H / stride, W / stride], rounded up."""
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        return cast(Tensor, _Depthwise.apply(x, weight, self.stride, self.dilation))  # type: ignore[no-untyped-call]


def quicken_depthwise(net: Net) -> Net:
    """Swap the depthwise convolutions that are slow to train; changes `net` and returns it."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and _is_slow(child):
                setattr(parent, name, QuickDepthwise(child))
    return net


def _is_slow(conv: nn.Conv2d) -> bool:
    depthwise = conv.groups == conv.in_channels == conv.out_channels > 1
    same = conv.bias is None and conv.kernel_size[0] % 2 == 1
    slow = conv.dilation[0] > 1 or conv.stride[0] > 1 or conv.kernel_size[0] > 3
    return depthwise and same and slow
