"""SpatialEmbeddings in training: the loss falls on fixed pictures, and what is found is measured rightly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engines.spatial_embeddings.recipes import recipe_for
from engines.spatial_embeddings.training import build_learner, proposal_quality
from engines.training.clips import ClipBatch
from engines.training.learners import trainable_engines


def fixed_batch() -> ClipBatch:
    """Two clips of one frame of 44 x 44: a bright square on dark ground."""
    frames, labels = torch.zeros(2, 1, 3, 44, 44), torch.zeros(2, 1, 44, 44, dtype=torch.uint8)
    for clip, left in enumerate((6, 20)):
        frames[clip, 0, :, 10:30, left : left + 18] = 0.9
        labels[clip, 0, 10:30, left : left + 18] = 1
    return ClipBatch(frames, labels, torch.empty(0))


def test_the_loss_falls_on_fixed_pictures() -> None:
    recipe = replace(recipe_for("spatial-embeddings"), seed=1)
    learner = build_learner(recipe, torch.device("cpu"))
    optimiser = torch.optim.Adam(learner.net.parameters(), lr=2e-3)
    losses, ious = [], []
    for _ in range(12):
        loss, parts = learner.loss(fixed_batch(), recipe.steps // 2, torch.Generator())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        ious.append(parts["iou"])
    assert losses[-1] < 0.6 * losses[0] and ious[-1] > ious[0]


def test_the_first_twentieth_of_a_starter_learns_its_seeds_plainly() -> None:
    recipe = recipe_for("spatial-embeddings")
    learner = build_learner(recipe, torch.device("cpu"))
    learner.net.eval()
    early, _ = learner.loss(fixed_batch(), 0, torch.Generator())
    late, _ = learner.loss(fixed_batch(), recipe.steps // 2, torch.Generator())
    assert early.item() > late.item()


def test_recipes_and_the_list_of_trainable_engines() -> None:
    assert "spatial-embeddings" in trainable_engines()
    published = recipe_for("spatial-embeddings", "published")
    assert (published.rate, published.weight_decay, published.phases[0].batch) == (5e-4, 1e-4, 16)
    assert build_learner(published, torch.device("meta")).net.config.num_sigmas == 1


def test_proposal_quality_counts_objects_and_tops() -> None:
    truth = np.zeros((10, 20), np.uint8)
    truth[:, :5], truth[:, 10:15], truth[0, 19] = 1, 2, 255
    left, right, half = truth == 1, truth == 2, np.zeros((10, 20), bool)
    half[:5, :5] = True
    quality = proposal_quality([([half, right], truth), ([], truth)])
    assert quality.objects == 4
    assert quality.best_iou_at_5 == pytest.approx((0.5 + 1.0 + 0 + 0) / 4)
    assert quality.recall_at_5 == 0.25 and quality.top_iou == pytest.approx(0.25)
    assert proposal_quality([([left], truth)]).top_iou == 1.0
    assert proposal_quality([]).objects == 0
