"""From weights to an engine: how a variant is loaded and made ready for serving."""

from __future__ import annotations

import torch

from engines.aot.engine import PUBLISHED_ORDER, AotEngine
from engines.aot.weights import channels_by_distance, load_network
from engines.catalog import CATALOG
from engines.checkpoint import Weights
from engines.protocols import EngineSpec

PUBLISHED_SHORT_SIDE = 480
_RECIPE = "recipe"
"""Metadata that only this project's own weights carry."""


def build(
    name: str,
    *,
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
    deterministic: bool,
    compile: bool,
) -> AotEngine:
    """Load `weights` into the variant `name`. Raises WeightsError."""
    net, checkpoint = load_network(name, weights)
    order = channels_by_distance(net) if _RECIPE in checkpoint.metadata else PUBLISHED_ORDER
    net.optimise_for_serving()
    net = net.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if compile:
        net.encoder.compile()
        net.decoder.compile()
    spec = EngineSpec(
        info=CATALOG[name],
        net_short_side=checkpoint.integer("net_short_side", PUBLISHED_SHORT_SIDE),
        memorize_every=checkpoint.integer("memorize_every", net.config.memorize_every),
        weights_sha256=checkpoint.sha256,
        dtype=dtype,
        device=device,
        deterministic=deterministic,
    )
    order = order[: checkpoint.integer("objects_per_group", len(order))]
    return AotEngine(net, spec, order, target_gain=checkpoint.number("target_gain", 0.0))
