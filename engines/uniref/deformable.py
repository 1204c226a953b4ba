"""Multi-scale deformable attention in plain torch: every query reads a few points of every level, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LevelShapes = Sequence[tuple[int, int]]
"""(height, width) of each level, in the order in which the levels' tokens are laid end to end."""


def sample_levels(values: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted bilinear samples of all levels.

    values: [B, S, heads, d] tokens of all levels. locations: [B, Q, heads, levels, points, 2] (x, y), 0..1 over the
    padded map. weights: [B, Q, heads, levels, points]. Returns [B, Q, heads * d]; outside the map there are zeros.
    """
    batch, _, heads, width = values.shape
    queries = locations.shape[1]
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # [B*heads, Q, levels, points, 2]
    shares = weights.transpose(1, 2).flatten(0, 1).unsqueeze(1)  # [B*heads, 1, Q, levels, points]
    total = values.new_zeros(batch * heads, width, queries)
    for index, (level, (height, columns)) in enumerate(
        zip(values.split([h * w for h, w in shapes], 1), shapes, strict=True)
    ):
        image = level.permute(0, 2, 3, 1).reshape(batch * heads, width, height, columns)
        read = F.grid_sample(image, grids[:, :, index], padding_mode="zeros", align_corners=False)
        total = total + (read * shares[:, :, :, index]).sum(-1)
    return total.view(batch, heads * width, queries).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Deformable attention over several levels. Source: Deformable DETR, Zhu et al. 2021, eq. 3."""

    def __init__(self, dim: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset()

    def _reset(self) -> None:
        """Offsets start on rays around the reference, one direction per head, one step further per point."""
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack([angle.cos(), angle.sin()], -1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((ray[:, None, None] * steps).expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _locations(self, query: Tensor, reference: Tensor, shapes: LevelShapes) -> Tensor:
        offsets: Tensor = self.sampling_offsets(query)
        offsets = offsets.view(*query.shape[:2], self.heads, self.levels, self.points, 2)
        anchor = reference[:, :, None, :, None]  # [B, Q, 1, levels, 1, 2 or 4]
        if reference.shape[-1] == 4:
            return anchor[..., :2] + offsets / self.points * anchor[..., 2:] * 0.5
        size = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32, device=query.device)
        return anchor + offsets / size[:, None]

    def forward(self, query: Tensor, reference: Tensor, source: Tensor, shapes: LevelShapes, padding: Tensor) -> Tensor:
        """What each query reads around its reference.

        query: [B, Q, C]. reference: [B, Q, levels, 2] points or [B, Q, levels, 4] boxes (cx, cy, w, h), 0..1 over the
        padded maps. source: [B, S, C]. padding: [B, S] bool. Returns [B, Q, C].
        """
        values = self.value_proj(source).masked_fill(padding.unsqueeze(-1), 0.0)
        weights = self.attention_weights(query).view(*query.shape[:2], self.heads, -1).softmax(-1)
        weights = weights.unflatten(-1, (self.levels, self.points))
        locations = self._locations(query, reference, shapes)
        read = sample_levels(values.unflatten(-1, (self.heads, -1)), shapes, locations, weights)
        return cast(Tensor, self.output_proj(read))
