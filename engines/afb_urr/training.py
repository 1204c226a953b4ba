"""How AFB-URR learns: cross entropy and the norm of its own doubt.

Source: AFB-URR, Liang et al. 2020, section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engines.afb_urr.config import VARIANTS
from engines.afb_urr.model import AfbUrrNetwork, scores_of
from engines.space_time.network import Query
from engines.space_time.training import SpaceTimeLearner, sharpen
from engines.training.depthwise import quicken_depthwise
from engines.training.recipe import Recipe

CONFIDENCE_WEIGHT = 0.5
STARTER_SOFTNESS = 3.2
"""Held-out clips at 320 pixels, J&F with 1, 2 and 3.2: 33.2, 52.1, 53.8."""


class AfbUrrLearner(SpaceTimeLearner):
    """An AFB-URR network in training. confidence: weight of its doubt, 0 switches the term off."""

    net: AfbUrrNetwork

    def __init__(
        self, net: AfbUrrNetwork, recipe: Recipe, *, confidence: float = CONFIDENCE_WEIGHT, softness: float = 1.0
    ) -> None:
        super().__init__(net, recipe, confidence=confidence, softness=softness)

    def segment(self, query: Query, reads: Tensor, channels: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Logits of each frame, and the 2-norm of the uncertainty maps over the root of their size."""
        refined = self.net.refinements(query, reads, channels)
        doubts = [r.uncertainty.square().mean().sqrt() for r in refined]
        return [scores_of(r.logits) for r in refined], torch.stack(doubts).mean()


def build_learner(recipe: Recipe, device: torch.device) -> AfbUrrLearner:
    """A network with fresh weights; the published preset keeps its batch norms fixed."""
    torch.manual_seed(recipe.seed)
    net = AfbUrrNetwork(replace(VARIANTS[recipe.engine], live_norm=recipe.preset == "starter")).to(device)
    softness = STARTER_SOFTNESS if recipe.preset == "starter" else 1.0
    sharpen(net.keyval_r4.Key, softness)
    return AfbUrrLearner(quicken_depthwise(net) if device.type == "cpu" else net, recipe, softness=softness)
