"""`maskstream track`: segment one video here and now, without a server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.cli.first_frame import FirstFrame, Given, exemplar_pairs, resolve_first_frame
from service.cli.reference_options import Boxes, ExemplarMasks, Exemplars, Masks, Points, Texts
from service.errors import InvalidInput
from service.wording import counted

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engines.protocols import Engine
    from engines.types import MemoryPolicy
    from service.media.reader import VideoFrame, VideoInfo
    from service.settings import Settings
    from service.worker.frames import FrameSource


def register(app: typer.Typer) -> None:
    """Add `track`."""
    app.command()(track)


def track(
    video: Annotated[Path, typer.Argument(exists=True, help="Video file, or folder or zip of numbered images.")],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the mask PNGs.")],
    mask: Masks = None,
    text: Texts = None,
    box: Boxes = None,
    point: Points = None,
    exemplar: Exemplars = None,
    exemplar_mask: ExemplarMasks = None,
    max_objects: Annotated[
        int, typer.Option("--max-objects", min=1, max=50, help="Most objects to find when none is given.")
    ] = 3,
    engine: Annotated[str, typer.Option("--engine", help="Engine name; the default engine if left out.")] = "",
    weights: Annotated[
        str, typer.Option("--weights", help="`auto` (fetched, else starter), `starter`, or a checkpoint file.")
    ] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    memory: Annotated[str, typer.Option("--memory", help="adaptive, window or every_k.")] = "adaptive",
    budget_mib: Annotated[float | None, typer.Option("--budget-mib", help="Most memory of the feature bank.")] = None,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write overlay.mp4 into the folder.")] = False,
) -> None:
    """Segment a video from what is given of its first frame; writes one indexed PNG per frame.

    With neither mask, text, box, point nor exemplar, the objects that stand out are found and followed.
    """
    from engines.catalog import DEFAULT_ENGINE
    from engines.prompts.resolver import ReferenceResolver
    from engines.registry import create
    from service.cli.serve import read_settings
    from service.worker.child_frames import DecodeLimits
    from service.worker.frames import FrameSource

    if output.resolve() == video.resolve():
        raise InvalidInput(
            f"{output} holds the frames, which masks of the same names would overwrite; name another folder"
        )
    pairs = exemplar_pairs(exemplar or [], exemplar_mask or [])
    policy, settings = _policy(memory, budget_mib), read_settings()
    given = Given(tuple(mask or ()), tuple(box or ()), tuple(point or ()), tuple(text or ()), max_objects, pairs)
    limits, facts = DecodeLimits.of(settings), _facts(video, settings)
    loaded = create(engine or DEFAULT_ENGINE, weights=weights, device=device)
    reference = resolve_first_frame(given, video, limits, loaded, ReferenceResolver(device))
    for warning in reference.warnings:
        typer.secho(warning, fg=typer.colors.YELLOW, err=True)
    with FrameSource(video, limits) as source:
        output.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        frames = _save(_segment(loaded, source, reference, policy), facts, output, overlay)
    elapsed_s = time.monotonic() - started
    typer.echo(f"{counted(frames, 'mask')} in {output} ({frames / elapsed_s:.1f} frames per second)")
    _warn_of_older(output, frames)


def _facts(video: Path, settings: Settings) -> VideoInfo:
    """Length and frame rate. Raises UnreadableVideo, UnsupportedMedia."""
    import asyncio

    from service.api.prober import Prober

    async def ask() -> VideoInfo:
        prober = Prober(settings)
        try:
            return await prober.probe(video.resolve())
        finally:
            await prober.close()

    return asyncio.run(ask())


def _policy(kind: str, budget_mib: float | None) -> MemoryPolicy:
    from engines.types import MemoryPolicy

    if kind not in ("adaptive", "window", "every_k"):
        raise InvalidInput(f"--memory is adaptive, window or every_k, not {kind!r}")
    if budget_mib is not None and budget_mib <= 0:
        raise InvalidInput(f"--budget-mib must be more than 0, not {budget_mib:g}")
    return MemoryPolicy(kind=kind, budget_mib=budget_mib)  # type: ignore[arg-type]


Labelled = tuple["VideoFrame", "NDArray[np.uint8]"]


def _segment(engine: Engine, source: FrameSource, reference: FirstFrame, policy: MemoryPolicy) -> Iterator[Labelled]:
    """Each frame with its label map; the first has the given one."""
    from engines.types import Size

    first = source.next_frame()
    if first is None:
        raise InvalidInput("the video holds no frame")
    opened = engine.open(Size(*source.frame_size), policy)
    engine.memorize(opened, first.rgb, reference.label_map, object_ids=reference.object_ids)
    yield first, reference.label_map
    while (frame := source.next_frame()) is not None:
        yield frame, engine.propagate([opened], [frame.rgb])[0].label_map


def _save(labelled: Iterator[Labelled], facts: VideoInfo, folder: Path, overlay: bool) -> int:
    """Write the PNGs and, if wanted, the overlay video; returns how many frames there were."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from service.masks import encode_png
    from service.overlay import draw_overlay
    from service.video_file import VideoWriter

    count = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        bar = stack.enter_context(Progress(*columns))
        task = bar.add_task("frames", total=facts.frames)
        writer = stack.enter_context(VideoWriter(folder / "overlay.mp4", facts.fps)) if overlay else None
        for frame, label_map in labelled:
            (folder / f"{frame.frame_index:05d}.png").write_bytes(encode_png(label_map))
            if writer is not None:
                writer.write(draw_overlay(frame.rgb, label_map))
            count += 1
            bar.advance(task)
    return count


def _warn_of_older(folder: Path, frames: int) -> None:
    """Masks of a longer video that were there before would pass for this one's."""
    older = [path for path in folder.glob("*.png") if path.stem.isdecimal() and int(path.stem) >= frames]
    if older:
        typer.secho(
            f"{folder} also holds {counted(len(older), 'mask')} from before, {min(older).name} and on, which "
            "belong to another video",
            fg=typer.colors.YELLOW,
            err=True,
        )
