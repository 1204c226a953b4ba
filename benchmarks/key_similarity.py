"""Histogram of how alike a new frame's keys are to their nearest key in memory: what a merge threshold would do.

    python -m benchmarks.key_similarity CLIPS_DIR --engine deaot-t --steps 6

Cosine of last-layer keys between frame t and the reference frame, same identity only, for pure cells.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from engines.aot.config import VARIANTS
from engines.aot.memory import PURE, cell_labels, match_feature
from engines.banks.similarity import Targets, nearest
from engines.registry import create
from engines.training.evaluate import object_ids
from engines.training.evaluation_clips import AnnotatedClip, find_clips
from engines.types import MemoryPolicy, Size

EDGES = (-1.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 1.001)


def scores(engine_name: str, clip: AnnotatedClip, steps: int) -> np.ndarray:
    engine = create(engine_name)
    frames, label_map = clip.frames(), clip.label_map(0)
    track = engine.open(Size.of(label_map), MemoryPolicy(kind="every_k", memorize_every=1))
    engine.memorize(track, next(frames), label_map, object_ids=object_ids(label_map))
    found = []
    for _ in range(steps):
        engine.propagate([track], [next(frames)])
        bank = track.groups[0].long_term.bank
        keys, identity = bank.view(match_feature(VARIANTS[engine_name])), bank.identity()
        tokens = track.groups[0].short_term[0][-1].key[0]
        older = Targets(keys[: -len(tokens)], identity=identity[: -len(tokens)])
        own = identity[-len(tokens) :]
        cells = cell_labels(torch.from_numpy(track.labels), 11, aligned=VARIANTS[engine_name].align_corners)
        best, _ = nearest(tokens, older, metric="cosine", identity=own)
        found.append(best[cells.share >= PURE])
    return torch.cat(found).numpy()


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
