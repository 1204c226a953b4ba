"""Published STM weights: their licence, and what each variant of this family loads.

The published file (seoungwugoh/STM) carries the same names behind a data-parallel prefix.
"""

from __future__ import annotations

import torch

from engines.checkpoint import Checkpoint, Shapes, fit, shapes_of
from engines.stm.config import VARIANTS
from engines.stm.model import StmNetwork

LICENCE = "CC BY-NC-SA 4.0"


def load_network(name: str, checkpoint: Checkpoint) -> StmNetwork:
    """The network of a variant with these weights, strictly. Raises WeightsError."""
    network = StmNetwork(VARIANTS[name])
    fit(network, checkpoint, name, variants=_all_shapes)
    return network


def _all_shapes() -> dict[str, Shapes]:
    with torch.device("meta"):
        return {name: shapes_of(StmNetwork(config)) for name, config in VARIANTS.items()}
