"""`maskstream weights list | fetch | convert`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_COLUMNS = ("name", "licence", "published score", "here")
weights = typer.Typer(help="Published checkpoints: list, fetch, convert.", no_args_is_help=True)

_Folder = Annotated[Path | None, typer.Option("--dir", help="Folder of weights; default MASKSTREAM_WEIGHTS_DIR.")]


def register(app: typer.Typer) -> None:
    """Add `weights` and its sub-commands."""
    app.add_typer(weights, name="weights")


@weights.command("list")
def list_weights(folder: _Folder = None) -> None:
    """Every published checkpoint: licence, published score, and the hash of those that are here."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Column, Table

    from service.weights.cache import WeightsCache
    from service.weights.published import PUBLISHED

    cache = WeightsCache(folder)
    table = Table(*(Column(title, no_wrap=title != "published score") for title in _COLUMNS), box=SIMPLE)
    for entry in PUBLISHED:
        digest = cache.recorded_sha256(entry) or "yes"
        here = digest[:8] if cache.path_of(entry).is_file() else "-"
        table.add_row(entry.name, entry.licence, entry.score, here)
    console = Console()
    console.print(table)
    console.print(f"folder: {cache.folder}", soft_wrap=True)


def _advance(bar: Progress, task: TaskID, done: int, total: int | None) -> None:
    bar.update(task, completed=done, total=total)


@weights.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A name of `maskstream weights list`.")],
    local_file: Annotated[Path | None, typer.Option("--from", help="A file you have; no network is used.")] = None,
    accept_new: Annotated[bool, typer.Option("--accept-new", help="Take a file of another hash than before.")] = False,
    folder: _Folder = None,
) -> None:
    """Fetch a published checkpoint, check it and convert it; an interrupted fetch goes on where it broke off."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    from service.weights.cache import WeightsCache
    from service.weights.published import published

    cache, entry = WeightsCache(folder), published(name)
    for wanted in (entry, *(cache.missing(entry) if local_file is None else ())):
        typer.echo(f"{wanted.name}: {wanted.licence}, {wanted.page}")
        with Progress("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn()) as bar:
            task = bar.add_task(wanted.name, total=None)
            stored = cache.fetch(
                wanted,
                local_file=local_file,
                accept_new=accept_new,
                progress=partial(_advance, bar, task),
            )
        typer.echo(f"{stored.path}\nsha256 of the published file: {stored.published_sha256}")
    for wanted in cache.missing(entry):
        typer.echo(f"It also needs {wanted.name}: `maskstream weights fetch {wanted.name} [--from FILE]`")


@weights.command("convert")
def convert_file(
    source: Annotated[Path, typer.Argument(help="A checkpoint as it is published.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    name: Annotated[str, typer.Option("--name", help="What it is: a name of `maskstream weights list`.")],
) -> None:
    """Convert a published checkpoint to safetensors, after its engine has loaded it strictly."""
    from service.weights.convert import convert
    from service.weights.published import published

    convert(source, target, published(name))
    typer.echo(str(target))
