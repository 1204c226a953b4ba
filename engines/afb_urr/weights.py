"""Published AFB-URR weights: their licence, and what each variant of this family loads.

The published file (xmlyqing00/AFB-URR) carries the same names under "model".
"""

from __future__ import annotations

import torch

from engines.afb_urr.config import VARIANTS
from engines.afb_urr.model import AfbUrrNetwork
from engines.checkpoint import Checkpoint, Shapes, fit, shapes_of

LICENCE = "academic use only"


def load_network(name: str, checkpoint: Checkpoint) -> AfbUrrNetwork:
    """The network of a variant with these weights, strictly. Raises WeightsError."""
    network = AfbUrrNetwork(VARIANTS[name])
    fit(network, checkpoint, name, variants=_all_shapes)
    return network


def _all_shapes() -> dict[str, Shapes]:
    with torch.device("meta"):
        return {name: shapes_of(AfbUrrNetwork(config)) for name, config in VARIANTS.items()}
