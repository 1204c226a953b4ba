"""`maskstream eval`: J&F of an engine on annotated clips, with the two floors beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from engines.training.evaluate import Report, Segmenter
    from engines.training.evaluation_clips import AnnotatedClip


def register(app: typer.Typer) -> None:
    """Add `eval`."""
    app.command("eval")(evaluate_engine)


def evaluate_engine(
    engine: Annotated[str, typer.Argument(help="Engine name, or `floors` for the two floors alone.")] = "deaot-t",
    clips: Annotated[
        Path, typer.Option("--clips", exists=True, file_okay=False, help="Folder of annotated clips.")
    ] = Path(),
    weights: Annotated[str, typer.Option("--weights", help="`starter`, or the path of a checkpoint.")] = "starter",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    floors: Annotated[bool, typer.Option("--floors/--no-floors", help="Score copying and optical flow too.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all scores to this file.")] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Also write the masks below this folder.")] = None,
) -> None:
    """Score an engine by region similarity J and contour accuracy F, as DAVIS defines them."""
    from rich.console import Console

    from engines.training.evaluate import FLOORS, report_json
    from engines.training.evaluation_clips import find_clips

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InvalidInput(f"there is no folder {json_file.parent} to write {json_file.name} into; make it first")
    found, left_out = find_clips(clips)
    segmenters: dict[str, Segmenter] = dict(FLOORS) if floors or engine == "floors" else {}
    if engine != "floors":
        segmenters = {engine: _segmenter(engine, weights, device), **segmenters}
    reports = [_run(name, segmenter, found, save) for name, segmenter in segmenters.items()]
    if json_file is not None:
        json_file.write_text(json.dumps(report_json(reports), indent=2) + "\n", encoding="utf-8")
    console = Console()
    console.print(score_table(reports))
    for reason in left_out:
        console.print(f"left out: {reason}", style="dim")


def _segmenter(engine: str, weights: str, device: str) -> Segmenter:
    from engines.registry import create
    from engines.training.evaluate import engine_segmenter

    return engine_segmenter(create(engine, weights=weights, device=device))


def _run(name: str, segmenter: Segmenter, clips: Sequence[AnnotatedClip], save: Path | None) -> Report:
    from rich.progress import Progress

    from engines.training.evaluate import evaluate

    with Progress(transient=True) as bar:
        task = bar.add_task(name, total=sum(len(clip.frame_paths) for clip in clips))
        return evaluate(
            name,
            segmenter,
            clips,
            save=None if save is None else save / name,
            progress=lambda clip, _done, _all: bar.update(task, advance=1, description=f"{name}: {clip}"),
        )


def score_table(reports: Sequence[Report]) -> Table:
    """One row per clip and object, one column per segmenter; per cent."""
    from rich.table import Table

    table = Table(title="J&F (J / F)")
    table.add_column("clip")
    table.add_column("object", justify="right")
    for report in reports:
        table.add_column(report.segmenter, justify="right")
    for index, clip in enumerate(reports[0].clips):
        name = f"{clip.name} (composite, not in the mean)" if clip.composite else clip.name
        for place, score in enumerate(clip.objects):
            cells = [report.clips[index].objects[place] for report in reports]
            table.add_row(name, str(score.object_id), *(_cell(c.mean, c.region, c.contour) for c in cells))
    table.add_section()
    table.add_row("mean", "", *(_cell(r.mean(), r.mean("region"), r.mean("contour")) for r in reports))
    return table


def _cell(mean: float, region: float, contour: float) -> str:
    return f"{100 * mean:.1f} ({100 * region:.1f} / {100 * contour:.1f})"
