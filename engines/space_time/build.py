"""From weights to an engine, for STM and AFB-URR alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from engines.catalog import CATALOG
from engines.checkpoint import Checkpoint, Weights, load_checkpoint
from engines.protocols import EngineSpec
from engines.space_time.engine import SpaceTimeEngine, SpaceTimeSettings
from engines.space_time.network import MemoryNetwork


class ServedConfig(Protocol):
    """How a variant is served when its weights do not say."""

    @property
    def net_short_side(self) -> int:
        """Short side in pixels at which it sees frames."""
        ...

    @property
    def memorize_every(self) -> int:
        """Steps from one memorised frame to the next."""
        ...


@dataclass(frozen=True)
class Family:
    """One method's variants, how its networks are loaded and its memory is kept.

    query_encoder: name of the submodule that `compile` compiles.
    """

    variants: Mapping[str, ServedConfig]
    load_network: Callable[[str, Checkpoint], MemoryNetwork]
    settings: SpaceTimeSettings
    query_encoder: str

    def build(
        self,
        name: str,
        *,
        weights: Weights,
        device: torch.device,
        dtype: torch.dtype,
        deterministic: bool,
        compile: bool,
    ) -> SpaceTimeEngine:
        """Load `weights` into the variant `name`. Raises WeightsError."""
        config = self.variants[name]
        checkpoint = load_checkpoint(weights, name)
        network = self.load_network(name, checkpoint)
        network.optimise_for_serving()
        if compile:
            network.get_submodule(self.query_encoder).compile(dynamic=True)
        spec = EngineSpec(
            info=CATALOG[name],
            net_short_side=checkpoint.integer("net_short_side", config.net_short_side),
            memorize_every=checkpoint.integer("memorize_every", config.memorize_every),
            weights_sha256=checkpoint.sha256,
            dtype=dtype,
            device=device,
            deterministic=deterministic,
        )
        return SpaceTimeEngine(spec, network, self.settings)
