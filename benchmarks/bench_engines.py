"""Seconds per frame of AOT engines beside the plain implementation of the same maths, in turn, in one run.

    python -m benchmarks.bench_engines --engine deaot-t --engine r50-deaot-l --frames 5 --threads 1

CPU seconds are the process's own. Both run on the same random weights and frames; the largest difference of a
probability is printed, and whether the plain one reproduces the released code's CPU seconds within 25 %.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from benchmarks.baseline.plain_aot import build_plain, plain_attention
from engines.aot.build import build
from engines.aot.config import VARIANTS
from engines.aot.engine import AotEngine
from engines.aot.model import AotNet
from engines.aot.track import AotTrack
from engines.types import Frame, MemoryPolicy, Size
from tests.parity.weights import fill

RELEASED_CPU_S = {"deaot-t": (1.3, 1.5), "r50-deaot-l": (3.0, 3.6)}
"""Released code, 854x480, one frame (published anchors of this project's machine kind)."""

SIZE = Size(480, 854)


@dataclass
class Side:
    """One implementation at work on one video."""

    engine: AotEngine
    plain: bool
    track: AotTrack
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)

    def step(self, frame: Frame) -> Tensor:
        with plain_attention() if self.plain else nullcontext():
            cpu, wall = time.process_time(), time.perf_counter()
            prediction = self.engine.propagate([self.track], [frame], probability=True)[0]
            self.cpu_s.append(time.process_time() - cpu)
            self.wall_s.append(time.perf_counter() - wall)
        assert prediction.probability is not None
        return prediction.probability


def scene(t: int, objects: int) -> tuple[Frame, np.ndarray]:
    """Boxes that drift over a smooth background."""
    y, x = np.mgrid[0 : SIZE.height, 0 : SIZE.width]
    frame = np.stack([(x + y) % 256, (2 * x) % 256, (3 * y) % 256], axis=-1).astype(np.uint8)
    label_map = np.zeros((SIZE.height, SIZE.width), dtype=np.uint8)
    for index in range(objects):
        top, left = 40 + 80 * (index % 5), 60 + 140 * (index % 5) + 3 * t
        frame[top : top + 70, left : left + 110] = (40 * index, 255 - 30 * index, 128)
        label_map[top : top + 70, left : left + 110] = index + 1
    return frame, label_map


def smooth_weights(name: str) -> dict[str, Tensor]:
    """Random weights under which activations neither vanish nor explode."""
    shapes = {key: list(value.shape) for key, value in AotNet(VARIANTS[name]).state_dict().items()}
    return fill(shapes, {"encoder.": 1.0 if name.startswith("r50") else 1.4, "decoder.conv_out.": 2.0})


def compare(name: str, frames: int, objects: int, dtype: torch.dtype) -> None:
    weights = smooth_weights(name)
    ours = build(name, weights=weights, device=torch.device("cpu"), dtype=dtype, deterministic=True, compile=False)
    policy = MemoryPolicy(kind="every_k")
    sides = [Side(e, p, e.open(SIZE, policy)) for e, p in ((build_plain(name, weights), True), (ours, False))]
    first, label_map = scene(0, objects)
    for side in sides:
        with plain_attention() if side.plain else nullcontext():
            side.engine.memorize(side.track, first, label_map, object_ids=range(1, objects + 1))
    difference = 0.0
    for t in range(1, frames + 1):
        frame, _ = scene(t, objects)
        probabilities = [side.step(frame) for side in (sides if t % 2 else reversed(sides))]
        difference = max(difference, float((probabilities[0] - probabilities[1]).abs().max()))
    report(name, sides, difference)


def report(name: str, sides: list[Side], difference: float) -> None:
    plain, ours = (statistics.median(side.cpu_s[1:]) for side in sides)
    walls = [statistics.median(side.wall_s[1:]) for side in sides]
    low, high = RELEASED_CPU_S.get(name, (0.0, 0.0))
    agrees = low * 0.75 <= plain <= high * 1.25
    print(f"{name}: plain {plain:.3f} CPU s, ours {ours:.3f} CPU s, ratio {plain / ours:.2f}")
    print(f"  wall {walls[0]:.2f} / {walls[1]:.2f} s; largest difference of a probability {difference:.1e}")
    if high:
        print(f"  released code {low}-{high} CPU s; plain one within 25 %: {'yes' if agrees else 'NO'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", action="append")
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="ours in bfloat16; the plain one stays in float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.engine or list(RELEASED_CPU_S):
        compare(name, options.frames, options.objects, torch.bfloat16 if options.bf16 else torch.float32)


if __name__ == "__main__":
    main()
