"""Losses that several engines train with. Tensors in, scalars out; nothing here knows a network.

Pixels whose target is IGNORE_LABEL change none of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.types import IGNORE_LABEL


def hard_cross_entropy(logits: Tensor, target: Tensor, share: float, *, ignore: int = IGNORE_LABEL) -> Tensor:
    """Cross entropy on the hardest `share` of each sample's pixels.

    logits: [B, C, H, W]. target: [B, H, W] int64. share: 1 takes all pixels.
    Source: Pohlen et al. 2017 (bootstrapped cross entropy), as AOT and FEELVOS use it.
    """
    per_pixel = F.cross_entropy(logits.float(), target, reduction="none", ignore_index=ignore).flatten(1)
    if share >= 1:
        return per_pixel.mean()
    return per_pixel.topk(max(1, round(share * per_pixel.shape[1])), dim=1).values.mean()


def balanced_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy in which the background and all objects together weigh the same, in each sample.

    logits: [B, C, H, W]. target: [B, H, W] int64, 0 background.
    """
    per_pixel = F.cross_entropy(logits.float(), target, reduction="none", ignore_index=IGNORE_LABEL).flatten(1)
    target = target.flatten(1)
    parts = [target == 0, (target > 0) & (target != IGNORE_LABEL)]
    means = [(per_pixel * part).sum(dim=1) / part.sum(dim=1).clamp_min(1) for part in parts]
    return 0.5 * (means[0] + means[1]).mean()


def balanced_entropy(probability: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """Binary cross entropy in which inside and outside weigh the same, in each sample.

    probability: [M, N], of being inside. inside, outside: [M, N] in 0..1, how much of each token is which.
    """
    p = probability.float().clamp(1e-4, 1 - 1e-4)
    terms = ((-p.log(), inside), (-(1 - p).log(), outside))
    means = [(loss * share).sum(dim=1) / share.sum(dim=1).clamp_min(1) for loss, share in terms]
    return 0.5 * (means[0] + means[1]).mean()


def soft_jaccard(logits: Tensor, target: Tensor, used: Tensor) -> Tensor:
    """One minus the soft intersection over union, averaged over the channels in use (background excluded).

    logits: [B, C, H, W]. target: [B, H, W] int64. used: [B, C] bool, channel 0 is background.
    Source: Nowozin 2014; AOT's second loss term.
    """
    known = (target != IGNORE_LABEL)[:, None]
    probability = logits.float().softmax(dim=1) * known
    truth = F.one_hot(target.clamp(max=logits.shape[1] - 1), logits.shape[1]).movedim(-1, 1) * known
    both = (probability * truth).sum(dim=(2, 3))
    either = (probability + truth - probability * truth).sum(dim=(2, 3))
    jaccard = (both + 1) / (either + 1)  # an object that is gone and not predicted counts as found
    objects = used.clone()
    objects[:, 0] = False
    weight = objects.to(jaccard.dtype)
    return ((1 - jaccard) * weight).sum() / weight.sum().clamp_min(1)


def matching_loss(scores: Tensor, query_origin: Tensor, key_origin: Tensor, *, radius_px: float) -> Tensor:
    """How little attention falls on the tokens that show the same point; 0 where no token is known to.

    scores: [B, N, M] attention logits. *_origin: [B, N or M, 3] (layer, x, y) of each token, see clips.Scene.
    """
    same = (query_origin[:, :, None, 0] == key_origin[:, None, :, 0]) & (query_origin[:, :, None, 0] >= 0)
    near = (query_origin[:, :, None, 1:] - key_origin[:, None, :, 1:]).square().sum(dim=-1) < radius_px**2
    match = same & near
    known = match.any(dim=-1)
    scores = scores.float()
    hit = torch.logsumexp(scores.masked_fill(~match, -1e4), dim=-1)
    loss = (torch.logsumexp(scores, dim=-1) - hit) * known
    return loss.sum() / known.sum().clamp_min(1)


def transport_loss(scores: Tensor, truth: Tensor, carried: Tensor) -> Tensor:
    """How badly true labels land on the true ones when the attention alone carries them; labels weigh the same.

    scores: [B, N, M] attention logits. truth: [B, N, C], carried: [B, M, C]: share of each token that shows each label.
    A label that a sample lacks on either side does not count.
    """
    landed = torch.softmax(scores.float(), dim=-1) @ carried.float()
    amount = truth.sum(dim=1)
    missed = -(landed.clamp_min(1e-4).log() * truth).sum(dim=1) / amount.clamp_min(1e-4)
    counted = (amount > 0) & (carried.sum(dim=1) > 0)
    return (missed * counted).sum() / counted.sum().clamp_min(1)
