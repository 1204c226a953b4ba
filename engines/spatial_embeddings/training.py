"""How SpatialEmbeddings learns: every frame of a clip is a picture of its own. Knows neither files nor the loop.

Source of the published recipe: Neven et al. 2019; `starter` trains from scratch on little data.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engines.proposals.ranking import iou
from engines.spatial_embeddings.config import PUBLISHED, STARTER, LossConfig
from engines.spatial_embeddings.losses import spatial_embedding_loss
from engines.spatial_embeddings.model import SIGMA_BIAS, BranchedERFNet
from engines.training.clips import ClipBatch
from engines.training.recipe import Recipe
from engines.types import IGNORE_LABEL

STARTER_SIGMA_BIAS = 0.4
"""Margins of about a hundred pixels at the start; the published bias of 1 draws six, which suits far cars."""

_PLAIN_SEED_SHARE = 0.05


class SpatialEmbeddingsLearner:
    """A network in training, for engines.training.trainer."""

    def __init__(self, net: BranchedERFNet, recipe: Recipe) -> None:
        self.net = net
        self._recipe = recipe
        self._config = LossConfig(num_sigmas=net.config.num_sigmas)

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Loss of one batch; a starter's first twentieth adds plain cross entropy on the seeds."""
        images, instances = batch.frames.flatten(0, 1), batch.labels.flatten(0, 1).long()
        height, width = instances.shape[-2:]
        padding = (0, -width % 8, 0, -height % 8)
        maps: Tensor = self.net(F.pad(images, padding, mode="replicate"))
        maps = maps[..., :height, :width].float()
        labels = (instances > 0).long()
        terms = spatial_embedding_loss(maps, instances.masked_fill(instances == IGNORE_LABEL, 0), labels, self._config)
        total = terms.total
        if self._recipe.preset == "starter" and step < _PLAIN_SEED_SHARE * self._recipe.steps:
            seed = maps[:, 2 + self._config.num_sigmas]
            total = total + F.binary_cross_entropy_with_logits(seed, labels.float())
        parts = {
            "instance": terms.instance.item(),
            "variance": terms.variance.item(),
            "seed": terms.seed.item(),
            "iou": terms.iou,
        }
        return total, parts

    def is_encoder(self, name: str) -> bool:
        """No part is trained beforehand, so none learns at a rate of its own."""
        return False


def build_learner(recipe: Recipe, device: torch.device) -> SpatialEmbeddingsLearner:
    """A fresh network: offsets of zero and one sigma everywhere."""
    starter = recipe.preset == "starter"
    torch.manual_seed(recipe.seed)
    net = BranchedERFNet(STARTER if starter else PUBLISHED)
    net.reset_output(STARTER_SIGMA_BIAS if starter else SIGMA_BIAS)
    return SpatialEmbeddingsLearner(net.to(device), recipe)


@dataclass(frozen=True)
class ProposalQuality:
    """Over all true objects: mean best IoU among the first five proposals, and the share found with IoU over 0.5.

    top_iou: mean over pictures of the best IoU that the first proposal reaches with any object.
    """

    best_iou_at_5: float
    recall_at_5: float
    top_iou: float
    objects: int


def proposal_quality(pairs: Iterable[tuple[Sequence[NDArray[np.bool_]], NDArray[np.uint8]]]) -> ProposalQuality:
    """Compare ranked proposals [H, W] with the true label map [H, W] of each picture; 255 is no object."""
    best: list[float] = []
    top: list[float] = []
    for masks, truth in pairs:
        objects = [truth == value for value in np.unique(truth) if value not in (0, IGNORE_LABEL)]
        table = np.array([[iou(mask, target) for mask in masks[:5]] or [0.0] for target in objects])
        if objects:
            best.extend(table.max(1).tolist())
            top.append(float(table[:, 0].max()))
    if not best:
        return ProposalQuality(0.0, 0.0, 0.0, 0)
    found = float(np.mean([value > 0.5 for value in best]))
    return ProposalQuality(float(np.mean(best)), found, float(np.mean(top)), len(best))
