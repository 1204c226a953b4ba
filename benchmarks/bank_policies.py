"""J&F, CPU time per frame and bytes of the memory policies, on annotated clips.

    python -m benchmarks.bank_policies CLIPS_DIR --engine deaot-t --frames 2 6

Every policy memorises every second frame; --frames are the budgets of the bounded ones in frames of tokens.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from engines.aot.config import STRIDE
from engines.protocols import Engine
from engines.registry import create
from engines.training.evaluate import object_ids, score_clip
from engines.training.evaluation_clips import AnnotatedClip, find_clips
from engines.types import Frame, LabelMap, MemoryPolicy, Size


@dataclass
class Run:
    """One policy over all clips."""

    label: str
    policy: MemoryPolicy
    scores: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    bank_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def segment(self, engine: Engine, frames: Iterator[Frame], first: LabelMap) -> Iterator[LabelMap]:
        track = engine.open(Size.of(first), self.policy)
        engine.memorize(track, next(frames), first, object_ids=object_ids(first))
        yield first
        for frame in frames:
            started = time.process_time()
            prediction = engine.propagate([track], [frame])[0]
            self.cpu_s.append(time.process_time() - started)
            yield prediction.label_map
        self.bank_bytes = max(self.bank_bytes, track.bank_bytes)
        for group in track.groups:
            for name, count in group.long_term.bank.counts.items():
                self.counts[name] = self.counts.get(name, 0) + count

    def row(self) -> str:
        per_clip = " ".join(f"{100 * score:5.1f}" for score in self.scores)
        milliseconds = 1000 * float(np.median(self.cpu_s))
        return (
            f"| {self.label} | {100 * float(np.mean(self.scores)):.1f} ({per_clip}) | {milliseconds:.0f} "
            f"| {self.bank_bytes / 2**20:.1f} | {self.counts} |"
        )


def shorten(clip: AnnotatedClip, limit: int) -> AnnotatedClip:
    return replace(clip, frame_paths=clip.frame_paths[:limit], label_paths=clip.label_paths[:limit])


def tokens_per_frame(engine: Engine, clip: AnnotatedClip) -> int:
    seen = engine.open(Size.of(clip.label_map(0)), MemoryPolicy(kind="every_k")).network_size
    return -(-seen.height // STRIDE) * -(-seen.width // STRIDE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--engine", default="deaot-t")
    parser.add_argument("--frames", type=int, nargs="+", default=[2, 6])
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.98])
    parser.add_argument("--limit", type=int, default=10**6, help="frames of each clip")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engine = create(options.engine)
    clips = [shorten(clip, options.limit) for clip in find_clips(options.clips)[0] if not clip.composite]
    tokens = tokens_per_frame(engine, clips[0])
    runs = [
        Run("reference only", MemoryPolicy(kind="every_k", memorize_every=9999)),
        Run("every_k", MemoryPolicy(kind="every_k", memorize_every=2)),
    ]
    for budget in options.frames:
        size = budget * tokens
        runs.append(Run(f"window, {budget} frames", MemoryPolicy("window", size, memorize_every=2)))
        for threshold in options.thresholds:
            policy = MemoryPolicy("adaptive", size, memorize_every=2, merge_threshold=threshold)
            runs.append(Run(f"adaptive, {budget} frames, merge over {threshold}", policy))
    print("| policy | J&F, mean (per clip) | CPU ms per frame | memory MiB | tokens |\n|---|---|--:|--:|---|")
    for run in runs:
        for clip in clips:
            frames = clip.frames()
            run.scores.append(score_clip(clip, run.segment(engine, frames, clip.label_map(0))).mean)
        print(run.row(), flush=True)


if __name__ == "__main__":
    main()
