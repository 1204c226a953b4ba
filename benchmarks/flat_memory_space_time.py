"""Does memory stay flat in STM and AFB-URR? Untrained weights, the rendered clip, one object always memorised.

    python -m benchmarks.flat_memory_space_time afb-urr-t adaptive [--frames 2000]
    python -m benchmarks.flat_memory_space_time afb-urr adaptive --long-side 854 --frames 100 --fill --threads 2

Weights are drawn from a seed, so masks mean nothing; what is measured is the memory. The budget is 30 memory frames per
channel, and every second frame is memorised: the bank is full before frame 200 and merges and evicts from there on.
--fill fills it before the first step, with the reference's tokens and noise. --resume FILE goes on where the run before
stopped, which --stop-after made it do after so many seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from engines.afb_urr.config import VARIANTS as AFB_VARIANTS
from engines.afb_urr.engine import SETTINGS as AFB_SETTINGS
from engines.afb_urr.model import AfbUrrNetwork
from engines.banks import Tokens
from engines.catalog import CATALOG
from engines.protocols import EngineSpec
from engines.space_time.engine import SpaceTimeEngine
from engines.space_time.network import MemoryNetwork
from engines.space_time.track import SpaceTimeTrack
from engines.stm.config import VARIANTS as STM_VARIANTS
from engines.stm.engine import SETTINGS as STM_SETTINGS
from engines.stm.model import StmNetwork
from engines.types import Frame, LabelMap, MemoryPolicy, Size, TrackState
from engines.visibility import VisibilityRule
from service.demo_clip import render

MEMORY_FRAMES = 30
ROWS = 20
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
    side = 320 if name.endswith("-t") else 480
    spec = EngineSpec(CATALOG[name], side, 2, "0" * 64, torch.float32, device, deterministic=True)
    return SpaceTimeEngine(spec, net, replace(STM_SETTINGS if stm else AFB_SETTINGS, rule=ALWAYS))


def clip(long_side: int) -> tuple[Iterator[Frame], LabelMap]:
    """The rendered clip, panned so that it never repeats, and its first label map."""
    shown = list(render())
    scale = long_side / max(shown[0].label_map.shape)
    height, width = (round(side * scale) for side in shown[0].label_map.shape)
    images = [np.asarray(cv2.resize(f.image, (width, height), interpolation=cv2.INTER_AREA), np.uint8) for f in shown]
    first = cv2.resize(shown[0].label_map, (width, height), interpolation=cv2.INTER_NEAREST)
    panned = (
        np.roll(image, (2 * index, 3 * index), axis=(0, 1))
        for index, image in enumerate(itertools.cycle(images + images[-2:0:-1]))
    )
    return panned, np.asarray(first, np.uint8)


def begin(engine: SpaceTimeEngine, picture: Frame, first: LabelMap, options: argparse.Namespace) -> SpaceTimeTrack:
    """A track with its reference, the banks filled with more of its kind where that is asked for."""
    ids = [int(i) for i in np.unique(first) if i][:1]
    size = Size.of(first)
    cells = engine.open(size, MemoryPolicy("every_k")).geometry.cells
    banks = len(ids) + int(options.engine.startswith("afb"))
    budget = None if options.memory == "every_k" else MEMORY_FRAMES * cells * banks
    policy = MemoryPolicy(
        options.memory, budget_tokens=budget, memorize_every=2, merge_threshold=options.merge_threshold
    )
    track = engine.open(size, policy)
    engine.memorize(track, picture, first, object_ids=ids)
    print(f"{options.engine} {options.memory}, {len(ids)} objects, {cells} tokens per frame and channel, {budget=}")
    if options.fill:
        noise = torch.Generator().manual_seed(0)
        for bank in (track.banks[channel] for channel in track.banks):
            key, value = bank.view("key").clone(), bank.view("value").clone()
            while len(bank) < (bank.budget_tokens or 0):
                varied = [part + part.std() * torch.randn(part.shape, generator=noise) for part in (key, value)]
                bank.write(Tokens({"key": varied[0], "value": varied[1]}), step=0)
    return track


def run(options: argparse.Namespace) -> None:
    """Print one row per twentieth of the frames."""
    engine = untrained(options.engine)
    pictures, first = clip(options.long_side)
    start = next(pictures)
    if options.resume and options.resume.exists():
        track = load(engine, options.resume)
    else:
        track = begin(engine, start, first, options)
        print("| frame | tokens | MiB | step ms (cpu) | merged | evicted |\n|--:|--:|--:|--:|--:|--:|")
    times: list[float] = []
    began = time.monotonic()
    for index, picture in enumerate(itertools.islice(pictures, options.frames), start=1):
        if index <= track.steps:
            continue
        before = time.process_time()
        engine.propagate([track], [picture])
        times.append(time.process_time() - before)
        if index % max(1, options.frames // ROWS) == 0:
            told, milliseconds = track.bank_counts, statistics.median(times) * 1000
            row = f"{index} | {track.bank_tokens} | {track.bank_bytes / 2**20:.2f} | {milliseconds:.1f}"
            print(f"| {row} | {told['merged']} | {told['evicted']} |", flush=True)
            times.clear()
            if time.monotonic() - began > options.stop_after:
                break
    if options.resume:
        state = engine.snapshot(track)
        save_file(dict(state.tensors), options.resume, metadata={"meta": json.dumps(dict(state.meta))})


def load(engine: SpaceTimeEngine, path: Path) -> SpaceTimeTrack:
    """The track of a run that stopped."""
    with safe_open(path, framework="pt") as file:
        meta = json.loads(file.metadata()["meta"])
        return engine.restore(TrackState(meta, {name: file.get_tensor(name) for name in file.keys()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["stm", "stm-t", "afb-urr", "afb-urr-t"])
    parser.add_argument("memory", choices=["adaptive", "window", "every_k"])
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--long-side", type=int, default=240)
    parser.add_argument("--merge-threshold", type=float, default=0.95)
    parser.add_argument("--fill", action="store_true", help="begin with full banks")
    parser.add_argument("--resume", type=Path, help="file that holds the track between runs")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="seconds")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run(options)


if __name__ == "__main__":
    main()
