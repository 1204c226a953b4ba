"""Published and starter weights of AOT and DeAOT into a network.

Published files: https://github.com/yoxu515/aot-benchmark (BSD-3-Clause), weights below `state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engines.aot.config import VARIANTS
from engines.aot.model import AotNet
from engines.checkpoint import Checkpoint, Shapes, fit, load_checkpoint, shapes_of


def load_network(name: str, weights: str | Path | Mapping[str, Tensor]) -> tuple[AotNet, Checkpoint]:
    """The variant `name` with its weights, in evaluation mode, and where they came from. Raises WeightsError."""
    checkpoint = load_checkpoint(weights, name)
    net = AotNet(VARIANTS[name])
    fit(net, checkpoint, name, variants=variant_shapes)
    return net.eval().requires_grad_(False), checkpoint


def variant_shapes() -> Mapping[str, Shapes]:
    """Names and shapes of every variant's tensors, without allocating them."""
    with torch.device("meta"):
        return {name: shapes_of(AotNet(config)) for name, config in VARIANTS.items()}
