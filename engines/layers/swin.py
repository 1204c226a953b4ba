"""Swin transformer trunks under the published parameter names. Holds no state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.layers.drop_path import DropPath

_OTHER_REGION = -100.0
"""Added to scores between positions that the cyclic shift made neighbours; the published value, not minus infinity."""


@dataclass(frozen=True)
class SwinConfig:
    """Size of a trunk. stages: how many of the four are built; drop-path rates are spread over all four.

    repeat_last: give the last map twice, as AOT's decoder wants it.
    """

    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    stages: int = 4
    repeat_last: bool = False


SWIN_B_OF_AOT = SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32), window=7, stages=3, repeat_last=True)
SWIN_L = SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48), window=12)


def relative_index(window: int) -> Tensor:
    """[window^2, window^2] row of the bias table for each pair of positions."""
    place = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
    offset = place[:, :, None] - place[:, None] + window - 1  # [2, n, n]
    return offset[0] * (2 * window - 1) + offset[1]


def cut_windows(x: Tensor, window: int) -> Tensor:
    """[B, H, W, C] to [B * windows, window^2, C]; H and W are multiples of the window."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # [B, down, i, across, j, C]
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def join_windows(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """Inverse of cut_windows()."""
    x = x.unflatten(1, (window, window)).unflatten(0, (-1, size[0] // window, size[1] // window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(size: tuple[int, int], window: int, *, device: torch.device) -> Tensor:
    """[windows, 1, n, n] added to scores after a cyclic shift by half a window: only true neighbours attend."""
    shift = window // 2
    axes = []
    for length in size:
        region = torch.zeros(length, device=device)
        region[-window:] = 1
        region[-shift:] = 2
        axes.append(region)
    regions = cut_windows((axes[0][:, None] * 3 + axes[1])[None, :, :, None], window)[..., 0]  # [windows, n]
    return (regions[:, :, None] != regions[:, None]).float()[:, None] * _OTHER_REGION


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with a learnt bias per relative position."""

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_index(window))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: [B * windows, n, width]; mask: [windows, 1, n, n] or None."""
        q, k, v = (
            self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # each [B * windows, heads, n, d]
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # [heads, n, n]
        if mask is not None:
            bias = (bias + mask.to(bias.dtype)).repeat(x.shape[0] // mask.shape[0], 1, 1, 1)
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same."""
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention, shifted by half a window in every second block, and a feed-forward."""

    def __init__(self, width: int, heads: int, window: int, *, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, width] to the same."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        (h, w), window = x.shape[1:3], self.window
        x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))  # the padding attends and is attended to, as published
        size = (x.shape[1], x.shape[2])
        mask = shift_mask(size, window, device=x.device) if self.shift else None
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2)) if self.shift else x
        x = join_windows(self.attn(cut_windows(x, window), mask), window, size)
        x = torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x
        return x[:, :h, :w]


class PatchMerging(nn.Module):
    """Four neighbours side by side, normed and reduced to twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, width] to [B, H / 2, W / 2, 2 width], odd sizes padded."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class SwinStage(nn.Module):
    """Blocks at one resolution and the way to the next."""

    def __init__(self, width: int, heads: int, window: int, drop_path: list[float], *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwinBlock(width, heads, window, shifted=index % 2 == 1, drop_path=rate)
            for index, rate in enumerate(drop_path)
        )
        self.downsample: PatchMerging | None = None if last else PatchMerging(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, width] to the same; the caller downsamples."""
        for block in self.blocks:
            x = block(x)
        return x


class PatchEmbed(nn.Module):
    """Patches of 4 x 4 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 4, 4)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, H / 4, W / 4, width], padded up."""
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class SwinTransformer(nn.Module):
    """One normed map per stage at strides 4, 8, 16 (and 32), each twice as wide as the one before.

    Source: Liu et al. 2021, Swin Transformer.
    """

    def __init__(self, config: SwinConfig = SWIN_B_OF_AOT, *, drop_path: float = 0.3) -> None:
        super().__init__()
        self.repeat_last = config.repeat_last
        blocks = sum(config.depths)
        rates = [drop_path * index / (blocks - 1) for index in range(blocks)]
        self.patch_embed = PatchEmbed(config.width)
        self.layers = nn.ModuleList()
        for index in range(config.stages):
            own, rates = rates[: config.depths[index]], rates[config.depths[index] :]
            width, last = config.width * 2**index, index == config.stages - 1
            self.layers.append(SwinStage(width, config.heads[index], config.window, own, last=last))
            self.add_module(f"norm{index}", nn.LayerNorm(width))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """[B, 3, H, W] to maps [B, C, h, w]."""
        x = self.patch_embed(x)
        maps = []
        for index, stage in enumerate(self.layers):
            x = stage(x)
            maps.append(self.get_submodule(f"norm{index}")(x).permute(0, 3, 1, 2))
            if isinstance(stage.downsample, PatchMerging):
                x = stage.downsample(x)
        return (*maps, maps[-1]) if self.repeat_last else tuple(maps)
