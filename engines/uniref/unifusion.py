"""UniFusion: image features attend to a reference, and what they read is added through a zero-initialised gate.

Knows feature maps and reference tokens only, not where they come from, so it also plugs into the image encoder of
another segmenter (see `adapter.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.layers.attention import attend
from engines.layers.products import linear


@dataclass(frozen=True)
class ReferenceTokens:
    """What a reference says at one level.

    keys, values: [B, N, C]. condition: [B, C], sets shift, scale and gate. padding: [B, N] bool, True where there is
    nothing; None when every token counts.
    """

    keys: Tensor
    values: Tensor
    condition: Tensor
    padding: Tensor | None = None


Reference = tuple[ReferenceTokens, ...]
"""One `ReferenceTokens` per level. A text is the same at all levels."""


def _joined_padding(parts: Sequence[ReferenceTokens]) -> Tensor | None:
    if all(part.padding is None for part in parts):
        return None
    blank = [part.keys.new_zeros(part.keys.shape[:2], dtype=torch.bool) for part in parts]
    return torch.cat([b if p.padding is None else p.padding for p, b in zip(parts, blank, strict=True)], 1)


def join(references: Sequence[Reference]) -> Reference:
    """Several references of one kind (first and previous frame, k shots) as one: tokens joined, condition averaged."""
    if len(references) == 1:
        return references[0]
    return tuple(
        ReferenceTokens(
            torch.cat([part.keys for part in parts], 1),
            torch.cat([part.values for part in parts], 1),
            torch.stack([part.condition for part in parts]).mean(0),
            _joined_padding(parts),
        )
        for parts in zip(*references, strict=True)
    )


@dataclass(frozen=True)
class _Folded:
    """Attention with the key projection folded into the query's and the value projection into the output's."""

    query: Tensor  # [heads * C, C]
    query_bias: Tensor  # [heads * C]
    output: Tensor  # [C, heads * C]
    output_bias: Tensor  # [C]


class CrossAttention(nn.Module):
    """Multi-head attention whose heads are as wide as the features themselves.

    Because of that width, keys and values need no projection of their own: with Wq, Wk, Wv, Wo of one head,
    (Wq x + bq)·(Wk y + bk) differs from (Wkᵀ(Wq x + bq))·y by a term that is the same for all keys, and
    Wo(Σ p (Wv v + bv)) = Wo Wv (Σ p v) + Wo bv. So all heads share the raw reference tokens, and nothing of size
    heads x tokens x head width is kept for the reference.
    """

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.head_dim = head_dim
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def folded(self) -> _Folded:
        """The four projections as two."""
        heads, width = self.heads, self.head_dim
        query = self.q_proj.weight.unflatten(0, (heads, width))  # [h, d, C]
        key = self.k_proj.weight.unflatten(0, (heads, width))
        value = self.v_proj.weight.unflatten(0, (heads, width))
        out = self.out_proj.weight.unflatten(1, (heads, width)).transpose(0, 1)  # [h, C, d]
        query_bias = self.q_proj.bias.unflatten(0, (heads, width)).unsqueeze(-1)  # [h, d, 1]
        return _Folded(
            (key.transpose(1, 2) @ query).flatten(0, 1),
            (key.transpose(1, 2) @ query_bias).flatten(),
            (out @ value).transpose(0, 1).flatten(1),
            self.out_proj.bias + self.out_proj.weight @ self.v_proj.bias,
        )

    def forward(self, tokens: Tensor, keys: Tensor, reference: ReferenceTokens, folded: _Folded) -> Tensor:
        """[B or 1, N, C] queries and [B, M, C] keys to [B, N, C]."""
        batch, (count, dim) = keys.shape[0], tokens.shape[1:]
        query = linear(tokens, folded.query, folded.query_bias)
        # Heads stand beside each other as further queries of one shared set of keys.
        query = query.view(-1, count * self.heads, dim).expand(batch, -1, -1)
        if reference.padding is None:
            read = attend(query * (dim / self.head_dim) ** 0.5, keys, reference.values).value
        else:
            read = F.scaled_dot_product_attention(
                query.unsqueeze(1),
                keys.unsqueeze(1),
                reference.values.unsqueeze(1),
                attn_mask=~reference.padding[:, None, None, :],
                scale=self.head_dim**-0.5,
            )
        return linear(read.reshape(batch, count, self.heads * dim), folded.output, folded.output_bias)


class UniFusion(nn.Module):
    """One fusion block: level += gate * (attention * (1 + scale) + shift), summed over the references.

    Source: UniRef++, Wu et al. 2023, §3.3. Shift, scale and gate come from the reference's condition through a layer
    that starts at zero, so a fresh block changes nothing.
    """

    def __init__(self, dim: int = 256, heads: int = 8, head_dim: int = 256) -> None:
        super().__init__()
        self.norm_v = nn.LayerNorm(dim)
        self.norm_l = nn.LayerNorm(dim)
        self.attn = CrossAttention(dim, heads, head_dim)
        modulation = nn.Linear(dim, 3 * dim)
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), modulation)

    def forward(self, level: Tensor, references: Sequence[ReferenceTokens], folded: _Folded | None = None) -> Tensor:
        """[B or 1, C, H, W] features and references of batch B to fused [B, C, H, W]."""
        folded = folded or self.attn.folded()
        tokens = level.flatten(2).transpose(1, 2)  # [B, HW, C]
        query = self.norm_v(tokens)
        fused = tokens
        for reference in references:
            read = self.attn(query, self.norm_l(reference.keys), reference, folded)
            shift, scale, gate = self.adaLN_modulation(reference.condition).unsqueeze(1).chunk(3, -1)
            fused = fused + gate * (read * (1 + scale) + shift)
        return cast(Tensor, fused.transpose(1, 2).unflatten(2, level.shape[-2:]))


class UniFusionPyramid(nn.Module):
    """UniFusion over all levels, with one shared block or one block for each."""

    def __init__(self, dim: int, heads: int, head_dim: int, *, levels: int, shared: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(UniFusion(dim, heads, head_dim) for _ in range(1 if shared else levels))

    def forward(self, levels: Sequence[Tensor], references: Sequence[Reference]) -> list[Tensor]:
        """Each [B or 1, C, Hi, Wi] fused with every reference at its level."""
        blocks = [block for block in self.blocks if isinstance(block, UniFusion)]
        folded = [block.attn.folded() for block in blocks]
        fused = []
        for index, level in enumerate(levels):
            which = min(index, len(blocks) - 1)
            parts = [reference[index] for reference in references]
            fused.append(blocks[which](level, parts, folded[which]))
        return fused
