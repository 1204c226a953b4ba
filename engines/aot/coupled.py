"""DeAOT without decoupling, an ablation: gated propagation of one stream that carries appearance and identity."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from engines.aot.config import WIDTH, AotConfig
from engines.aot.gpm import EXPANDED, GatedOutput, GatedWindowAttention
from engines.aot.propagation import Grid, LayerInput, LayerMemory, Query, Streams
from engines.layers.attention import attend
from engines.layers.drop_path import DropPath


class CoupledSelfAttention(GatedOutput):
    """Gated attention of a frame with itself."""

    def __init__(self, config: AotConfig) -> None:
        super().__init__(config)
        self.linear_QK = nn.Linear(WIDTH, config.key_width)
        self.linear_V1 = nn.Linear(WIDTH, EXPANDED)
        self.linear_U1: nn.Linear | None = nn.Linear(WIDTH, EXPANDED) if config.use_gate else None

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """[B, N, 256], normed, to the same shape."""
        query = self.linear_QK(x)
        gate = None if self.linear_U1 is None else F.silu(self.linear_U1(x))
        return self.finish(attend(query, query, F.silu(self.linear_V1(x))).value, gate, grid)


class CoupledLayer(nn.Module):
    """One stream: the ID embedding is added to the value, as in AOT, and deeper layers mix the two.

    No published weights; trained to reproduce what the paper ablates (DeAOT, table 4).
    """

    def __init__(self, config: AotConfig, index: int) -> None:
        super().__init__()
        self.key_width = config.key_width
        self.norm1 = nn.LayerNorm(WIDTH)
        self.linear_QV = nn.Linear(WIDTH, config.key_width + EXPANDED)
        self.linear_U: nn.Linear | None = nn.Linear(WIDTH, EXPANDED) if config.use_gate else None
        self.linear_ID_V = nn.Linear(WIDTH, EXPANDED)
        self.long_term_attn = GatedOutput(config)
        self.short_term_attn = GatedWindowAttention(config) if config.short_term_frames else None
        self.norm2 = nn.LayerNorm(WIDTH)
        self.self_attn = CoupledSelfAttention(config)
        self.drop_path = DropPath(config.drop_path)
        self.drop_path_memory = DropPath(config.drop_path if config.drop_path_memory else 0.0)

    def prepare(self, streams: Streams, at: LayerInput) -> tuple[Streams, Query]:
        """Key, value before its activation, and gate."""
        x = self.norm1(streams.visual)
        key, visual = self.linear_QV(x).split((self.key_width, EXPANDED), dim=-1)
        return streams, Query(key, visual, None, None if self.linear_U is None else F.silu(self.linear_U(x)))

    def remember(self, query: Query, identity: Tensor) -> LayerMemory:
        """Identity joins the value before the activation."""
        return LayerMemory(query.key, F.silu(query.visual + self.linear_ID_V(identity)))

    def complete(
        self, streams: Streams, query: Query, long_term: Tensor, short_term: Sequence[LayerMemory], at: LayerInput
    ) -> Streams:
        """Add the gated read-outs, then propagate within the frame."""
        read = self.long_term_attn.finish(long_term, query.gate, at.grid)
        if self.short_term_attn is not None:
            read = read + self.short_term_attn(query, short_term, at.grid)
        x = streams.visual + self.drop_path_memory(read)
        return Streams(x + self.drop_path(self.self_attn(self.norm2(x), at.grid)), None)
