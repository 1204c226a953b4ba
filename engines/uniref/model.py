"""The UniRef++ network: trunk, reference encoders, fusion, transformer and mask head. Holds no state of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.uniref.config import UniRefConfig
from engines.uniref.mask_encoder import MaskEncoder
from engines.uniref.mask_head import MaskHead, aligned_bilinear
from engines.uniref.position import coordinates, position_encoding
from engines.uniref.preprocess import ImageBatch
from engines.uniref.text import build_text_encoder
from engines.uniref.transformer import Decoded, DeformableTransformer
from engines.uniref.trunk import TRUNK_CHANNELS, build_trunk
from engines.uniref.unifusion import Reference, ReferenceTokens, UniFusionPyramid


@dataclass(frozen=True)
class ImageFeatures:
    """What is known of a frame before any reference; shared by all objects.

    levels: [B, C, Hi, Wi] at strides 8, 16, 32, 64. stride4: [B, C4, H/4, W/4]. paddings, positions: one per level.
    """

    batch: ImageBatch
    levels: list[Tensor]
    stride4: Tensor
    paddings: list[Tensor]
    positions: list[Tensor]

    def repeat(self, times: int) -> ImageFeatures:
        """Every image `times` times in a row, for so many references each."""

        def repeated(tensor: Tensor) -> Tensor:
            return tensor.repeat_interleave(times, 0)

        return ImageFeatures(
            ImageBatch(
                repeated(self.batch.pixels),
                repeated(self.batch.padding),
                tuple(size for size in self.batch.sizes for _ in range(times)),
            ),
            [repeated(level) for level in self.levels],
            repeated(self.stride4),
            [repeated(padding) for padding in self.paddings],
            [repeated(position) for position in self.positions],
        )

    def split(self) -> list[ImageFeatures]:
        """One for each image of the batch; they share its storage."""

        def entry(tensor: Tensor, index: int) -> Tensor:
            return tensor[index : index + 1]

        return [
            ImageFeatures(
                ImageBatch(entry(self.batch.pixels, i), entry(self.batch.padding, i), (size,)),
                [entry(level, i) for level in self.levels],
                entry(self.stride4, i),
                [entry(padding, i) for padding in self.paddings],
                [entry(position, i) for position in self.positions],
            )
            for i, size in enumerate(self.batch.sizes)
        ]


@dataclass(frozen=True)
class Detections:
    """All queries of a batch of references.

    logits: [B, Q] of the last layer. boxes: [B, Q, 4] (cx, cy, w, h), 0..1 over the unpadded image. points: [B, Q, 2]
    (x, y) in pixels of the network's input. decoded: all that the losses need. image_sizes: [B or 1, 2] (width,
    height) before padding.
    """

    logits: Tensor
    boxes: Tensor
    points: Tensor
    decoded: Decoded
    mask_features: Tensor
    image_sizes: Tensor

    def best(self) -> Tensor:
        """[B] index of the most likely query."""
        return self.logits.argmax(1)


class UniRef(nn.Module):
    """UniRef++, Wu et al. 2023. One set of weights for text, exemplar, mask and text-video references."""

    def __init__(self, config: UniRefConfig, *, live_norm: bool = False) -> None:
        super().__init__()
        dim, channels = config.hidden_dim, TRUNK_CHANNELS[config.backbone]
        self.config = config
        self.backbone = build_trunk(config.backbone, live_norm=live_norm)
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, dim, 1), nn.GroupNorm(32, dim)) for width in channels[1:]
        )
        self.input_proj.append(nn.Sequential(nn.Conv2d(channels[-1], dim, 3, 2, 1), nn.GroupNorm(32, dim)))
        self.places = nn.Conv2d(2, dim, 1) if config.coordinates else None
        self.text_encoder = build_text_encoder(config.text, dim)
        self.mask_encoder = MaskEncoder(dim, config.mask_encoder_widths)
        self.fusion = UniFusionPyramid(
            dim, config.fusion_heads, config.fusion_head_dim, levels=config.levels, shared=config.share_unifusion
        )
        self.transformer = DeformableTransformer(config)
        self.mask_head = MaskHead(dim, channels[0], config.mask_channels, dense=config.dense_head)

    def encode_image(self, batch: ImageBatch) -> ImageFeatures:
        """Trunk and projections of a batch of frames."""
        maps = self.backbone(batch.pixels)
        taps = (*maps[1:], maps[-1])
        levels = [project(tap) for project, tap in zip(self.input_proj, taps, strict=True)]
        paddings = [_shrink(batch.padding, level.shape[-2:]) for level in levels[:3]]
        paddings.append(_shrink(paddings[0], levels[3].shape[-2:]))
        positions = [position_encoding(mask, self.config.hidden_dim) for mask in paddings]
        if self.places is not None:
            levels = [level + self.places(coordinates(mask)) for level, mask in zip(levels, paddings, strict=True)]
        return ImageFeatures(batch, levels, maps[0], paddings, positions)

    def encode_text(self, ids: Tensor, attention: Tensor) -> Reference:
        """[B, N] token ids, and 1 where a token counts, to a reference."""
        return cast(Reference, self.text_encoder(ids, attention, self.config.levels))

    def encode_masks(
        self, features: ImageFeatures, masks: Tensor, keys: Sequence[ReferenceTokens] | None = None
    ) -> Reference:
        """Mask references of n objects.

        features: of one frame (B = 1), or of n. masks: [n, 1, H, W] 0..1 at the padded size. keys: `mask_keys` of the
        same features, when they are at hand. Padded places are left out when the batch is one frame.
        """
        count = masks.shape[0]
        pixels = features.batch.pixels.expand(count, -1, -1, -1)
        maps = self.mask_encoder(pixels, masks, [level.expand(count, -1, -1, -1) for level in features.levels])
        shared = mask_keys(features) if keys is None else keys
        return tuple(
            replace(part, keys=_repeat(part.keys, count), values=value, condition=_repeat(part.condition, count))
            for part, value in zip(shared, _without_padding(maps, features.paddings), strict=True)
        )

    def detect(self, features: ImageFeatures, references: Sequence[Reference]) -> Detections:
        """Find the referred object of every batch entry.

        references: batch B each; features of one frame serve all of them. Kinds are added, so give each kind once
        (`join` puts several of one kind together).
        """
        fused = self.fusion(features.levels, references)
        # Places are measured in pixels and boxes in thousandths: half precision is too coarse for what follows.
        with torch.autocast(fused[0].device.type, enabled=False):
            return self._find([level.float() for level in fused], features)

    def _find(self, levels: list[Tensor], features: ImageFeatures) -> Detections:
        tokens = self.transformer.flatten(levels, features.paddings, features.positions)
        decoded = self.transformer(tokens)
        maps = [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(
                decoded.memory.split([h * w for h, w in tokens.shapes], 1), tokens.shapes, strict=True
            )
        ]
        stride4 = features.stride4.float().expand(len(decoded.memory), -1, -1, -1)
        size = torch.tensor(
            [(s.width, s.height) for s in features.batch.sizes], dtype=torch.float32, device=stride4.device
        )
        return Detections(
            self.transformer.class_embed[len(decoded.hidden) - 1](decoded.hidden[-1]).squeeze(-1),
            decoded.references[-1],
            decoded.references[-2][..., :2] * size.unsqueeze(1),
            decoded,
            self.mask_head.features(maps, stride4),
            size,
        )

    def mask_logits(self, detections: Detections, queries: Tensor, *, full_size: bool = False) -> Tensor:
        """Mask logits of chosen queries, [B] indices to [B, H/4, W/4].

        full_size: [B, H, W] as video object segmentation is trained (CondInst's aligned enlargement).
        """
        rows = torch.arange(len(queries), device=queries.device)
        hidden = detections.decoded.hidden[-1][rows, queries].unsqueeze(1)
        points = detections.points[rows, queries].unsqueeze(1)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = self.mask_head(detections.mask_features, hidden, points)
        return cast(Tensor, aligned_bilinear(logits, 4) if full_size else logits).squeeze(1)


def _shrink(padding: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(padding.unsqueeze(1).float(), tuple(size)).squeeze(1) > 0.5


def _repeat(tensor: Tensor, count: int) -> Tensor:
    return tensor if len(tensor) == count else tensor.expand(count, *tensor.shape[1:])


def _without_padding(maps: Sequence[Tensor], paddings: Sequence[Tensor]) -> list[Tensor]:
    """[B, C, h, w] maps as [B, N, C] tokens; padded ones are dropped where all entries are padded alike."""
    tokens = [level.flatten(2).transpose(1, 2) for level in maps]
    if len(paddings[0]) > 1:
        return tokens
    return [part[:, ~padding[0].flatten()] for part, padding in zip(tokens, paddings, strict=True)]


def mask_keys(features: ImageFeatures) -> tuple[ReferenceTokens, ...]:
    """What all mask references to one frame share: keys and condition, which do not depend on any mask."""
    parts = []
    for level, padding in zip(_without_padding(features.levels, features.paddings), features.paddings, strict=True):
        outside = padding.flatten(1) if len(padding) > 1 else None
        weight = torch.ones_like(level[..., :1]) if outside is None else (~outside).to(level).unsqueeze(-1)
        parts.append(ReferenceTokens(level, level, (level * weight).sum(1) / weight.sum(1), outside))
    return tuple(parts)
