"""Training recipes of FEELVOS."""

from __future__ import annotations

from engines.training.clips import ClipConfig
from engines.training.recipe import Phase, PresetName, Recipe

_SERVED_PX = 320
_REFERENCES_ONLY = 9999
"""Steps between memorised frames: none but the references, as in training."""


def recipe_for(engine: str, preset: PresetName = "starter") -> Recipe:
    """The recipe of one engine. `published` presupposes a trunk trained on ImageNet and COCO."""
    return _published(engine) if preset == "published" else _starter(engine)


def _starter(engine: str) -> Recipe:
    phases = (
        Phase(2000, 6, ClipConfig(crop_px=129, frames=3, net_short_side=_SERVED_PX, real=0.25)),
        Phase(900, 4, ClipConfig(crop_px=193, frames=3, net_short_side=_SERVED_PX, real=0.35)),
        Phase(400, 3, ClipConfig(crop_px=225, frames=4, net_short_side=_SERVED_PX, real=0.5), freeze_norms=True),
    )
    return Recipe(engine, "starter", phases, net_short_side=_SERVED_PX, memorize_every=_REFERENCES_ONLY)


def _published(engine: str) -> Recipe:
    """Voigtlaender et al. 2019: batches of three clips of three frames, SGD with momentum, no weight average.

    The rate falls by DeepLab's power of 0.9; weight decay is DeepLab's.
    """
    clips = ClipConfig(crop_px=465, frames=3, net_short_side=480, max_objects=10, real=1.0, leave=0.0)
    return Recipe(
        engine,
        "published",
        (Phase(200_000, 3, clips, freeze_norms=True),),
        rate=7e-4,
        last_rate=0.0,
        warmup=0.0,
        weight_decay=4e-5,
        optimiser="sgd",
        ema=0.0,
        memorize_every=_REFERENCES_ONLY,
    )
