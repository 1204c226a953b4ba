"""Does memory stay flat? Segments a long clip and prints bank bytes, step time and the bank's counts as it goes.

    python -m benchmarks.flat_memory --engine deaot-t --frames 2000 [--clips DIR]

Frames: the clips of a folder joined (each one forwards, then backwards, so that nothing jumps), or the rendered demo
clip without one. The budget is 30 memory frames. Prints a table and, last, one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.protocols import Engine
from engines.registry import create
from engines.types import LabelMap, MemoryPolicy, Size
from service.demo_clip import render

Picture = NDArray[np.uint8]
LONG_SIDE = 240
MEMORY_FRAMES = 30


@dataclass(frozen=True)
class Row:
    """What was seen over one stretch of frames. Times are medians."""

    frame: int
    bank_tokens: int
    bank_mib: float
    merged: int
    evicted: int
    step_ms: float
    rss_mib: float


def main() -> None:
    options = _options()
    engine = create(options.engine, weights=options.weights)
    frames, first = _joined(Path(options.clips)) if options.clips else _rendered()
    rows = run(engine, itertools.islice(frames, options.frames), first, options)
    steady = [row.step_ms for row in rows if row.frame > 200]
    growth = rows[-1].bank_mib / next(row.bank_mib for row in rows if row.frame >= 200)
    summary = {
        "engine": options.engine,
        "memory": options.memory,
        "bank_growth_after_200": round(growth, 3),
        "step_growth_after_200": round(statistics.mean(steady[-3:]) / statistics.mean(steady[:3]), 3),
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(summary))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="deaot-t")
    parser.add_argument("--weights", default="starter")
    parser.add_argument("--memory", default="adaptive", choices=["adaptive", "window", "every_k"])
    parser.add_argument("--memorize-every", type=int, default=5)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--clips", help="folder of clips with Annotations")
    return parser.parse_args()


def run(engine: Engine, frames: Iterator[Picture], first: LabelMap, options: argparse.Namespace) -> list[Row]:
    """Segment all frames; one row per 100."""
    start = next(frames)
    size = Size.of(first)
    budget = None if options.memory == "every_k" else MEMORY_FRAMES * _tokens_per_frame(engine, size, options)
    policy = MemoryPolicy(kind=options.memory, budget_tokens=budget, memorize_every=options.memorize_every)
    track = engine.open(size, policy)
    engine.memorize(track, start, first, object_ids=[int(i) for i in np.unique(first) if 0 < i < 255])
    rows, times = [], []
    for index, frame in enumerate(frames, start=1):
        began = time.perf_counter()
        engine.propagate([track], [frame])
        times.append(time.perf_counter() - began)
        if index % 100 == 0:
            rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            step_ms = statistics.median(times) * 1000
            counts = track.bank_counts
            bank_mib = track.bank_bytes / 2**20
            rows.append(Row(index, track.bank_tokens, bank_mib, counts["merged"], counts["evicted"], step_ms, rss))
            _print(rows[-1])
            times.clear()
    return rows


def _tokens_per_frame(engine: Engine, size: Size, options: argparse.Namespace) -> int:
    """Tokens that one memorised frame leaves, all objects together, asked of a throw-away track."""
    track = engine.open(size, MemoryPolicy(kind="every_k", memorize_every=1))
    blank = np.zeros((size.height, size.width, 3), np.uint8)
    label_map = np.zeros((size.height, size.width), np.uint8)
    label_map[: size.height // 2] = 1
    engine.memorize(track, blank, label_map, object_ids=[1])
    return int(track.bank_tokens)


def _fit(picture: Picture, *, nearest: bool = False) -> Picture:
    height, width = picture.shape[:2]
    scale = LONG_SIDE / max(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(
        cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST if nearest else cv2.INTER_AREA), np.uint8
    )


def _rendered() -> tuple[Iterator[Picture], LabelMap]:
    clip = [(_fit(frame.image), _fit(frame.label_map, nearest=True)) for frame in render()]
    pictures = [picture for picture, _ in clip]
    return itertools.cycle(pictures + pictures[-2:0:-1]), clip[0][1]


def _joined(folder: Path) -> tuple[Iterator[Picture], LabelMap]:
    """All annotated clips of a folder, over and over; the masks are those of the first clip's first frame."""
    clips = sorted(path for path in folder.iterdir() if (path / "Annotations").is_dir())
    with Image.open(clips[0] / "Annotations" / "00000.png") as image:
        first = _fit(np.asarray(image, np.uint8), nearest=True)
    return _clip_frames(clips, (first.shape[1], first.shape[0])), first


def _clip_frames(clips: list[Path], size: tuple[int, int]) -> Iterator[Picture]:
    while True:
        for clip in clips:
            paths = sorted(clip.glob("*.jpg"))
            for path in paths + paths[-2:0:-1]:
                with Image.open(path) as image:
                    picture = _fit(np.asarray(image.convert("RGB"), np.uint8))
                yield np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _print(row: Row) -> None:
    if row.frame == 100:
        print("frame   tokens  bank MiB   merged  evicted  step ms  peak RSS MiB")
    counts = f"{row.merged:8d} {row.evicted:8d}"
    print(
        f"{row.frame:5d} {row.bank_tokens:8d} {row.bank_mib:9.2f} {counts} {row.step_ms:8.1f} {row.rss_mib:13.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
