"""A ridge regression from the encoder's features to the labels of the references: what each object looks like.

Its scores join the decoder's logits. The fit has a closed form, so that training runs through it and teaches the
encoder features in which objects can be told apart so simply. It costs one small system of equations per reference, and
its memory does not grow.

Source: Robinson et al. 2020 (FRTM) fit a small network per object for such scores; Bertinetto et al. 2019 learn
features through a ridge regression.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-3
CELL_PX = 8
"""Side of the cells that are scored, in pixels of the network's input."""

_LOWEST, _HIGHEST = -0.5, 1.5


def target_features(maps: Sequence[Tensor], *, align_corners: bool) -> Tensor:
    """[B, D, h8, w8] float32: the encoder's maps at 1/4, 1/8, 1/16 and the projected one, each of unit length; and a 1.

    maps: [B, C, ., .] each, finest first.
    """
    quarter, eighth, *coarse = (F.normalize(x.float(), dim=1) for x in maps)
    size = eighth.shape[-2:]
    kernel, padding = (3, 1) if align_corners else (2, 0)
    pooled = F.avg_pool2d(quarter, kernel, 2, padding, count_include_pad=False)
    enlarged = [F.interpolate(x, size, mode="bilinear", align_corners=align_corners) for x in coarse]
    return torch.cat([pooled, eighth, *enlarged, torch.ones_like(eighth[:, :1])], dim=1)


def cell_shares(channels: Tensor, *, align_corners: bool) -> Tensor:
    """[B, C, H, W] 0..1, how much of each pixel is each label, to the same for cells: [B, C, h8, w8]."""
    aligned = int(align_corners)
    kernel, padding = CELL_PX + aligned, CELL_PX // 2 * aligned
    return F.avg_pool2d(channels, kernel, CELL_PX, padding, count_include_pad=False)


def ridge_sums(features: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """What a reference adds to the regression, all labels in it weighing the same, however small.

    features: [B, D, h, w]. shares: [B, C, h, w]. Returns [B, D, D] and [B, D, C], float32.
    """
    x, y = features.flatten(2), shares.flatten(2).float()
    area = y.sum(dim=2, keepdim=True)
    each = (y / area.clamp_min(1e-4)).sum(dim=1, keepdim=True) / (area > 0).sum(dim=1, keepdim=True).clamp_min(1)
    weighed = x * each
    return weighed @ x.transpose(1, 2), weighed @ y.transpose(1, 2)


def solve(gram: Tensor, cross: Tensor) -> Tensor:
    """Weights [B, D, C] of the regression with the sums [B, D, D] and [B, D, C]."""
    ridge = RIDGE * torch.eye(gram.shape[-1], device=gram.device)
    return torch.cholesky_solve(cross, torch.linalg.cholesky(gram + ridge))


def score(features: Tensor, weights: Tensor) -> Tensor:
    """[B, D, h, w] features to [B, C, h, w] scores: about 1 where a label is, about 0 where it is not."""
    return torch.einsum("bdhw,bdc->bchw", features, weights).clamp(_LOWEST, _HIGHEST)
