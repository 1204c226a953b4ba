"""Training recipes of AOT and DeAOT."""

from __future__ import annotations

from engines.aot.config import VARIANTS
from engines.training.clips import ClipConfig
from engines.training.recipe import Phase, PresetName, Recipe

_PUBLISHED_STEPS = 100_000
_TARGET_GAIN = 3.0
"""Weight of the target model in the logits; the published recipes have none."""


def recipe_for(engine: str, preset: PresetName = "starter") -> Recipe:
    """The recipe of one engine. `published` presupposes a trunk trained on ImageNet."""
    return _published(engine) if preset == "published" else _starter(engine)


def _starter(engine: str) -> Recipe:
    phases = (
        Phase(2400, 8, ClipConfig(crop_px=129, frames=3, real=0.2, in_place=0.25, composite=0.55)),
        Phase(1100, 4, ClipConfig(crop_px=193, frames=4, real=0.35)),
        Phase(560, 3, ClipConfig(crop_px=225, frames=5, real=0.5), freeze_norms=True),
    )
    gap = VARIANTS[engine].memorize_every
    return Recipe(engine, "starter", phases, net_short_side=320, memorize_every=gap, target_gain=_TARGET_GAIN)


def _published(engine: str) -> Recipe:
    """Yang et al. 2021 and 2022, the second stage on real clips; batch 16, 465 px, 5 frames."""
    gated = "deaot" in engine
    still = ClipConfig(crop_px=465, frames=5, net_short_side=480, max_objects=10, real=0.0)
    real = ClipConfig(crop_px=465, frames=5, net_short_side=480, max_objects=10, real=1.0, max_gap=12)
    return Recipe(
        engine,
        "published",
        (
            Phase(_PUBLISHED_STEPS, 16, still, freeze_norms=True),
            Phase(_PUBLISHED_STEPS, 16, real, freeze_norms=True),
        ),
        rate=2e-4 if gated else 4e-4,
        last_rate=1e-5 if "r50" in engine else 2e-5,
        encoder_rate=0.1,
        weight_decay=0.07 if gated else 0.03,
        ema=1 - 1 / (0.1 * _PUBLISHED_STEPS),
        memorize_every=VARIANTS[engine].memorize_every,
    )
