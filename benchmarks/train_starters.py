"""Train the starter weights of stm-t, afb-urr-t and feelvos-t, whose trunks come from another starter, and end deaot-t.

    python -m benchmarks.train_starters feelvos-t --data DATA --out RUN
    python -m benchmarks.train_starters stm-t --data DATA --out RUN2
    python -m benchmarks.train_starters afb-urr-t --data DATA --out RUN3 --donor RUN2/stm-t.safetensors
    python -m benchmarks.train_starters deaot-t --data DATA --out RUN4 --donor RUN0/deaot-t.safetensors
    python -m benchmarks.train_starters deaot-t-again --data DATA --out RUN5 --donor RUN4/deaot-t.safetensors

DATA as for `maskstream train`. Ctrl-C saves; the same command goes on. The shipped files (docs/model-card.md) were
made with these recipes, except that stm-t and afb-urr-t were read at softness 1 and their keys scaled in the end.
deaot-t's begin where `maskstream train deaot-t --data DATA --out RUN0` ends, and teach it its target model in two
rounds. Some clips are held out for choices; `--all-clips` trains on them too, with settings that are settled.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from engines.checkpoint import STARTER_DIR
from engines.training.clips import ClipConfig
from engines.training.learners import StartingPoint, build_learner, export_result, recipe_for
from engines.training.pool import load_pool
from engines.training.recipe import Phase, Recipe
from engines.training.trainer import RunLimits, StepReport, train

HELD_OUT = ("breakdance-flare", "bus", "horsejump-low", "mallard-water", "scooter-gray", "soccerball")
"""Clips on which choices were made; never trained on."""


def _small(crop_px: int, **changes: float) -> ClipConfig:
    base = ClipConfig(crop_px=crop_px, frames=3, max_objects=3, real=0.4)
    return replace(base, **changes)  # type: ignore[arg-type]


def _large(crop_px: int, **changes: float) -> ClipConfig:
    base = ClipConfig(crop_px=crop_px, frames=3, net_short_side=320, real=0.35, in_place=0.3, composite=0.45)
    return replace(base, **changes)  # type: ignore[arg-type]


_FIRST = {"max_objects": 2, "real": 0.25, "in_place": 0.3, "composite": 0.5}

PHASES: dict[str, tuple[Phase, ...]] = {
    "stm-t": (
        Phase(1100, 6, _small(128, **_FIRST)),
        Phase(350, 4, _small(192)),
        Phase(150, 3, _small(224, frames=4, real=0.5), freeze_norms=True),
    ),
    "afb-urr-t": (
        Phase(320, 5, _small(128, **_FIRST)),
        Phase(110, 3, _small(192)),
        Phase(40, 3, _small(224, real=0.5), freeze_norms=True),
    ),
    "feelvos-t": (
        Phase(550, 4, _small(129, net_short_side=320, **_FIRST)),
        Phase(200, 3, _small(177, net_short_side=320)),
        Phase(60, 3, _small(225, net_short_side=320, max_objects=4, real=0.5), freeze_norms=True),
    ),
    "deaot-t": (
        Phase(520, 5, _large(193), freeze_norms=True),
        Phase(380, 3, _large(257, frames=4, real=0.4), freeze_norms=True),
        Phase(180, 2, _large(289, frames=5, real=0.5), freeze_norms=True),
    ),
    "deaot-t-again": (
        Phase(400, 4, _large(225, real=0.4), freeze_norms=True),
        Phase(320, 3, _large(257, frames=4, real=0.45), freeze_norms=True),
        Phase(200, 2, _large(289, frames=5, real=0.5), freeze_norms=True),
    ),
}


SETTINGS: dict[str, dict[str, float]] = {
    "stm-t": {"ema": 0.995},
    "afb-urr-t": {"rate": 6e-4},
    "feelvos-t": {},
    "deaot-t": {"rate": 7e-4, "encoder_rate": 1.0, "begun": 0.4},
    "deaot-t-again": {"rate": 6e-4, "encoder_rate": 1.0, "begun": 0.5, "warmup": 0.05},
}
"""What differs between the recipes besides their phases."""


def starter_recipe(name: str, seed: int) -> Recipe:
    """The recipe that a starter was trained with."""
    changes = {"rate": 1e-3, "ema": 0.99, "warmup": 0.03, "encoder_rate": 0.5, "seed": seed} | SETTINGS[name]
    return replace(recipe_for(engine_of(name)), phases=PHASES[name], **changes)  # type: ignore[arg-type]


def engine_of(name: str) -> str:
    """The engine that a recipe trains."""
    return name.removesuffix("-again")


def from_deaot(name: str) -> str:
    """The tensor of a DeAOT file that a trunk's tensor is copied from; other names come back as they are not there."""
    for prefix in ("Encoder_Q.", "Encoder_M.", "trunk.mobilenet."):
        if name.startswith(prefix):
            return "encoder." + name.removeprefix(prefix)
    return ""


def from_stm(name: str) -> str:
    """The tensor of an STM file that one of AFB-URR's is copied from."""
    heads = {"keyval_r4.Key": "KV_Q_r4.Key", "keyval_r4.Value": "KV_M_r4.Value"}
    for own, theirs in {"encoder_m": "Encoder_M", "encoder_q": "Encoder_Q", "decoder": "Decoder", **heads}.items():
        if name.startswith(f"{own}."):
            return theirs + name.removeprefix(own)
    return ""


DONORS: dict[str, Callable[[str], str]] = {
    "feelvos-t": from_deaot,
    "stm-t": from_deaot,
    "afb-urr-t": from_stm,
    "deaot-t": str,
    "deaot-t-again": str,
}
"""For each recipe, from the name of a tensor to its name in the donor."""


def grafted(
    own: Mapping[str, Tensor], donor: Mapping[str, Tensor], source_of: Callable[[str], str]
) -> dict[str, Tensor]:
    """`own` with every tensor that the donor has in the same shape."""
    taken = {name: donor[source_of(name)] for name in own if source_of(name) in donor}
    fitting = {name: value.to(own[name].dtype) for name, value in taken.items() if value.shape == own[name].shape}
    if not fitting:
        raise SystemExit("the donor has nothing that fits")
    print(f"{len(fitting)} of {len(own)} tensors from the donor")
    return {**own, **fitting}


def main() -> None:
    """Train, or go on, and write the finished weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=tuple(PHASES))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--donor", type=Path, default=STARTER_DIR / "deaot-t.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all-clips", action="store_true", help="hold none out")
    options = parser.parse_args()
    recipe = starter_recipe(options.recipe, options.seed)
    learner = build_learner(recipe, StartingPoint(torch.device("cpu")))
    learner.net.load_state_dict(grafted(learner.net.state_dict(), load_file(options.donor), DONORS[options.recipe]))
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: asked.append(received))
    pool = load_pool(options.data).without_clips(frozenset() if options.all_clips else frozenset(HELD_OUT))
    limits = RunLimits(stop=lambda: bool(asked), checkpoint_seconds=60)
    result = train(learner, pool, recipe, options.out, resume=True, limits=limits, report=_say)
    if result.step == recipe.steps:
        export_result(result.average, recipe, options.out / f"{recipe.engine}.safetensors")


def _say(line: StepReport) -> None:
    if line.step % 20 == 0:
        print(f"step {line.step}: loss {line.loss:.3f}, {line.seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()
