"""Two-stage deformable DETR: encode the fused levels, pick the best places, refine them into objects.

Source: Deformable DETR, Zhu et al. 2021, with mixed query selection and look-forward-twice (DINO, Zhang et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.uniref.config import UniRefConfig
from engines.uniref.deformable import DeformableAttention, LevelShapes
from engines.uniref.position import sine


def inverse_sigmoid(probability: Tensor) -> Tensor:
    """Logit with the argument kept 1e-5 from 0 and 1."""
    p = probability.clamp(0, 1)
    return torch.log(p.clamp(min=1e-5) / (1 - p).clamp(min=1e-5))


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, depth: int) -> None:
        super().__init__()
        widths = [inputs] + [hidden] * (depth - 1) + [outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return cast(Tensor, self.layers[-1](x))


@dataclass(frozen=True)
class Tokens:
    """All levels end to end.

    features, positions: [B, S, C]. padding: [B, S] bool. shapes: (h, w) of each level. valid: [B, levels, 2] share of
    each padded map, (x, y), that is image.
    """

    features: Tensor
    positions: Tensor
    padding: Tensor
    shapes: LevelShapes
    valid: Tensor


@dataclass(frozen=True)
class Decoded:
    """Result of the transformer.

    memory: [B, S, C]. hidden: [B, Q, C] of every decoder layer. references: [B, Q, 4] boxes that each layer started
    from, then those it ended with. logits: [B, S, 1] and boxes_unact: [B, S, 4] of the first stage. chosen: [B, Q].
    """

    memory: Tensor
    hidden: list[Tensor]
    references: list[Tensor]
    logits: Tensor
    boxes_unact: Tensor
    chosen: Tensor


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward net, post-norm."""

    def __init__(self, config: UniRefConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.self_attn = DeformableAttention(dim, config.levels, config.heads, config.points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, features: Tensor, tokens: Tokens, reference: Tensor) -> Tensor:
        """[B, S, C] to [B, S, C]."""
        query = features + tokens.positions
        read = self.self_attn(query, reference, features, tokens.shapes, tokens.padding)
        features = self.norm1(features + self.dropout(read))
        wide = self.linear2(self.dropout(F.relu(self.linear1(features))))
        return cast(Tensor, self.norm2(features + self.dropout(wide)))


class DecoderLayer(nn.Module):
    """Queries look at each other, then at the memory around their own box, then pass a feed-forward net."""

    def __init__(self, config: UniRefConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.cross_attn = DeformableAttention(dim, config.levels, config.heads, config.points)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, config.heads, dropout=config.dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, content: Tensor, position: Tensor, reference: Tensor, memory: Tensor, tokens: Tokens) -> Tensor:
        """[B, Q, C] to [B, Q, C]; reference: [B, Q, levels, 4]."""
        query = content + position
        mixed = self.self_attn(query, query, content, need_weights=False)[0]
        content = self.norm2(content + self.dropout(mixed))
        read = self.cross_attn(content + position, reference, memory, tokens.shapes, tokens.padding)
        content = self.norm1(content + self.dropout(read))
        wide = self.linear2(self.dropout(F.relu(self.linear1(content))))
        return cast(Tensor, self.norm3(content + self.dropout(wide)))


class Encoder(nn.Module):
    """A stack of encoder layers; every token looks around its own place on every level."""

    def __init__(self, config: UniRefConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(self, tokens: Tokens) -> Tensor:
        """The memory, [B, S, C]."""
        reference = cell_centres(tokens)[:, :, None] * tokens.valid[:, None]
        features = tokens.features
        for layer in self.layers:
            features = layer(features, tokens, reference)
        return features


class Decoder(nn.Module):
    """The decoder layers alone; the heads that refine boxes belong to the transformer."""

    def __init__(self, config: UniRefConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))


def cell_centres(tokens: Tokens) -> Tensor:
    """[B, S, 2] (x, y) of every token, 0..1 over the valid part of its level."""
    device = tokens.features.device
    centres = []
    for index, (height, width) in enumerate(tokens.shapes):
        y, x = torch.meshgrid(
            torch.arange(0.5, height, device=device), torch.arange(0.5, width, device=device), indexing="ij"
        )
        size = tokens.valid[:, index] * torch.tensor([width, height], device=device)
        centres.append(torch.stack((x, y), -1).view(1, -1, 2) / size[:, None])
    return torch.cat(centres, 1)


def proposals(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """First-stage boxes as logits [B, S, 4], infinite where there can be none, and the [B, S, 1] mask of those."""
    centres = cell_centres(tokens)
    sides = [0.05 * 2.0**level for level, (h, w) in enumerate(tokens.shapes) for _ in range(h * w)]
    side = torch.tensor(sides, device=centres.device).view(1, -1, 1).expand(len(centres), -1, 2)
    boxes = torch.cat((centres, side), -1)
    inside = ((boxes > 0.01) & (boxes < 0.99)).all(-1, keepdim=True) & ~tokens.padding.unsqueeze(-1)
    return torch.log(boxes / (1 - boxes)).masked_fill(~inside, math.inf), ~inside


class DeformableTransformer(nn.Module):
    """Encoder, first-stage proposals, decoder with box refinement, and the heads shared by both stages."""

    def __init__(self, config: UniRefConfig) -> None:
        super().__init__()
        dim = config.hidden_dim
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.level_embed = nn.Parameter(torch.randn(config.levels, dim))
        self.enc_output = nn.Linear(dim, dim)
        self.enc_output_norm = nn.LayerNorm(dim)
        self.pos_trans = nn.Linear(2 * dim, 2 * dim)
        self.pos_trans_norm = nn.LayerNorm(2 * dim)
        self.query_embed = nn.Embedding(config.num_queries, dim)
        stages = config.decoder_layers + 1  # the last head of each kind serves the first stage
        self.class_embed = nn.ModuleList(nn.Linear(dim, 1) for _ in range(stages))
        self.bbox_embed = nn.ModuleList(MLP(dim, dim, 4, 3) for _ in range(stages))
        self._reset_heads()

    def _reset_heads(self) -> None:
        """Objects start unlikely (1 %), boxes start where the references are."""
        for head in self.class_embed:
            nn.init.constant_(cast(nn.Linear, head).bias, -math.log(99.0))
        for index, head in enumerate(self.bbox_embed):
            last = cast(nn.Linear, cast(MLP, head).layers[-1])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            if index == 0:
                nn.init.constant_(last.bias[2:], -2.0)

    def flatten(self, levels: Sequence[Tensor], paddings: Sequence[Tensor], positions: Sequence[Tensor]) -> Tokens:
        """Lay [B, C, Hi, Wi] levels end to end; padding and positions may have batch 1."""
        batch = levels[0].shape[0]
        padding = torch.cat([mask.flatten(1) for mask in paddings], 1).expand(batch, -1)
        embedded = [
            p.flatten(2).transpose(1, 2) + self.level_embed[index].view(1, 1, -1) for index, p in enumerate(positions)
        ]
        valid = torch.stack([_valid_share(mask) for mask in paddings], 1).expand(batch, -1, -1)
        return Tokens(
            torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1),
            torch.cat(embedded, 1),
            padding,
            [(level.shape[-2], level.shape[-1]) for level in levels],
            valid,
        )

    def _first_stage(self, memory: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        anchors, impossible = proposals(tokens)
        kept = self.enc_output_norm(self.enc_output(memory.masked_fill(impossible, 0.0)))
        logits = self.class_embed[-1](kept)
        return logits, self.bbox_embed[-1](kept) + anchors

    def _query_position(self, boxes_unact: Tensor) -> Tensor:
        encoded = sine(boxes_unact.sigmoid() * (2 * math.pi), self.config.hidden_dim // 2).flatten(-2)
        return cast(Tensor, self.pos_trans_norm(self.pos_trans(encoded)))[..., : self.config.hidden_dim]

    def forward(self, tokens: Tokens) -> Decoded:
        """Encode, choose the best `num_queries` places by class logit, decode."""
        memory = self.encoder(tokens)
        logits, boxes_unact = self._first_stage(memory, tokens)
        count = min(self.config.num_queries, logits.shape[1])
        chosen = logits[..., 0].topk(count, dim=1).indices
        start = boxes_unact.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 4)).detach()
        content = self.query_embed.weight[:count].unsqueeze(0).expand(len(memory), -1, -1)
        position = self._query_position(start)
        hidden, references = self._decode(content, position, start.sigmoid(), memory, tokens)
        return Decoded(memory, hidden, references, logits, boxes_unact, chosen)

    def _decode(
        self, content: Tensor, position: Tensor, start: Tensor, memory: Tensor, tokens: Tokens
    ) -> tuple[list[Tensor], list[Tensor]]:
        valid = torch.cat((tokens.valid, tokens.valid), -1)[:, None]
        hidden, references, reference = [], [start], start
        for layer, head in zip(self.decoder.layers, self.bbox_embed, strict=False):
            content = layer(content, position, reference[:, :, None] * valid, memory, tokens)
            refined = (head(content) + inverse_sigmoid(reference)).sigmoid()
            hidden.append(content)
            references.append(refined)
            reference = refined.detach()
        return hidden, references


def _valid_share(padding: Tensor) -> Tensor:
    """[B, H, W] padding to [B, 2]: share of the width and of the height that is image."""
    valid = (~padding).float()
    return torch.stack((valid[:, 0].mean(1), valid[:, :, 0].mean(1)), -1)
