"""Training recipes of SpatialEmbeddings."""

from __future__ import annotations

from engines.training.clips import ClipConfig
from engines.training.recipe import Phase, PresetName, Recipe

_SAMPLES, _EPOCHS, _BATCH = 3000, 200, 16


def recipe_for(engine: str, preset: PresetName = "starter") -> Recipe:
    """The recipe of one engine. No regions as objects in either: they are stuff, not things."""
    return _published(engine) if preset == "published" else _starter(engine)


def _starter(engine: str) -> Recipe:
    scenes = ClipConfig(crop_px=200, frames=2, net_short_side=240, real=0.15, in_place=0.5, composite=0.5)
    larger = ClipConfig(crop_px=256, frames=2, net_short_side=240, real=0.15, in_place=0.5, composite=0.5)
    return Recipe(
        engine,
        "starter",
        (Phase(4000, 4, scenes), Phase(800, 3, larger, freeze_norms=True)),
        rate=5e-4,
        weight_decay=1e-4,
        warmup=0.02,
        ema=0.998,
        net_short_side=240,
    )


def _published(engine: str) -> Recipe:
    """Neven et al. 2019: 200 epochs of 3,000 crops of 512 px, then as many of 1,024 px. Stills, no paste."""
    steps = _EPOCHS * _SAMPLES // _BATCH
    near = ClipConfig(crop_px=512, frames=1, net_short_side=1024, real=0.0, in_place=1.0, composite=0.0)
    far = ClipConfig(crop_px=1024, frames=1, net_short_side=1024, real=0.0, in_place=1.0, composite=0.0)
    return Recipe(
        engine,
        "published",
        (Phase(steps, _BATCH, near), Phase(steps, _BATCH, far)),
        rate=5e-4,
        last_rate=0.0,
        weight_decay=1e-4,
        warmup=0.0,
        ema=0.0,
        net_short_side=1024,
    )
