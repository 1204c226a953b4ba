"""Engine `stm` and its light variant: a space-time memory per object, read beside the previous frame.

Source: STM, Oh et al. 2019; checked by tests/parity/stm.
"""

from __future__ import annotations

import torch

from engines.catalog import CATALOG
from engines.checkpoint import load_checkpoint
from engines.protocols import EngineSpec
from engines.registry import Weights
from engines.space_time.engine import SpaceTimeEngine, SpaceTimeSettings
from engines.stm.config import VARIANTS
from engines.stm.weights import load_network

SETTINGS = SpaceTimeSettings(reads_previous=True)


def build(
    name: str, *, weights: Weights, device: torch.device, dtype: torch.dtype, deterministic: bool, compile: bool
) -> SpaceTimeEngine:
    """Load `weights` into the variant `name`. `compile` compiles the query encoder. Raises WeightsError."""
    config = VARIANTS[name]
    checkpoint = load_checkpoint(weights, name)
    network = load_network(name, checkpoint)
    if compile:
        network.Encoder_Q.compile(dynamic=True)
    spec = EngineSpec(
        info=CATALOG[name],
        net_short_side=checkpoint.integer("net_short_side", config.net_short_side),
        memorize_every=checkpoint.integer("memorize_every", config.memorize_every),
        weights_sha256=checkpoint.sha256,
        dtype=dtype,
        device=device,
        deterministic=deterministic,
    )
    return SpaceTimeEngine(spec, network, SETTINGS)
