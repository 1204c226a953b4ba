"""The training loop: batches in, weights and a log out. Knows no engine; a Learner does.

Everything random in a step is a function of (seed, step), and a checkpoint holds weights, optimiser and weight average:
a resumed run ends with the same weights as an unbroken one.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engines.errors import StateMismatch
from engines.training.clips import ClipBatch, ClipGenerator
from engines.training.pool import TrainingPool
from engines.training.recipe import Recipe

Parts = Mapping[str, float]
CHECKPOINT = "checkpoint.pt"
LOG_FILE = "log.csv"


class Learner(Protocol):
    """A network and its losses, as the trainer needs them."""

    @property
    def net(self) -> nn.Module:
        """What is trained."""
        ...

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, Parts]:
        """Loss of one batch at a step of the schedule, and its parts for the log."""
        ...

    def is_encoder(self, name: str) -> bool:
        """Whether a parameter belongs to the trunk, which may learn at a rate of its own."""
        ...


@dataclass(frozen=True)
class StepReport:
    """One line of the log."""

    step: int
    loss: float
    rate: float
    seconds: float
    parts: Parts


@dataclass(frozen=True)
class RunLimits:
    """Where a call of train() ends, and how often it saves: at a step, after so many seconds, or when told to."""

    until_step: int | None = None
    max_seconds: float | None = None
    checkpoint_seconds: float = 180.0
    stop: Callable[[], bool] | None = None


@dataclass(frozen=True)
class TrainingResult:
    """Steps done in all, and the averaged weights."""

    step: int
    average: Mapping[str, Tensor]


def train(
    learner: Learner,
    pool: TrainingPool,
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    limits: RunLimits | None = None,
    report: Callable[[StepReport], None] | None = None,
) -> TrainingResult:
    """Run the recipe, or a part of it as `limits` say; `out` gets checkpoint.pt and log.csv.

    Raises StateMismatch when the checkpoint to resume is of another recipe.
    """
    limits = limits or RunLimits()
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(learner, recipe, out)
    if resume and (out / CHECKPOINT).is_file():
        run.load()
    last = min(recipe.steps, limits.until_step or recipe.steps)
    began = saved = time.monotonic()
    for batch in _batches(pool, recipe, run.step, last):
        if limits.stop and limits.stop():
            break
        line = run.advance(batch)
        if report:
            report(line)
        now = time.monotonic()
        if now - saved > limits.checkpoint_seconds:
            run.save()
            saved = now
        if limits.max_seconds is not None and now - began > limits.max_seconds:
            break
    run.save()
    return TrainingResult(run.step, dict(run.average))


def _batches(pool: TrainingPool, recipe: Recipe, first: int, last: int) -> Iterator[ClipBatch]:
    """The batches of steps first..last-1; the next one is made while the caller works on this one."""
    generators = {phase: ClipGenerator(pool, phase.clips, seed=recipe.seed) for phase in recipe.phases}

    def make(step: int) -> ClipBatch:
        phase = recipe.phase_at(step)
        return generators[phase].batch(step, phase.batch)

    with ThreadPoolExecutor(max_workers=1) as ahead:
        waiting = ahead.submit(make, first)
        for step in range(first, last):
            batch = waiting.result()
            if step + 1 < last:
                waiting = ahead.submit(make, step + 1)
            yield batch


class _Run:
    """State of one run: step, optimiser, weight average."""

    def __init__(self, learner: Learner, recipe: Recipe, out: Path) -> None:
        self.learner, self.recipe, self.out = learner, recipe, out
        self.step = 0
        self.optimiser = _optimiser(learner, recipe)
        self.average = {name: value.detach().clone() for name, value in learner.net.state_dict().items()}
        self.device = next(learner.net.parameters()).device

    def advance(self, batch: ClipBatch) -> StepReport:
        """One step of the optimiser."""
        began = time.monotonic()
        recipe, net = self.recipe, self.learner.net
        seed = recipe.seed * 1_000_003 + self.step
        torch.manual_seed(seed)
        net.train()
        if recipe.phase_at(self.step).freeze_norms:
            _freeze_norms(net)
        rate = recipe.rate_at(self.step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        batch = ClipBatch(*(x.to(self.device) for x in (batch.frames, batch.labels, batch.origin)))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss, parts = self.learner.loss(batch, self.step, torch.Generator().manual_seed(seed))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), recipe.clip_norm)
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
        self._average()
        took = time.monotonic() - began
        line = StepReport(self.step, float(loss.detach()), rate, took, {**parts, "norm": float(norm)})
        self._log(line)
        self.step += 1
        return line

    def _average(self) -> None:
        decay = self.recipe.ema_at(self.step)
        for name, value in self.learner.net.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1 - decay)
            else:
                self.average[name].copy_(value)

    def _log(self, line: StepReport) -> None:
        path = self.out / LOG_FILE
        fresh = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if fresh:
                writer.writerow(["step", "loss", "rate", "seconds", *line.parts])
            values = (line.loss, line.rate, line.seconds, *line.parts.values())
            writer.writerow([line.step, *(f"{value:.6g}" for value in values)])

    def save(self) -> None:
        """Write the checkpoint; a reader sees the old one or the new one, never half."""
        state: dict[str, Any] = {
            "recipe": repr(self.recipe),
            "step": self.step,
            "net": self.learner.net.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
        }
        partial = self.out / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(self.out / CHECKPOINT)

    def load(self) -> None:
        """Go on from the checkpoint."""
        state = torch.load(self.out / CHECKPOINT, map_location="cpu", weights_only=True)
        if state["recipe"] != repr(self.recipe):
            raise StateMismatch(
                f"{self.out / CHECKPOINT} is of another recipe; give the same settings or a fresh folder. "
                f"Its recipe: {state['recipe']}"
            )
        self.learner.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average = {name: value.to(self.device) for name, value in state["average"].items()}
        self.step = int(state["step"])


def _optimiser(learner: Learner, recipe: Recipe) -> torch.optim.Optimizer:
    groups = _parameter_groups(learner, recipe)
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.rate)


def _parameter_groups(learner: Learner, recipe: Recipe) -> list[dict[str, Any]]:
    """Four groups: trunk or not, decayed or not (norms, biases and tables of one axis are not)."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in learner.net.named_parameters():
        if parameter.requires_grad:
            decayed = parameter.ndim > 1 and "relative_emb" not in name and "id_bank" not in name
            groups.setdefault((learner.is_encoder(name), decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "scale": recipe.encoder_rate if encoder else 1.0,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
        }
        for (encoder, decayed), parameters in groups.items()
    ]


def _freeze_norms(net: nn.Module) -> None:
    for module in net.modules():
        if hasattr(module, "running_mean"):
            module.eval()
