"""Does memory stay flat in `stm-t` and `afb-urr-t`? Untrained weights, the rendered clip, one object always memorised.

    python -m benchmarks.flat_memory_space_time afb-urr-t adaptive [--frames 2000]

Weights are drawn from a seed, so masks mean nothing; what is measured is the memory. The budget is 30 memory frames per
channel, and every second frame is memorised: the bank is full before frame 200 and merges and evicts from there on.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import cv2
import numpy as np
import torch

from engines.afb_urr.config import VARIANTS as AFB_VARIANTS
from engines.afb_urr.engine import SETTINGS as AFB_SETTINGS
from engines.afb_urr.model import AfbUrrNetwork
from engines.catalog import CATALOG
from engines.protocols import EngineSpec
from engines.space_time.engine import SpaceTimeEngine
from engines.space_time.network import MemoryNetwork
from engines.stm.config import VARIANTS as STM_VARIANTS
from engines.stm.engine import SETTINGS as STM_SETTINGS
from engines.stm.model import StmNetwork
from engines.types import BankKind, Frame, LabelMap, MemoryPolicy, Size
from engines.visibility import VisibilityRule
from service.demo_clip import render

LONG_SIDE = 240
MEMORY_FRAMES = 30
ALWAYS = VisibilityRule(min_peak=0.0, min_area_cells=0.0)


def untrained(name: str) -> SpaceTimeEngine:
    """The engine with weights drawn from a seed; every object counts as seen."""
    torch.manual_seed(0)
    stm = name.startswith("stm")
    net: MemoryNetwork = StmNetwork(STM_VARIANTS[name]) if stm else AfbUrrNetwork(AFB_VARIANTS[name])
    for parameter in net.parameters():
        if parameter.ndim == 1:
            parameter.detach().zero_()  # biases would make all keys alike
    device = torch.device("cpu")
    spec = EngineSpec(CATALOG[name], 320, 2, "0" * 64, torch.float32, device, deterministic=True)
    return SpaceTimeEngine(spec, net, replace(STM_SETTINGS if stm else AFB_SETTINGS, rule=ALWAYS))


def clip() -> tuple[Iterator[Frame], LabelMap]:
    """The rendered clip, panned so that it never repeats, and its first label map; long side 240."""
    shown = list(render())
    scale = LONG_SIDE / max(shown[0].label_map.shape)
    height, width = (round(side * scale) for side in shown[0].label_map.shape)
    images = [np.asarray(cv2.resize(f.image, (width, height), interpolation=cv2.INTER_AREA), np.uint8) for f in shown]
    first = cv2.resize(shown[0].label_map, (width, height), interpolation=cv2.INTER_NEAREST)
    panned = (
        np.roll(image, (2 * index, 3 * index), axis=(0, 1))
        for index, image in enumerate(itertools.cycle(images + images[-2:0:-1]))
    )
    return panned, np.asarray(first, np.uint8)


def run(name: str, kind: BankKind, frames: int, threshold: float) -> None:
    """Print one row per 100 frames, and at last how the end compares with frame 200."""
    engine = untrained(name)
    pictures, first = clip()
    ids = [int(i) for i in np.unique(first) if i][:1]
    size = Size.of(first)
    cells = engine.open(size, MemoryPolicy("every_k")).geometry.cells
    banks = len(ids) + int(name.startswith("afb"))
    budget = None if kind == "every_k" else MEMORY_FRAMES * cells * banks
    policy = MemoryPolicy(kind, budget_tokens=budget, memorize_every=2, merge_threshold=threshold)
    track = engine.open(size, policy)
    engine.memorize(track, next(pictures), first, object_ids=ids)
    print(f"{name} {kind}, {len(ids)} objects, {cells} tokens per frame and channel, budget {budget}")
    print("| frame | tokens | MiB | step ms (cpu) | merged | evicted |\n|--:|--:|--:|--:|--:|--:|")
    times: list[float] = []
    rows: list[tuple[int, float, float]] = []
    for index, picture in enumerate(itertools.islice(pictures, frames), start=1):
        began = time.process_time()
        engine.propagate([track], [picture])
        times.append(time.process_time() - began)
        if index % 100 == 0:
            rows.append((index, track.bank_bytes / 2**20, statistics.median(times) * 1000))
            told = track.bank_counts
            row = f"{index} | {track.bank_tokens} | {rows[-1][1]:.2f} | {rows[-1][2]:.1f}"
            print(f"| {row} | {told['merged']} | {told['evicted']} |", flush=True)
            times.clear()
    full = next((row for row in rows if row[0] >= 200), rows[-1])
    print(f"end against frame {full[0]}: bytes {rows[-1][1] / full[1]:.3f}, step {rows[-1][2] / full[2]:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["stm-t", "afb-urr-t"])
    parser.add_argument("memory", choices=["adaptive", "window", "every_k"])
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--merge-threshold", type=float, default=0.95)
    options = parser.parse_args()
    run(options.engine, options.memory, options.frames, options.merge_threshold)


if __name__ == "__main__":
    main()
