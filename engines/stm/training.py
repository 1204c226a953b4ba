"""How STM learns: soft aggregation in training, cross entropy. Source: STM, Oh et al. 2019, section 3.5."""

from __future__ import annotations

from dataclasses import replace

import torch

from engines.space_time.training import SpaceTimeLearner, sharpen
from engines.stm.config import VARIANTS
from engines.stm.model import StmNetwork
from engines.training.depthwise import quicken_depthwise
from engines.training.recipe import Recipe

STARTER_SOFTNESS = 4.0
"""Held-out clips at 320 pixels, J&F with 1, 1.6, 2.5 and 4: 27.6, 41.4, 45.2, 45.6."""


def build_learner(recipe: Recipe, device: torch.device) -> SpaceTimeLearner:
    """A network with fresh weights; the published preset keeps its batch norms fixed."""
    torch.manual_seed(recipe.seed)
    net = StmNetwork(replace(VARIANTS[recipe.engine], live_norm=recipe.preset == "starter")).to(device)
    softness = STARTER_SOFTNESS if recipe.preset == "starter" else 1.0
    if recipe.preset == "starter":
        sharpen(net.KV_Q_r4.Key, softness)
        net.KV_M_r4.Key.load_state_dict(net.KV_Q_r4.Key.state_dict())  # like finds like from the first step on
    return SpaceTimeLearner(quicken_depthwise(net) if device.type == "cpu" else net, recipe, softness=softness)
