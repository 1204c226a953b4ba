"""Published and starter weights of AOT and DeAOT into a network.

Published files: https://github.com/yoxu515/aot-benchmark (BSD-3-Clause), weights below `state_dict`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from engines.aot.config import VARIANTS
from engines.aot.model import AotNet
from engines.checkpoint import Checkpoint, Shapes, Weights, fit, load_checkpoint, shapes_of


def load_network(name: str, weights: Weights) -> tuple[AotNet, Checkpoint]:
    """The variant `name` with its weights, in evaluation mode, and where they came from. Raises WeightsError."""
    checkpoint = load_checkpoint(weights, name)
    net = AotNet(VARIANTS[name])
    fit(net, checkpoint, name, variants=variant_shapes)
    return net.eval().requires_grad_(False), checkpoint


def variant_shapes() -> Mapping[str, Shapes]:
    """Names and shapes of every variant's tensors, without allocating them."""
    with torch.device("meta"):
        return {name: shapes_of(AotNet(config)) for name, config in VARIANTS.items()}


@torch.no_grad()
def channels_by_distance(net: AotNet) -> tuple[int, ...]:
    """The identity channels, each one as unlike those before it as can be.

    Weights with little training tell some pairs of channels apart much better than others: early starter weights knew
    only two kinds of identity. With channels given out in this order, the first objects get those that differ.
    """
    bank = net.patch_wise_id_bank
    alone = bank.weight.sum(dim=(2, 3)).T + (
        0.0 if bank.bias is None else bank.bias
    )  # [11, 256], a cell of one channel
    vectors = alone if net.id_norm is None else net.id_norm(alone)
    unit = torch.nn.functional.normalize(vectors - vectors.mean(dim=0), dim=1)
    likeness = (unit @ unit.T).tolist()
    order = [1]
    while len(order) < len(likeness) - 1:
        rest = [channel for channel in range(1, len(likeness)) if channel not in order]
        order.append(min(rest, key=lambda channel: max(likeness[channel][taken] for taken in order)))
    return tuple(order)
