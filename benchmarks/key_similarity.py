"""Histogram of how alike a new frame's keys are to their nearest key in memory: what a merge threshold would do.

    python -m benchmarks.key_similarity CLIPS_DIR --engine deaot-t --steps 6

Cosine between the keys of frame t and those of all earlier ones. AOT: last-layer keys, same identity, pure cells; STM
and AFB-URR: the keys of each channel's bank.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engines.aot.config import VARIANTS
from engines.aot.memory import PURE, cell_labels, match_feature
from engines.aot.track import AotTrack
from engines.banks.similarity import Targets, nearest
from engines.registry import create
from engines.space_time.track import SpaceTimeTrack
from engines.training.evaluate import object_ids
from engines.training.evaluation_clips import AnnotatedClip, find_clips
from engines.types import MemoryPolicy, Size

EDGES = (-1.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 1.001)


def scores(engine_name: str, clip: AnnotatedClip, steps: int) -> np.ndarray:
    """[n] cosine of every new key with its nearest older one."""
    engine = create(engine_name)
    frames, label_map = clip.frames(), clip.label_map(0)
    track = engine.open(Size.of(label_map), MemoryPolicy(kind="every_k", memorize_every=1))
    engine.memorize(track, next(frames), label_map, object_ids=object_ids(label_map))
    found = []
    for _ in range(steps):
        engine.propagate([track], [next(frames)])
        found += _of_channels(track) if isinstance(track, SpaceTimeTrack) else _of_groups(track, engine_name)
    return torch.cat(found).numpy()


def _of_channels(track: SpaceTimeTrack) -> list[Tensor]:
    found = []
    for bank in (track.banks[channel] for channel in track.banks):
        keys, cells = bank.view("key"), track.geometry.cells
        found.append(nearest(keys[-cells:], Targets(keys[:-cells]), metric="cosine")[0])
    return found


def _of_groups(track: AotTrack, engine_name: str) -> list[Tensor]:
    found = []
    for group in track.groups:
        bank = group.long_term.bank
        keys, identity = bank.view(match_feature(VARIANTS[engine_name])), bank.identity()
        tokens = group.short_term[0][-1].key[0]
        older = Targets(keys[: -len(tokens)], identity=identity[: -len(tokens)])
        own = identity[-len(tokens) :]
        cells = cell_labels(torch.from_numpy(track.labels), 11, aligned=VARIANTS[engine_name].align_corners)
        best, _ = nearest(tokens, older, metric="cosine", identity=own)
        found.append(best[cells.share >= PURE])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--engine", default="deaot-t")
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for clip in find_clips(options.clips)[0]:
        if clip.composite:
            continue
        values = scores(options.engine, clip, options.steps)
        shares = np.histogram(values, EDGES)[0] / len(values)
        row = " | ".join(f"{share:.2f}" for share in shares)
        print(f"| {clip.name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
