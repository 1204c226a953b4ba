"""J&F, CPU time per frame and bytes of the memory policies, on annotated clips.

    python -m benchmarks.bank_policies CLIPS --into FILE                                  each clip as it is
    python -m benchmarks.bank_policies CLIPS --into FILE --only blackswan --play 300      a clip to and fro
    python -m benchmarks.bank_policies CLIPS --into FILE --join 2000 --long-side 240      all clips as one video

Every policy memorises each --every-th frame (as often as the weights say without it); --frames are the budgets of the
bounded ones in frames of tokens. Results go to FILE, one line of JSON each; what it has is not run again, so a run may
be cut and resumed (`--at-most N` runs stop by themselves). The table of all of them is printed last.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.joined_clips import joined, to_and_fro
from engines.aot.config import STRIDE
from engines.aot.track import AotTrack
from engines.protocols import Engine
from engines.registry import create
from engines.training.evaluate import object_ids, score_clip
from engines.training.evaluation_clips import AnnotatedClip, find_clips
from engines.training.metrics import contour_accuracy, region_similarity
from engines.types import Frame, LabelMap, MemoryPolicy, Size


@dataclass
class Run:
    """One policy on one setting. scores: J&F by clip, or by first and later showings of joined clips."""

    setting: str
    policy: str
    scores: dict[str, float] = field(default_factory=dict)
    cpu_ms: float = 0.0
    bank_bytes: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def row(self) -> str:
        each = ", ".join(f"{name} {100 * score:.1f}" for name, score in self.scores.items())
        counts = " / ".join(str(self.counts.get(name, 0)) for name in ("written", "merged", "evicted"))
        mean = 100 * float(np.mean(list(self.scores.values())))
        mib = self.bank_bytes / 2**20
        return f"| {self.policy} | {mean:.1f} | {each} | {self.cpu_ms:.0f} | {mib:.1f} | {counts} |"


class Follower:
    """An engine on one track, and what its steps and its memory cost."""

    def __init__(self, engine: Engine, size: Size, policy: MemoryPolicy) -> None:
        self._engine = engine
        self._track: AotTrack = engine.open(size, policy)
        self._cpu_s: list[float] = []
        self._bytes = 0

    def memorize(self, frame: Frame, labels: LabelMap, ids: tuple[int, ...]) -> None:
        self._engine.memorize(self._track, frame, labels, object_ids=ids)

    def step(self, frame: Frame) -> LabelMap:
        started = time.process_time()
        prediction = self._engine.propagate([self._track], [frame])[0]
        self._cpu_s.append(time.process_time() - started)
        self._bytes = max(self._bytes, self._track.bank_bytes)
        return prediction.label_map

    def account(self, run: Run) -> None:
        """Add the costs to a run. Its step time is that of the last half, when the memory is full."""
        run.cpu_ms = max(run.cpu_ms, 1000 * float(np.median(self._cpu_s[len(self._cpu_s) // 2 :])))
        run.bank_bytes = max(run.bank_bytes, self._bytes)
        for name, count in self._track.bank_counts.items():
            run.counts[name] = run.counts.get(name, 0) + count


def follow_clips(run: Run, engine: Engine, policy: MemoryPolicy, clips: list[AnnotatedClip]) -> None:
    for clip in clips:
        first = clip.label_map(0)
        follower = Follower(engine, Size.of(first), policy)
        run.scores[clip.name] = score_clip(clip, _masks(follower, clip.frames(), first)).mean
        follower.account(run)


def _masks(follower: Follower, frames: Iterator[Frame], first: LabelMap) -> Iterator[LabelMap]:
    follower.memorize(next(frames), first, object_ids(first))
    yield first
    for frame in frames:
        yield follower.step(frame)


def follow_joined(run: Run, engine: Engine, policy: MemoryPolicy, clips: list[AnnotatedClip], size: list[int]) -> None:
    """One track over all clips; a reference only where a clip shows up for the first time."""
    found: dict[str, list[float]] = {"first showing": [], "later": []}
    follower: Follower | None = None
    for frame in joined(clips, *size):
        if follower is None:
            follower = Follower(engine, Size.of(frame.truth), policy)
        else:
            labels = follower.step(frame.image)
        if frame.starts:
            follower.memorize(frame.image, frame.truth, frame.object_ids)
            continue
        for i in frame.object_ids:
            seen, true = labels == i, frame.truth == i
            score = (region_similarity(seen, true) + contour_accuracy(seen, true)) / 2
            found["first showing" if frame.first_time else "later"].append(score)
    run.scores = {name: float(np.mean(scores)) for name, scores in found.items() if scores}
    if follower is not None:
        follower.account(run)


def played(clip: AnnotatedClip, count: int) -> AnnotatedClip:
    order = to_and_fro(len(clip.frame_paths), count)
    frames, labels = (tuple(paths[i] for i in order) for paths in (clip.frame_paths, clip.label_paths))
    return replace(clip, frame_paths=frames, label_paths=labels)


def policies(
    tokens: int, budgets: list[int], thresholds: list[float], every: int | None = None
) -> dict[str, MemoryPolicy]:
    """tokens: of one frame. every: steps between memorised frames, None for what the weights say."""
    found = {"reference only": MemoryPolicy(kind="every_k", memorize_every=10**6)}
    for budget in budgets:
        found[f"window, {budget} frames"] = MemoryPolicy("window", budget * tokens, memorize_every=every)
        for threshold in thresholds:
            policy = MemoryPolicy("adaptive", budget * tokens, memorize_every=every, merge_threshold=threshold)
            found[f"adaptive, {budget} frames, merge over {threshold}"] = policy
    return {**found, "every_k": MemoryPolicy(kind="every_k", memorize_every=every)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--engine", default="deaot-t")
    parser.add_argument("--every", type=int, help="steps from one memorised frame to the next")
    parser.add_argument("--frames", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.98])
    parser.add_argument("--only", nargs="+", default=[], help="names of clips")
    parser.add_argument("--play", type=int, default=0, help="play each clip to and fro for so many frames")
    parser.add_argument("--join", type=int, default=0, help="all clips as one video of so many frames")
    parser.add_argument("--long-side", type=int, default=240, help="of joined clips")
    parser.add_argument("--matching", default="", help="only policies whose name holds this")
    parser.add_argument("--at-most", type=int, default=10**6, help="runs of this call")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    engine = create(options.engine)
    clips = [clip for clip in find_clips(options.clips)[0] if not options.only or clip.name in options.only]
    if options.join:
        setting = f"{options.engine}, {len(clips)} clips joined to {options.join} frames at {options.long_side}"
        size = Size.of(next(joined(clips, 1, options.long_side)).truth)
    else:
        clips = [clip if not options.play else played(clip, options.play) for clip in clips if not clip.composite]
        setting = f"{options.engine}, {', '.join(f'{clip.name} {len(clip.frame_paths)} frames' for clip in clips)}"
        size = Size.of(clips[0].label_map(0))
    setting += f", every {options.every}" if options.every else ""
    seen = engine.open(size, MemoryPolicy(kind="every_k")).network_size
    tokens = -(-seen.height // STRIDE) * -(-seen.width // STRIDE)
    done = _read(options.into)
    waiting = [
        (label, policy)
        for label, policy in policies(tokens, options.frames, options.thresholds, options.every).items()
        if options.matching in label and not any((run.setting, run.policy) == (setting, label) for run in done)
    ]
    for label, policy in waiting[: options.at_most]:
        run = Run(setting, label)
        if options.join:
            follow_joined(run, engine, policy, clips, [options.join, options.long_side])
        else:
            follow_clips(run, engine, policy, clips)
        with options.into.open("a") as file:
            file.write(json.dumps(asdict(run)) + "\n")
    for name in dict.fromkeys(run.setting for run in _read(options.into)):
        print(f"\n{name}\n\n| policy | J&F | of | CPU ms per frame | memory MiB | written / merged / evicted |")
        print("|---|--:|---|--:|--:|---|")
        print("\n".join(run.row() for run in _read(options.into) if run.setting == name), flush=True)


def _read(file: Path) -> list[Run]:
    return [Run(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


if __name__ == "__main__":
    main()
