"""Training UniRef++: the losses of one batch, parameter groups, the published stages, and videos made of stills."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.uniref.losses import (
    LossWeights,
    box_supervised_losses,
    label_and_box_losses,
    layer_names,
    mask_losses,
    match_best,
    match_top_k,
    subsample,
)
from engines.uniref.mask_head import STRIDE, aligned_bilinear
from engines.uniref.model import Detections, UniRef


@dataclass(frozen=True)
class Targets:
    """What the references of a batch mean.

    boxes: [B, 4] (cx, cy, w, h), 0..1 over the unpadded image. masks: [B, H, W] float at the padded size, or filled
    boxes where `similarity` ([B, 8, H/4, W/4]) says that only boxes are known.
    """

    boxes: Tensor
    masks: Tensor
    similarity: Tensor | None = None


@dataclass(frozen=True)
class Stage:
    """One stage of training as published.

    frames: 1 for stills, 2 for video pairs up to max_gap apart. mask_dropout: chance that a text-video sample leaves
    its mask reference out. text_frozen: BERT does not learn.
    """

    name: str
    data: tuple[str, ...]
    frames: int = 1
    max_gap: int = 0
    mask_dropout: float = 0.0
    text_frozen: bool = False
    box_supervised: bool = False


STAGES = (
    Stage("objects", ("Objects365",), box_supervised=True),
    Stage("text", ("RefCOCO", "RefCOCO+", "RefCOCOg")),
    Stage("images", ("RefCOCO", "RefCOCO+", "RefCOCOg", "FSS-1000")),
    Stage(
        "videos",
        ("RefCOCO", "YouTube-VOS", "DAVIS", "OVIS", "Ref-YouTube-VOS", "COCO pseudo-videos"),
        frames=2,
        max_gap=10,
        mask_dropout=0.4,
        text_frozen=True,
    ),
)

LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.05
GRADIENT_CLIP = 0.1


def parameter_groups(
    model: UniRef, stage: Stage, learning_rate: float = LEARNING_RATE, text_rate: float = 1e-5
) -> list[dict[str, Any]]:
    """AdamW groups: trunk and sampling offsets at a tenth of the rate, BERT at its own or frozen."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        rate = learning_rate
        if name.startswith("text_encoder.bert."):
            parameter.requires_grad_(not stage.text_frozen)
            rate = text_rate
        elif name.startswith("backbone.") or "sampling_offsets" in name:
            rate = learning_rate / 10
        if parameter.requires_grad:
            groups.setdefault(rate, []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": WEIGHT_DECAY} for rate, params in groups.items()]


def batch_losses(
    model: UniRef, detections: Detections, targets: Targets, *, full_size: bool = False
) -> dict[str, Tensor]:
    """All losses of one batch, each decoder layer and the first stage included; weigh them with `LossWeights.total`.

    full_size: masks are judged at full size, as in video object segmentation; otherwise at stride 4.
    """
    decoded = detections.decoded
    parts: dict[str, Tensor] = {}
    for index, suffix in enumerate(layer_names(len(decoded.hidden))):
        logits = model.transformer.class_embed[index](decoded.hidden[index]).squeeze(-1).float()
        boxes = decoded.references[index + 1]
        chosen = match_top_k(logits, boxes, targets.boxes)
        layer = label_and_box_losses(logits, boxes, targets.boxes, chosen)
        layer |= _layer_mask_losses(model, detections, index, chosen, targets, full_size=full_size)
        parts |= {name + suffix: loss for name, loss in layer.items()}
    return parts | _first_stage_losses(detections, targets.boxes) | _dense_losses(model, detections, targets)


def _layer_mask_losses(
    model: UniRef, detections: Detections, layer: int, chosen: Tensor, targets: Targets, *, full_size: bool
) -> dict[str, Tensor]:
    """Masks of the chosen queries only; entries with fewer of them than others compute a few in vain."""
    most = int(chosen.sum(1).max())
    order = chosen.float().topk(most, dim=1).indices
    kept = chosen.gather(1, order)
    decoded, size = detections.decoded, detections.image_sizes
    points = decoded.references[layer][..., :2] * size.unsqueeze(1)
    hidden = decoded.hidden[layer].gather(1, order.unsqueeze(-1).expand(-1, -1, decoded.memory.shape[-1]))
    points = points.gather(1, order.unsqueeze(-1).expand(-1, -1, 2))
    logits = model.mask_head(detections.mask_features, hidden, points)
    logits = (aligned_bilinear(logits, STRIDE) if full_size else logits)[kept]
    goals = targets.masks if full_size else subsample(targets.masks, STRIDE)
    goal = goals.unsqueeze(1).expand(-1, most, -1, -1)[kept]
    if targets.similarity is None:
        return mask_losses(logits, goal)
    similarity = targets.similarity.unsqueeze(1).expand(-1, most, -1, -1, -1)[kept]
    return box_supervised_losses(logits, goal, similarity)


def _first_stage_losses(detections: Detections, targets: Tensor) -> dict[str, Tensor]:
    logits = detections.decoded.logits.squeeze(-1).float()
    boxes = detections.decoded.boxes_unact.sigmoid()
    best = F.one_hot(match_best(logits, boxes, targets), logits.shape[1]).bool()
    return {f"{name}.first": loss for name, loss in label_and_box_losses(logits, boxes, targets, best).items()}


def _dense_losses(model: UniRef, detections: Detections, targets: Targets) -> dict[str, Tensor]:
    if model.mask_head.dense is None:
        return {}
    logits = model.mask_head.dense(detections.mask_features).squeeze(1).float()
    losses = mask_losses(logits, subsample(targets.masks, STRIDE))
    return {f"{name}.dense": loss for name, loss in losses.items()}


@dataclass(frozen=True)
class PseudoVideo:
    """How two frames are made of one still: one random warp each.

    Shares of the image: shift and shear; turn in degrees; zoom either way; chance of a mirrored pair.
    """

    shift: float = 0.1
    turn_deg: float = 15.0
    shear: float = 0.1
    zoom: float = 1.25
    mirror: float = 0.5

    def __call__(self, image: Tensor, masks: Tensor, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """[3, H, W] float image and [K, H, W] masks to two (image, masks) of the same size; outside is black."""
        mirrored = bool(torch.rand((), generator=generator) < self.mirror)
        pair = []
        for _ in range(2):
            grid = self._grid(image, generator, mirrored=mirrored)
            warped = F.grid_sample(image[None], grid, align_corners=False)[0]
            moved = F.grid_sample(masks[None].float(), grid, mode="nearest", align_corners=False)[0]
            pair.append((warped, moved))
        return pair

    def _grid(self, image: Tensor, generator: torch.Generator, *, mirrored: bool) -> Tensor:
        draw = 2 * torch.rand(5, generator=generator) - 1
        height, width = image.shape[-2:]
        angle = torch.deg2rad(draw[0] * self.turn_deg)
        scale = self.zoom ** draw[1]
        cos, sin = angle.cos() * scale, angle.sin() * scale
        # Turning happens in pixels, the grid runs from -1 to 1: the sides' ratio makes up for the difference.
        matrix = torch.stack((cos, -sin * height / width + draw[2] * self.shear, sin * width / height, cos)).view(2, 2)
        if mirrored:
            matrix = matrix * torch.tensor([-1.0, 1.0])
        affine = torch.cat((matrix, (2 * self.shift * draw[3:]).unsqueeze(1)), 1)
        return F.affine_grid(affine[None], [1, 3, height, width], align_corners=False)


def target_boxes(masks: Tensor) -> Tensor:
    """[B, H, W] non-empty masks to [B, 4] boxes (cx, cy, w, h), 0..1."""
    height, width = masks.shape[-2:]
    rows, columns = (masks > 0).any(2), (masks > 0).any(1)
    spans = []
    for seen, length in ((columns, width), (rows, height)):
        first = seen.float().argmax(1)
        last = length - seen.flip(1).float().argmax(1)
        spans.append(((first + last) / 2 / length, (last - first) / length))
    (cx, w), (cy, h) = spans
    return torch.stack((cx, cy, w, h), 1)


def training_step(
    parts: dict[str, Tensor], parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer
) -> float:
    """One optimiser step on the weighted losses, gradients clipped as published; returns the total."""
    total = LossWeights().total(parts)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
    optimizer.step()
    return float(total.detach())
