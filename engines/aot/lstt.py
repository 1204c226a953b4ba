"""AOT's long short-term transformer layer. Knows tokens, not frames or videos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.aot.config import WIDTH, AotConfig
from engines.aot.propagation import (
    Grid,
    LayerInput,
    LayerMemory,
    Query,
    Streams,
    read_window,
    relative_key_embedding,
)
from engines.layers.attention import SelfAttention
from engines.layers.drop_path import DropPath

_FEED_FORWARD = 1024


class LongTermAttention(nn.Module):
    """The output projection of the long-term read-out; queries and keys need no other."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(WIDTH, WIDTH)


class ShortTermAttention(nn.Module):
    """The window read-out and its output projection."""

    def __init__(self, config: AotConfig) -> None:
        super().__init__()
        self.relative_emb_k = relative_key_embedding(WIDTH, config.heads, config.window_radius)
        shape = (config.heads, WIDTH // config.heads, (2 * config.window_radius + 1) ** 2)
        self.relative_emb_v = nn.Parameter(torch.zeros(shape))
        self.projection = nn.Linear(WIDTH, WIDTH)

    def forward(self, query: Tensor, memory: Sequence[LayerMemory], grid: Grid) -> Tensor:
        """[B, N, 256] to the same."""
        return self.projection(read_window(query, memory, grid, self.relative_emb_k, self.relative_emb_v))


class NormActConv(nn.Module):
    """Group norm over channels and the token grid, GELU, depthwise 5x5."""

    def __init__(self, channels: int, groups: int = 32, *, depthwise: bool = True) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(groups, channels)
        self.conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False) if depthwise else None

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """[B, N, channels] to the same."""
        x = F.gelu(self.gn(x.transpose(1, 2)).transpose(1, 2))
        if self.conv is None:
            return x
        return self.conv(x.unflatten(1, grid).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)


class LsttLayer(nn.Module):
    """Self-attention, then long-term and short-term attention side by side, then a feed-forward.

    Source: Yang et al. 2021, Associating Objects with Transformers, section 4.3.
    """

    def __init__(self, config: AotConfig, index: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.linear_Q = nn.Linear(WIDTH, WIDTH)
        self.linear_V = nn.Linear(WIDTH, WIDTH)
        self.long_term_attn = LongTermAttention()
        self.short_term_attn: ShortTermAttention | None = (
            ShortTermAttention(config) if config.short_term_frames else None
        )
        self.norm2 = nn.LayerNorm(WIDTH)
        self.self_attn = SelfAttention(WIDTH, config.heads)
        self.norm3 = nn.LayerNorm(WIDTH)
        self.linear1 = nn.Linear(WIDTH, _FEED_FORWARD)
        self.activation = NormActConv(_FEED_FORWARD, depthwise=config.use_depthwise)
        self.linear2 = nn.Linear(_FEED_FORWARD, WIDTH)
        self.drop_path = DropPath(config.drop_path)
        self.drop_path_memory = DropPath(config.drop_path if config.drop_path_memory else 0.0)

    def prepare(self, streams: Streams, at: LayerInput) -> tuple[Streams, Query]:
        """Self-attention, then the shared query and key."""
        x = streams.visual
        x = x + self.drop_path(self.self_attn(self.norm1(x), at.position))
        normed = self.norm2(x)
        return Streams(x, None), Query(self.linear_Q(normed), normed)

    def remember(self, query: Query, identity: Tensor) -> LayerMemory:
        """The value carries the identity, the key does not."""
        return LayerMemory(query.key, self.linear_V(query.visual + identity))

    def complete(
        self, streams: Streams, query: Query, long_term: Tensor, short_term: Sequence[LayerMemory], at: LayerInput
    ) -> Streams:
        """Add the projected read-outs, then the feed-forward."""
        read = self.long_term_attn.projection(long_term)
        if self.short_term_attn is not None:
            read = read + self.short_term_attn(query.key, short_term, at.grid)
        x = streams.visual + self.drop_path_memory(read)
        fed = self.linear2(self.activation(self.linear1(self.norm3(x)), at.grid))
        return Streams(x + self.drop_path(fed), None)
