"""Recipes: everything that decides a training run, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from engines.training.clips import ClipConfig

PresetName = Literal["starter", "published"]


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with one kind of batch. freeze_norms: batch norms keep their statistics."""

    steps: int
    batch: int
    clips: ClipConfig
    freeze_norms: bool = False


@dataclass(frozen=True)
class Recipe:
    """One engine's training.

    rate falls from `rate` to `last_rate` by a power after a linear warm-up (a share of all steps). encoder_rate scales
    it for the trunk. ema: decay of the weight average, which is what gets exported. precision: autocast dtype.
    net_short_side, memorize_every, target_gain: how the result is served; they are stored in its file. target_gain is
    the weight of AOT's and DeAOT's target model, 0 for none. optimiser: "sgd" has a momentum of 0.9. begun: share of
    the loss schedule that lies behind the first step, for weights that have learnt.
    """

    engine: str
    preset: PresetName
    phases: tuple[Phase, ...]
    rate: float = 1e-3
    last_rate: float = 1e-5
    power: float = 0.9
    warmup: float = 0.05
    encoder_rate: float = 1.0
    weight_decay: float = 0.05
    clip_norm: float = 5.0
    ema: float = 0.999
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    net_short_side: int = 480
    memorize_every: int = 5
    target_gain: float = 0.0
    begun: float = 0.0
    optimiser: Literal["adamw", "sgd"] = field(default="adamw", repr=False)  # checkpoints know a recipe by its repr

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def scaled(self, steps: int) -> Recipe:
        """The same recipe in about so many steps, all phases shortened or stretched alike; very short ones drop out."""
        if steps < 1:
            raise ValueError(f"a recipe has at least one step, not {steps}")
        share = steps / self.steps
        phases = [replace(phase, steps=round(phase.steps * share)) for phase in self.phases]
        kept = tuple(phase for phase in phases if phase.steps) or (replace(self.phases[0], steps=1),)
        return replace(self, phases=kept)

    def phase_at(self, step: int) -> Phase:
        """The phase that a step belongs to."""
        for phase in self.phases:
            if step < phase.steps:
                return phase
            step -= phase.steps
        return self.phases[-1]

    def progress_at(self, step: int) -> float:
        """Where in the loss schedule a step is, 0..1."""
        return self.begun + (1 - self.begun) * step / self.steps

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.rate * (step + 1) / warm
        left = max(0.0, 1 - (step - warm) / max(1, self.steps - warm))
        return self.last_rate + (self.rate - self.last_rate) * math.pow(left, self.power)

    def ema_at(self, step: int) -> float:
        """Decay of the weight average; shorter at the start, so that it does not hold on to the initial weights."""
        return min(self.ema, (1 + step) / (10 + step))
