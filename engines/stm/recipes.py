"""Training recipes of STM."""

from __future__ import annotations

from engines.space_time.recipes import starter_recipe
from engines.training.clips import ClipConfig
from engines.training.recipe import Phase, PresetName, Recipe


def recipe_for(engine: str, preset: PresetName = "starter") -> Recipe:
    """The recipe of one engine. `published` presupposes a trunk trained on ImageNet."""
    return _published(engine) if preset == "published" else starter_recipe(engine, memorize_every=5)


def _published(engine: str) -> Recipe:
    """Oh et al. 2019: synthetic clips of 3 frames, then real ones with a gap of up to 25; 384 px, Adam at 1e-5."""
    still = ClipConfig(crop_px=384, frames=3, net_short_side=480, max_objects=3, real=0.0)
    real = ClipConfig(crop_px=384, frames=3, net_short_side=480, max_objects=3, real=1.0, max_gap=25)
    return Recipe(
        engine,
        "published",
        (Phase(100_000, 4, still, freeze_norms=True), Phase(100_000, 4, real, freeze_norms=True)),
        rate=1e-5,
        last_rate=1e-5,
        warmup=0.0,
        weight_decay=0.0,
    )
