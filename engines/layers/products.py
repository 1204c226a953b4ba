"""Matrix products for serving: the same numbers up to rounding, from the faster of the libraries that torch carries.

On CPU torch hands float32 products to MKL, which reaches 65 to 90 GFLOP/s on one core of an AMD EPYC with AVX-512;
oneDNN, which torch uses for convolutions, reaches 180 there for the same product, and seven times MKL's speed for
batches of narrow ones. Elsewhere, and where gradients are wanted, these functions are plain `@` and `F.linear`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAST_MULTIPLICATIONS = 1 << 22
"""Below, the 20 to 50 microseconds of a call, and half a millisecond for a new shape, cost more than they save."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[..., k] and [m, k] to x @ weight.T + bias, [..., m]."""
    return _by_onednn(x, weight, bias) if _quickens(x, weight) else F.linear(x, weight, bias)


def product(a: Tensor, b: Tensor) -> Tensor:
    """[*, n, k] @ [*, k, m]; the leading axes are the same."""
    if not _quickens(a, b.mT):
        return a @ b
    pairs = zip(a.flatten(0, -3), b.flatten(0, -3), strict=True) if a.ndim > 2 else [(a, b)]
    items = [_by_onednn(one, other.mT) for one, other in pairs]
    merged = items[0] if len(items) == 1 else torch.stack(items)
    return merged.view(*a.shape[:-1], b.shape[-1])


def _quickens(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN is worth asking for x @ weight.T; depends on the shapes alone, so that results stay the same."""
    if not (x.is_cpu and x.dtype == weight.dtype == torch.float32) or torch.compiler.is_compiling():
        return False
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return False  # the operator has no derivative
    return _AVAILABLE and x.numel() * weight.shape[-2] >= _LEAST_MULTIPLICATIONS


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not (weight.is_contiguous() or weight.mT.is_contiguous()):
        weight = weight.contiguous()  # for rows cut out of wider ones it would take its slow reference code
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class ServingLinear(nn.Module):
    """A linear layer whose product is linear() above."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return linear(x, self.weight, self.bias)


def recast_linear(net: nn.Module) -> None:
    """Replace every linear layer by ServingLinear, in place; state-dict keys stay."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, ServingLinear(child))
