"""How STM learns: soft aggregation in training, cross entropy. Source: STM, Oh et al. 2019, section 3.5."""

from __future__ import annotations

from dataclasses import replace

import torch

from engines.space_time.training import SpaceTimeLearner
from engines.stm.config import VARIANTS
from engines.stm.model import StmNetwork
from engines.training.depthwise import quicken_depthwise
from engines.training.recipe import Recipe


def build_learner(recipe: Recipe, device: torch.device) -> SpaceTimeLearner:
    """A network with fresh weights; the published preset keeps its batch norms fixed."""
    torch.manual_seed(recipe.seed)
    net = StmNetwork(replace(VARIANTS[recipe.engine], live_norm=recipe.preset == "starter")).to(device)
    if recipe.preset == "starter":  # like looks like from the first step on
        net.KV_M_r4.Key.load_state_dict(net.KV_Q_r4.Key.state_dict())
    return SpaceTimeLearner(quicken_depthwise(net) if device.type == "cpu" else net, recipe)
