"""Batch norm as published trunks carry it: four tensors, frozen by default. Knows nothing of optimisers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.Module):
    """Batch norm with exactly the keys weight, bias, running_mean and running_var.

    live=False: a fixed affine map (the published checkpoints were trained so; all four are buffers).
    live=True: weight and bias are parameters, and in train() mode the batch's own statistics are used and tracked.
    Both forms have the same state dict, so weights trained live are served frozen.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, live: bool = False, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.live, self.eps, self.momentum = live, eps, momentum
        if live:
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        else:
            self.register_buffer("weight", torch.ones(channels))
            self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        learn = self.live and self.training
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, learn, self.momentum, self.eps
        )

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The fixed map y = x * scale + shift that the running statistics stand for; both [C]."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale


def fold_norms(net: nn.Module) -> None:
    """Move every frozen batch norm into the convolution before it, in place, for serving; state-dict keys change.

    Folds a BatchNorm2d that directly follows a Conv2d among its parent's children, in order of definition.
    """
    for parent in list(net.modules()):
        previous: nn.Module | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNorm2d) and isinstance(previous, nn.Conv2d):
                _fold(previous, child)
                setattr(parent, name, nn.Identity())
            previous = child


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: BatchNorm2d) -> None:
    scale, shift = norm.scale_and_shift()
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
    conv.bias = nn.Parameter(shift.clone(), requires_grad=False)
