"""Engine `afb-urr` and its light variant: a feature bank per channel, refinement where in doubt.

Source: AFB-URR, Liang et al. 2020; checked by tests/parity/afb_urr.
"""

from __future__ import annotations

import torch

from engines.afb_urr.config import VARIANTS
from engines.afb_urr.weights import load_network
from engines.catalog import CATALOG
from engines.checkpoint import load_checkpoint
from engines.protocols import EngineSpec
from engines.registry import Weights
from engines.space_time.engine import SpaceTimeEngine, SpaceTimeSettings

SETTINGS = SpaceTimeSettings(reads_previous=False, update_rate=0.1, merge_threshold=0.95)


def build(
    name: str, *, weights: Weights, device: torch.device, dtype: torch.dtype, deterministic: bool, compile: bool
) -> SpaceTimeEngine:
    """Load `weights` into the variant `name`. `compile` compiles the query encoder. Raises WeightsError."""
    config = VARIANTS[name]
    checkpoint = load_checkpoint(weights, name)
    network = load_network(name, checkpoint)
    if compile:
        network.encoder_q.compile(dynamic=True)
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
