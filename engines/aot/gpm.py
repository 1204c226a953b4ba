"""DeAOT's gated propagation module. Knows tokens, not frames or videos."""

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
from engines.layers.attention import DepthwiseConv2d, attend
from engines.layers.drop_path import DropPath

EXPANDED = 2 * WIDTH
"""Width of one stream's value."""


class GatedOutput(nn.Module):
    """The way out of an attention: times the gate, depthwise convolution, projection to all streams."""

    def __init__(self, config: AotConfig) -> None:
        super().__init__()
        width = config.value_width
        self.dw_conv: DepthwiseConv2d | None = DepthwiseConv2d(width) if config.use_depthwise else None
        self.projection = nn.Linear(width, width // 2)

    def finish(self, readout: Tensor, gate: Tensor | None, grid: Grid) -> Tensor:
        """readout, gate: [B, N, value width]. Returns [B, N, value width / 2], visual half first."""
        gated = readout if gate is None else readout * gate
        return self.projection(gated if self.dw_conv is None else self.dw_conv(gated, grid))


class GatedWindowAttention(GatedOutput):
    """The window read-out with the gated way out."""

    def __init__(self, config: AotConfig) -> None:
        super().__init__(config)
        self.relative_emb_k = relative_key_embedding(config.key_width, config.heads, config.window_radius)

    def forward(self, query: Query, memory: Sequence[LayerMemory], grid: Grid) -> Tensor:
        """[B, N, value width / 2], visual half first."""
        return self.finish(read_window(query.key, memory, grid, self.relative_emb_k), query.gate, grid)


class GatedSelfAttention(GatedOutput):
    """Attention of a frame with itself; one affinity for both streams."""

    def __init__(self, config: AotConfig) -> None:
        super().__init__(config)
        self.linear_QK = nn.Linear(2 * WIDTH, config.key_width)
        self.linear_V1 = nn.Linear(WIDTH, EXPANDED)
        self.linear_V2 = nn.Linear(WIDTH, EXPANDED)
        self.linear_U1 = nn.Linear(WIDTH, EXPANDED)
        self.linear_U2 = nn.Linear(WIDTH, EXPANDED)
        self.use_gate = config.use_gate

    def forward(self, visual: Tensor, identity: Tensor, grid: Grid) -> Tensor:
        """visual, identity: [B, N, 256], normed. Returns [B, N, 512]."""
        query = self.linear_QK(torch.cat([visual, identity], dim=-1))
        value = F.silu(torch.cat([self.linear_V1(visual), self.linear_V2(identity)], dim=-1))
        gate = F.silu(torch.cat([self.linear_U1(visual), self.linear_U2(identity)], dim=-1)) if self.use_gate else None
        return self.finish(attend(query, query, value).value, gate, grid)


class GpmLayer(nn.Module):
    """Long-term and short-term propagation side by side, then self-propagation; no feed-forward.

    Source: Yang and Yang 2022, Decoupling Features in Hierarchical Propagation, section 4.
    """

    def __init__(self, config: AotConfig, index: int) -> None:
        super().__init__()
        self.first = index == 0
        self.key_width, self.use_gate = config.key_width, config.use_gate
        self.norm1 = nn.LayerNorm(WIDTH)
        self.linear_QV = nn.Linear(WIDTH, config.key_width + EXPANDED)
        self.linear_U = nn.Linear(WIDTH, EXPANDED)
        if self.first:  # the identity stream is still empty
            self.linear_ID_V = nn.Linear(WIDTH, EXPANDED)
        else:
            self.id_norm1 = nn.LayerNorm(WIDTH)
            self.linear_ID_V = nn.Linear(2 * WIDTH, EXPANDED)
            self.linear_ID_U = nn.Linear(WIDTH, EXPANDED)
        self.long_term_attn = GatedOutput(config)
        self.short_term_attn: GatedWindowAttention | None = None
        if config.short_term_frames:
            self.short_term_attn = GatedWindowAttention(config)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.id_norm2 = nn.LayerNorm(WIDTH)
        self.self_attn = GatedSelfAttention(config)
        self.drop_path = DropPath(config.drop_path)
        self.drop_path_memory = DropPath(config.drop_path if config.drop_path_memory else 0.0)

    def prepare(self, streams: Streams, at: LayerInput) -> tuple[Streams, Query]:
        """Keys, values and gates from the normed streams."""
        x = self.norm1(streams.visual)
        key, visual = self.linear_QV(x).split((self.key_width, EXPANDED), dim=-1)
        u = F.silu(self.linear_U(x))
        if self.first or streams.identity is None:
            identity, id_gate = None, torch.ones_like(u)
        else:
            identity = self.id_norm1(streams.identity)
            id_gate = F.silu(self.linear_ID_U(identity))
        gate = torch.cat([u, id_gate], dim=-1) if self.use_gate else None
        return streams, Query(key, F.silu(visual), identity, gate)

    def remember(self, query: Query, identity: Tensor) -> LayerMemory:
        """Visual and identity value side by side; the key knows nothing of identities."""
        known = identity if query.identity is None else torch.cat([query.identity, identity], dim=-1)
        return LayerMemory(query.key, torch.cat([query.visual, F.silu(self.linear_ID_V(known))], dim=-1))

    def complete(
        self, streams: Streams, query: Query, long_term: Tensor, short_term: Sequence[LayerMemory], at: LayerInput
    ) -> Streams:
        """Add the gated read-outs to both streams, then propagate within the frame."""
        read = self.long_term_attn.finish(long_term, query.gate, at.grid)
        if self.short_term_attn is not None:
            read = read + self.short_term_attn(query, short_term, at.grid)
        streams = _add(streams, self.drop_path_memory(read))
        visual, identity = self.norm2(streams.visual), self.id_norm2(_identity(streams))
        return _add(streams, self.drop_path(self.self_attn(visual, identity, at.grid)))


def _identity(streams: Streams) -> Tensor:
    return torch.zeros_like(streams.visual) if streams.identity is None else streams.identity


def _add(streams: Streams, update: Tensor) -> Streams:
    visual, identity = update.split(WIDTH, dim=-1)
    return Streams(streams.visual + visual, identity if streams.identity is None else streams.identity + identity)
