"""`maskstream train`: train or fine-tune an engine on one's own images and clips."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engines.training.recipe import Recipe
    from engines.training.tensorboard_log import TensorBoardLog
    from engines.training.trainer import StepReport

_LEARNT = 0.4
"""Share of the loss schedule that fine-tuning leaves out: what only weights from scratch need."""


def register(app: typer.Typer) -> None:
    """Add `train`."""
    app.command("train")(train_engine)


def train_engine(
    engine: Annotated[str, typer.Argument(help="Engine name.")],
    data: Annotated[Path, typer.Option("--data", exists=True, file_okay=False, help="Images with masks, and clips.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoint, log and the finished weights.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    preset: Annotated[str, typer.Option("--preset", help="starter (from scratch) or published.")] = "starter",
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Scale the recipe to this many steps.")] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0, help="Peak learning rate, if not the recipe's.")
    ] = None,
    weights: Annotated[str | None, typer.Option("--weights", help="Fine-tune these: `starter` or a path.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Seed of all that is random.")] = 0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also log to OUT/tensorboard.")] = False,
) -> None:
    """Train an engine; Ctrl-C saves, and --resume goes on to the same weights as an unbroken run."""
    from engines.registry import resolve_device
    from engines.training.learners import StartingPoint, build_learner, export_result
    from engines.training.pool import load_pool
    from engines.training.trainer import RunLimits, train

    recipe = _recipe(engine, preset, steps, rate, seed)
    if weights is not None:
        recipe = replace(recipe, begun=_LEARNT)
    pool = load_pool(data)
    typer.echo(f"{len(pool.stills)} images, {len(pool.clips)} clips, {len(pool.skipped)} skipped; {recipe.steps} steps")
    learner = build_learner(recipe, StartingPoint(resolve_device(device), weights))
    with _stop_on_interrupt() as stop, _report(recipe, out / "tensorboard" if tensorboard else None) as report:
        result = train(learner, pool, recipe, out, resume=resume, limits=RunLimits(stop=stop), report=report)
    if result.step < recipe.steps:
        typer.echo(f"stopped after {result.step} steps; go on with --resume")
        return
    target = out / f"{engine}.safetensors"
    export_result(result.average, recipe, target)
    typer.echo(f"wrote {target}; use it with `maskstream track --engine {engine} --weights {target}`")


def _recipe(engine: str, preset: str, steps: int | None, rate: float | None, seed: int) -> Recipe:
    from engines.training.learners import recipe_for

    if preset not in ("starter", "published"):
        raise InvalidInput(f"--preset is starter or published, not {preset!r}")
    recipe = replace(recipe_for(engine, preset), seed=seed)  # type: ignore[arg-type]
    if rate is not None:
        recipe = replace(recipe, rate=rate, last_rate=min(rate, recipe.last_rate))
    return recipe if steps is None else recipe.scaled(steps)


@contextmanager
def _stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """While inside, Ctrl-C and SIGTERM ask for a stop after the running step instead of breaking it."""
    import signal

    asked: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda received, _frame: asked.append(received)) for number in signals]
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _report(recipe: Recipe, tensorboard: Path | None) -> Iterator[Callable[[StepReport], None]]:
    """A progress bar, and TensorBoard events below a folder if one is given."""
    with ExitStack() as open_logs:
        reports = [open_logs.enter_context(_progress(recipe))]
        if tensorboard is not None:
            reports.append(open_logs.enter_context(_tensorboard_log(tensorboard)))

        def report(line: StepReport) -> None:
            for each in reports:
                each(line)

        yield report


def _tensorboard_log(folder: Path) -> TensorBoardLog:
    try:
        from engines.training.tensorboard_log import TensorBoardLog
    except ImportError as error:
        raise Unavailable("--tensorboard needs TensorBoard: pip install 'maskstream[train]'") from error
    return TensorBoardLog(folder)


@contextmanager
def _progress(recipe: Recipe) -> Iterator[Callable[[StepReport], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("training", total=recipe.steps)

        def report(line: StepReport) -> None:
            text = f"loss {line.loss:.3f}, rate {line.rate:.1e}, {line.seconds:.2f} s"
            bar.update(task, completed=line.step + 1, description=text)

        yield report
