"""Training recipes of AFB-URR."""

from __future__ import annotations

from engines.space_time.recipes import starter_recipe
from engines.training.clips import ClipConfig
from engines.training.recipe import Phase, PresetName, Recipe


def recipe_for(engine: str, preset: PresetName = "starter") -> Recipe:
    """The recipe of one engine. `published` presupposes a trunk trained on ImageNet."""
    return _published(engine) if preset == "published" else starter_recipe(engine, memorize_every=2)


def _published(engine: str) -> Recipe:
    """Liang et al. 2020: clips of 6 frames, at most 3 objects, 400 px, AdamW at 1e-5.

    The published rate halves every 25 epochs; here it falls by a power to about the same end.
    """
    still = ClipConfig(crop_px=400, frames=6, net_short_side=480, max_objects=3, real=0.0)
    real = ClipConfig(crop_px=400, frames=6, net_short_side=480, max_objects=3, real=1.0)
    return Recipe(
        engine,
        "published",
        (Phase(100_000, 4, still, freeze_norms=True), Phase(100_000, 4, real, freeze_norms=True)),
        rate=1e-5,
        last_rate=1e-6,
        warmup=0.0,
        weight_decay=0.01,
        memorize_every=1,
    )
