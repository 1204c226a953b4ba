"""Which engines can be trained, and how: a family's recipes and its learner, imported only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from engines.catalog import CATALOG
from engines.checkpoint import fit, load_checkpoint
from engines.errors import UnknownEngine
from engines.training.export import WeightsFacts, export_weights
from engines.training.recipe import PresetName, Recipe
from engines.training.trainer import Learner

_FAMILIES = {
    "aot": "engines.aot",
    "stm": "engines.stm",
    "afb_urr": "engines.afb_urr",
    "feelvos": "engines.feelvos",
    "spatial_embeddings": "engines.spatial_embeddings",
}
"""Family -> package with `recipes.recipe_for` and `training.build_learner`."""


def trainable_engines() -> tuple[str, ...]:
    """Engines that have a recipe."""
    return tuple(name for name, info in CATALOG.items() if info.family in _FAMILIES)


def recipe_for(engine: str, preset: PresetName = "starter") -> Recipe:
    """The recipe of an engine. Raises UnknownEngine."""
    recipe: Recipe = import_module(f"{_package(engine)}.recipes").recipe_for(engine, preset)
    return recipe


@dataclass(frozen=True)
class StartingPoint:
    """Where a run begins: the device, and weights to fine-tune, or None to begin from scratch."""

    device: torch.device
    weights: str | Path | None = None


def build_learner(recipe: Recipe, start: StartingPoint) -> Learner:
    """The network of a recipe and its losses. Raises WeightsError when the weights do not fit."""
    learner: Learner = import_module(f"{_package(recipe.engine)}.training").build_learner(recipe, start.device)
    if start.weights is not None:
        fit(learner.net, load_checkpoint(start.weights, recipe.engine), recipe.engine)
    return learner


def export_result(average: Mapping[str, Tensor], recipe: Recipe, path: Path, *, note: str = "") -> None:
    """Write what a run has learnt as a file that `engines.create(weights=...)` takes."""
    made = f"{recipe.preset} preset, {recipe.steps} steps, seed {recipe.seed}{'; ' if note else ''}{note}"
    facts = WeightsFacts(
        recipe.engine,
        recipe.net_short_side,
        recipe.memorize_every,
        made,
        licence="that of your data",
        target_gain=recipe.target_gain,
    )
    export_weights(average, path, facts)


def _package(engine: str) -> str:
    info = CATALOG.get(engine)
    if info is None or info.family not in _FAMILIES:
        raise UnknownEngine(f"{engine!r} cannot be trained here; these can: {', '.join(trainable_engines())}")
    return _FAMILIES[info.family]
