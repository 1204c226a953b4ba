"""Trained weights as the file that engines load: float16 safetensors with what belongs to the weights beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from engines.errors import WeightsError

SCHEMA = 1
STARTER_LICENCE = "CC BY-NC 4.0, see engines/starter/LICENSE.md"
_LARGEST = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class WeightsFacts:
    """What is stored beside the tensors. recipe: one line on how they were made, for people.

    AOT and DeAOT have two more. objects_per_group: most objects that share one pass; None leaves it to the engine.
    target_gain: weight of the target model, 0 for none.
    """

    engine: str
    net_short_side: int
    memorize_every: int
    recipe: str
    licence: str = STARTER_LICENCE
    objects_per_group: int | None = None
    target_gain: float = 0.0

    def metadata(self) -> dict[str, str]:
        """As safetensors keeps it."""
        return {
            "schema": str(SCHEMA),
            "engine": self.engine,
            "net_short_side": str(self.net_short_side),
            "memorize_every": str(self.memorize_every),
            **({} if self.objects_per_group is None else {"objects_per_group": str(self.objects_per_group)}),
            **({"target_gain": str(self.target_gain)} if self.target_gain else {}),
            "recipe": self.recipe,
            "licence": self.licence,
        }


def export_weights(tensors: Mapping[str, Tensor], path: Path, facts: WeightsFacts) -> None:
    """Write tensors as float16. Raises WeightsError if one is not finite or too large for it."""
    halves: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith("num_batches_tracked"):
            continue
        if tensor.is_floating_point():
            if not bool(torch.isfinite(tensor).all()) or float(tensor.abs().max()) > _LARGEST:
                raise WeightsError(f"{name} holds values that float16 cannot; the training has diverged")
            tensor = tensor.to(torch.float16)
        halves[name] = tensor.detach().cpu().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(halves, path, metadata=facts.metadata())
