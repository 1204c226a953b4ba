"""`maskstream bench`: frames per second of an engine on this machine."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engines.protocols import Engine

WARM_UP_STEPS = 2


def register(app: typer.Typer) -> None:
    """Add `bench`."""
    app.command()(bench)


def bench(
    engine: Annotated[str, typer.Option("--engine", help="Engine name; the default engine if left out.")] = "",
    weights: Annotated[str, typer.Option("--weights", help="`random` does for timing.")] = "random",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1.")] = "auto",
    height: Annotated[int, typer.Option("--height", min=32, help="Frame height in pixels.")] = 480,
    width: Annotated[int, typer.Option("--width", min=32, help="Frame width in pixels.")] = 854,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Timed steps of each case.")] = 8,
    tracks: Annotated[list[int] | None, typer.Option("--tracks", min=1, help="Tracks in one call.")] = None,
    objects: Annotated[
        list[int] | None, typer.Option("--objects", min=1, max=64, help="Objects of each track.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print frames per second for 1 and 8 tracks with 1 and 5 objects each."""
    from engines.catalog import DEFAULT_ENGINE
    from engines.registry import create

    loaded = create(engine or DEFAULT_ENGINE, weights=weights, device=device)
    rows = []
    for track_count in tracks or [1, 8]:
        for object_count in objects or [1, 5]:
            fps = _frames_per_second(loaded, (height, width), track_count, object_count, steps)
            rows.append({"tracks": track_count, "objects": object_count, "frames_per_s": round(fps, 3)})
    if as_json:
        typer.echo(json.dumps({"engine": loaded.spec.info.name, "height": height, "width": width, "rows": rows}))
    else:
        _print_table(loaded, rows, f"{width}x{height}")


def _frames_per_second(engine: Engine, size: tuple[int, int], tracks: int, objects: int, steps: int) -> float:
    """Frames of all tracks together per second of wall time, after a warm-up."""
    from engines.types import MemoryPolicy, Size

    opened = []
    for seed in range(tracks):
        frame, label_map = _scene(size, objects, seed)
        track = engine.open(Size(*size), MemoryPolicy())
        engine.memorize(track, frame, label_map, object_ids=range(1, objects + 1))
        opened.append(track)
    frames = [_scene(size, objects, 100 + seed)[0] for seed in range(tracks)]
    for _ in range(WARM_UP_STEPS):
        engine.propagate(opened, frames)
    _finish(engine)
    started = time.perf_counter()
    for _ in range(steps):
        engine.propagate(opened, frames)
    _finish(engine)
    return tracks * steps / (time.perf_counter() - started)


def _finish(engine: Engine) -> None:
    """Wait for the device: its calls return before they are done."""
    import torch

    if engine.spec.device.type == "cuda":
        torch.cuda.synchronize(engine.spec.device)


def _scene(size: tuple[int, int], objects: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A frame of smooth noise, and vertical bars as objects."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (size[0] // 16 + 1, size[1] // 16 + 1, 3), dtype=np.uint8)
    frame = np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    label_map = np.zeros(size, np.uint8)
    for number in range(objects):
        left = size[1] * (2 * number + 1) // (2 * objects + 1)
        label_map[size[0] // 4 : 3 * size[0] // 4, left : left + size[1] // (2 * objects + 1)] = number + 1
    return frame, label_map


def _print_table(engine: Engine, rows: list[dict[str, float]], size: str) -> None:
    from rich.console import Console
    from rich.table import Table

    spec = engine.spec
    table = Table("tracks", "objects", "frames/s", title=f"{spec.info.name}, {size}, {spec.device}, {spec.dtype}")
    for row in rows:
        table.add_row(str(row["tracks"]), str(row["objects"]), f"{row['frames_per_s']:.2f}")
    Console().print(table)
