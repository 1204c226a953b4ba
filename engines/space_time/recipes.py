"""The starter recipe that STM's and AFB-URR's light variants share."""

from __future__ import annotations

from engines.training.clips import ClipConfig
from engines.training.recipe import Phase, Recipe


def starter_recipe(engine: str, *, memorize_every: int) -> Recipe:
    """Growing crops and clips, more of them real; norms fixed at the end."""
    phases = (
        Phase(2400, 8, ClipConfig(crop_px=128, frames=3, max_objects=3, real=0.25)),
        Phase(1100, 4, ClipConfig(crop_px=192, frames=4, max_objects=3, real=0.35)),
        Phase(500, 3, ClipConfig(crop_px=224, frames=5, max_objects=3, real=0.5), freeze_norms=True),
    )
    return Recipe(engine, "starter", phases, net_short_side=320, memorize_every=memorize_every)
