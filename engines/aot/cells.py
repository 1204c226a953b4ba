"""Means over square cells, for grids whose cells lie around every n-th pixel and for those that lie side by side."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pool_cells(x: Tensor, cell_px: int, *, align_corners: bool) -> Tensor:
    """[B, C, H, W] to the mean of each cell, [B, C, h, w]; what lies outside the frame does not count.

    align_corners: sides are n * cell_px + 1 and a cell lies around each n-th pixel, the neighbours' edges included.
    """
    aligned = int(align_corners)
    return F.avg_pool2d(x, cell_px + aligned, cell_px, cell_px // 2 * aligned, count_include_pad=False)
