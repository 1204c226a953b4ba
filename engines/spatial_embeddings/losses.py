"""Lovász losses, and the loss that trains embeddings, margins and seeds together. Knows no data and no optimiser.

Sources: Berman et al. 2018 (Lovász hinge and softmax); Neven et al. 2019, section 3
(checked by tests/parity/spatial_embeddings).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from engines.spatial_embeddings.clustering import SIGMA_SCALE, coordinate_map
from engines.spatial_embeddings.config import PUBLISHED, LossConfig


def _jaccard_slope(truth: Tensor) -> Tensor:
    """[..., P] slope of the Lovász extension of the Jaccard loss, truth in the order of falling errors."""
    total = truth.sum(-1, keepdim=True)
    intersection = total - truth.cumsum(-1)
    union = total + (1.0 - truth).cumsum(-1)
    jaccard = 1.0 - intersection / union
    return torch.cat([jaccard[..., :1], jaccard[..., 1:] - jaccard[..., :-1]], -1)


def _lovasz(errors: Tensor, truth: Tensor) -> Tensor:
    """[...] Lovász extension at errors [..., P] for truth [..., P] in {0, 1}; errors below 0 count as 0."""
    ordered, order = torch.sort(errors, dim=-1, descending=True)
    return (F.relu(ordered) * _jaccard_slope(truth.gather(-1, order))).sum(-1)


def lovasz_hinge(logits: Tensor, labels: Tensor, *, per_image: bool = True, ignore: int | None = None) -> Tensor:
    """Binary Lovász hinge.

    logits: [B, H, W]; labels: [B, H, W] in {0, 1} or `ignore`. per_image averages over B, otherwise all pixels are one
    set. Pixels that are ignored sort last with no error, so they change nothing.
    """
    rows = labels.shape[0] if per_image else 1
    truth = (labels == 1).to(logits.dtype).reshape(rows, -1)
    scores = logits.reshape(rows, -1)
    errors = 1.0 - scores * (2.0 * truth - 1.0)
    if ignore is not None:
        errors = errors.masked_fill(labels.reshape(rows, -1) == ignore, float("-inf"))
    return _lovasz(errors, truth).mean()


def lovasz_softmax(
    probability: Tensor, labels: Tensor, *, per_image: bool = False, ignore: int | None = None
) -> Tensor:
    """Lovász softmax averaged over the classes that are present.

    probability: [B, C, H, W] summing to 1 over C; labels: [B, H, W] class numbers or `ignore`.
    """
    if per_image:
        pairs = zip(probability, labels, strict=True)
        return torch.stack([lovasz_softmax(p[None], y[None], ignore=ignore) for p, y in pairs]).mean()
    classes = probability.shape[1]
    flat = probability.movedim(1, 0).reshape(classes, -1)
    target = labels.reshape(-1)
    if ignore is not None:
        flat, target = flat[:, target != ignore], target[target != ignore]
    truth = (target == torch.arange(classes, device=target.device)[:, None]).to(flat.dtype)
    present = truth.any(-1)
    if not bool(present.any()):
        return probability.sum() * 0.0
    return _lovasz((truth - flat).abs(), truth)[present].mean()


@dataclass(frozen=True)
class LossTerms:
    """The total, weighted and averaged over the batch, its unweighted parts, and the mean IoU of the true instances."""

    total: Tensor
    instance: Tensor
    variance: Tensor
    seed: Tensor
    iou: float


@dataclass(frozen=True)
class _Target:
    """One image's truth: [K, P] one-hot instances, [K] their class numbers from 0, [C, P] bool background per class."""

    instances: Tensor
    classes: Tensor
    background: Tensor

    @classmethod
    def of(cls, instances: Tensor, labels: Tensor, num_classes: int) -> _Target:
        flat, label = instances.flatten().long(), labels.flatten().long()
        ids = torch.unique(flat)
        one_hot = flat == ids[ids != 0][:, None]
        if num_classes == 1:
            return cls(one_hot, torch.zeros(len(one_hot), dtype=torch.long, device=flat.device), (label == 0)[None])
        first = one_hot.to(torch.uint8).argmax(1)
        numbers = torch.arange(1, num_classes + 1, device=flat.device)[:, None]
        return cls(one_hot, label[first] - 1, (label != numbers) & (label != 255))


def _attraction(maps: Tensor, target: _Target, config: LossConfig) -> tuple[Tensor, Tensor]:
    """[K, P] membership probability of every pixel, and the mean variance of sigma over instances."""
    height, width = maps.shape[-2:]
    grid = coordinate_map(height, width, step=PUBLISHED.grid_step, device=maps.device).flatten(1)
    position = torch.tanh(maps[:2].flatten(1)) + grid
    sigma = maps[2 : 2 + config.num_sigmas].flatten(1)
    weight = target.instances.to(maps.dtype)
    weight = weight / weight.sum(1, keepdim=True)
    centre = weight @ (grid if config.centre == "position" else position).T  # [K, 2]
    mean_sigma = weight @ sigma.T  # [K, num_sigmas]
    spread = (sigma - mean_sigma.detach()[:, :, None]).square().mean(1)  # [K, P]
    precision = torch.exp(SIGMA_SCALE * mean_sigma)[:, :, None]
    distance = ((position - centre[:, :, None]).square() * precision).sum(1)
    return torch.exp(-distance), (weight * spread).sum(1).mean()


def _image_terms(maps: Tensor, target: _Target, config: LossConfig) -> tuple[Tensor, list[float]]:
    """[3] instance, variance and seed loss of one image, and the IoU of each true instance."""
    seed = torch.sigmoid(maps[2 + config.num_sigmas :]).flatten(1)  # [C, P]
    seed_loss = (seed.square() * target.background).sum()
    instance_loss = variance_loss = maps.sum() * 0.0
    ious: list[float] = []
    if len(target.instances):
        probability, variance_loss = _attraction(maps, target, config)
        truth = target.instances.to(maps.dtype)
        instance_loss = _lovasz(1.0 - (2.0 * probability - 1.0) * (2.0 * truth - 1.0), truth).mean()
        gap = (seed[target.classes] - probability.detach()).square()
        seed_loss = seed_loss + config.foreground_weight * (gap * truth).sum()
        inside = probability.detach() > 0.5
        hit, union = (inside & target.instances).sum(1), (inside | target.instances).sum(1)
        ious = (hit / union).tolist()
    return torch.stack([instance_loss, variance_loss, seed_loss / seed.shape[1]]), ious


def spatial_embedding_loss(
    maps: Tensor, instances: Tensor, labels: Tensor, config: LossConfig | None = None
) -> LossTerms:
    """Pull pixels into their instance's margin, keep its sigma uniform, and make seeds say how close to the centre.

    maps: [B, 2 + num_sigmas + C, H, W] raw. instances: [B, H, W] ids, 0 none. labels: [B, H, W] 0 background, otherwise
    the class (1..C; 255 is ignored where C > 1). With C = 1 a labelled pixel without an instance adds nothing.
    """
    config = config or LossConfig()
    num_classes = maps.shape[1] - 2 - config.num_sigmas
    terms = [
        _image_terms(image, _Target.of(ids, label, num_classes), config)
        for image, ids, label in zip(maps, instances, labels, strict=True)
    ]
    instance, variance, seed = torch.stack([parts for parts, _ in terms]).mean(0).unbind()
    ious = [value for _, values in terms for value in values]
    total = config.instance_weight * instance + config.variance_weight * variance + config.seed_weight * seed
    return LossTerms(total, instance, variance, seed, sum(ious) / len(ious) if ious else 0.0)
