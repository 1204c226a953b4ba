"""The published losses of UniRef++ and the assignment of queries to the referred object. Knows tensors only.

Every batch entry has exactly one target: the object that its reference means.
Source: UniRef++, Wu et al. 2023, §3.4; simOTA, Ge et al. 2021; BoxInst, Tian et al. 2021.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
_CANDIDATES = 10
_CENTRE_RADIUS = 2.5 / 32


@dataclass(frozen=True)
class LossWeights:
    """Published weights of the parts."""

    label: float = 2.0
    box: float = 5.0
    giou: float = 2.0
    mask: float = 2.0
    dice: float = 5.0
    projection: float = 5.0
    pairwise: float = 1.0

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum; a part may carry a suffix after a dot ("box.0", "label.first")."""
        return torch.stack([getattr(self, name.partition(".")[0]) * loss for name, loss in parts.items()]).sum()


def corners(boxes: Tensor) -> Tensor:
    """[..., 4] (cx, cy, w, h) to (x1, y1, x2, y2)."""
    centre, side = boxes[..., :2], boxes[..., 2:]
    return torch.cat((centre - side / 2, centre + side / 2), -1)


def box_overlaps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of [..., 4] boxes (cx, cy, w, h), element by element."""
    one, other = corners(a), corners(b)
    inner = (torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])).clamp(min=0)
    outer = torch.maximum(one[..., 2:], other[..., 2:]) - torch.minimum(one[..., :2], other[..., :2])
    shared, hull = inner.prod(-1), outer.prod(-1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - shared
    iou = shared / union.clamp(min=1e-7)
    return iou, iou - (hull - union) / hull.clamp(min=1e-7)


def _label_cost(logits: Tensor) -> Tensor:
    p = logits.sigmoid()
    miss = FOCAL_ALPHA * (1 - p) ** FOCAL_GAMMA * -(p + 1e-8).log()
    false_alarm = (1 - FOCAL_ALPHA) * p**FOCAL_GAMMA * -(1 - p + 1e-8).log()
    return miss - false_alarm


@torch.no_grad()
def match_top_k(logits: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """Queries that answer for the target of their entry, as many as overlap it well. simOTA with one target.

    logits: [B, Q]. boxes: [B, Q, 4]. targets: [B, 4]. Returns [B, Q] bool, at least one per entry. k is the whole part
    of the sum of the ten best IoUs; queries away from the target and its centre are taken last.
    """
    goal = targets.unsqueeze(1)
    iou, giou = box_overlaps(boxes, goal)
    way = (boxes[..., :2] - goal[..., :2]).abs()
    in_box = (way < goal[..., 2:] / 2).all(-1)
    in_centre = (way < _CENTRE_RADIUS).all(-1)
    cost = _label_cost(logits) - 3 * giou + 100.0 * ~(in_box & in_centre) + 10000.0 * ~(in_box | in_centre)
    count = iou.topk(min(_CANDIDATES, iou.shape[1])).values.sum(1).int().clamp(min=1)
    rank = cost.argsort(1).argsort(1)
    return rank < count.unsqueeze(1)


@torch.no_grad()
def match_best(logits: Tensor, boxes: Tensor, targets: Tensor) -> Tensor:
    """[B] index of the one place that answers for the target: the first stage's one-to-one assignment.

    logits: [B, S]. boxes: [B, S, 4]. targets: [B, 4].
    """
    giou = box_overlaps(boxes, targets.unsqueeze(1))[1]
    distance = (boxes - targets.unsqueeze(1)).abs().sum(-1)
    return (2 * _label_cost(logits) + 5 * distance - 2 * giou).argmin(1)


def focal(logits: Tensor, goal: Tensor) -> Tensor:
    """Sigmoid focal loss, element by element."""
    p = logits.sigmoid()
    right = p * goal + (1 - p) * (1 - goal)
    balance = FOCAL_ALPHA * goal + (1 - FOCAL_ALPHA) * (1 - goal)
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    return balance * entropy * (1 - right) ** FOCAL_GAMMA


def dice(logits: Tensor, goal: Tensor) -> Tensor:
    """[N, ...] to [N]: 1 - (2 overlap + 1) / (sum + 1)."""
    p, g = logits.sigmoid().flatten(1), goal.flatten(1)
    return 1 - (2 * (p * g).sum(1) + 1) / (p.sum(1) + g.sum(1) + 1)


def label_and_box_losses(logits: Tensor, boxes: Tensor, targets: Tensor, chosen: Tensor) -> dict[str, Tensor]:
    """Class, L1 and GIoU losses. chosen: [B, Q] bool; only those should say "here", and only they have a box to hit."""
    count = chosen.sum().clamp(min=1)
    found, goal = boxes[chosen], targets.unsqueeze(1).expand_as(boxes)[chosen]
    return {
        "label": focal(logits, chosen.to(logits)).sum() / count,
        "box": (found - goal).abs().sum() / count,
        "giou": (1 - box_overlaps(found, goal)[1]).sum() / count,
    }


def mask_losses(logits: Tensor, goal: Tensor) -> dict[str, Tensor]:
    """Focal (the paper: binary cross entropy) and DICE losses of [N, H, W] mask logits, as released."""
    return {"mask": focal(logits, goal).flatten(1).mean(1).mean(), "dice": dice(logits, goal).mean()}


def _axis_dice(p: Tensor, g: Tensor) -> Tensor:
    overlap = 2 * (p * g).sum(-1)
    return 1 - overlap / ((p**2).sum(-1) + (g**2).sum(-1) + 1e-5)


def _neighbours(maps: Tensor, dilation: int) -> Tensor:
    """[N, C, H, W] to [N, C, 8, H, W]: the 3x3 neighbourhood, spread by `dilation`, without its centre."""
    spread = F.unfold(maps, 3, dilation, dilation).unflatten(1, (maps.shape[1], 9))
    around = torch.cat((spread[:, :, :4], spread[:, :, 5:]), 2)
    return around.unflatten(-1, maps.shape[-2:])


def colour_similarity(lab: Tensor, inside: Tensor, dilation: int = 2) -> Tensor:
    """[N, 3, H, W] CIE Lab and [N, H, W] bool (False on padding) to [N, 8, H, W] similarity to each neighbour, 0..1."""
    difference = (lab.unsqueeze(2) - _neighbours(lab, dilation)).norm(dim=1)
    valid = _neighbours(inside.unsqueeze(1).float(), dilation)[:, 0]
    return torch.exp(-0.5 * difference) * valid


def box_supervised_losses(
    logits: Tensor, box_masks: Tensor, similarity: Tensor, *, warm_up: float = 1.0, dilation: int = 2
) -> dict[str, Tensor]:
    """Mask losses where only boxes are known.

    logits, box_masks: [N, H, W]. similarity: [N, 8, H, W] of `colour_similarity`. The mask's projections must fill the
    box, and neighbours of like colour (above 0.3) inside it must agree. warm_up: 0..1, grows over 10,000 steps.
    """
    p = logits.sigmoid()
    rows = _axis_dice(p.amax(2), box_masks.amax(2))
    columns = _axis_dice(p.amax(1), box_masks.amax(1))
    here, away = F.logsigmoid(logits).unsqueeze(1), F.logsigmoid(-logits).unsqueeze(1)
    both_in = here.unsqueeze(2) + _neighbours(here, dilation)
    both_out = away.unsqueeze(2) + _neighbours(away, dilation)
    disagree = -torch.logaddexp(both_in, both_out)[:, 0]
    weight = (similarity >= 0.3).to(p) * box_masks.unsqueeze(1)
    pairwise = (disagree * weight).sum() / weight.sum().clamp(min=1)
    return {"projection": (rows + columns).mean(), "pairwise": pairwise * warm_up}


def subsample(masks: Tensor, stride: int) -> Tensor:
    """[..., H, W] masks at every stride-th pixel, from the middle of the first cell."""
    return masks[..., stride // 2 :: stride, stride // 2 :: stride]


def layer_names(count: int) -> Sequence[str]:
    """Suffixes of the decoder layers' losses, the last without."""
    return [f".{index}" for index in range(count - 1)] + [""]
