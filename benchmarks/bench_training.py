"""Processor seconds of one DeAOT-T training step, and of making its batch: `python -m benchmarks.bench_training`."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from engines.aot.config import VARIANTS
from engines.aot.model import AotNet
from engines.aot.training import AotLossConfig, clip_loss
from engines.training.clips import ClipConfig, ClipGenerator
from engines.training.depthwise import quicken_depthwise
from tests.unit.training import made_up_data

LOSSES = AotLossConfig(hard_share=0.5, own_masks=0.5, reference=0.5, matching=0.3, identity=1.0)


def least_cpu_s(work: Callable[[], object], repeats: int) -> float:
    """Least processor time of several calls, after one to warm up."""
    work()
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return min(spent)


def step_of(generator: ClipGenerator, *, quick: bool, bfloat16: bool, clips: int) -> Callable[[], None]:
    """One forward and backward pass and an optimiser step on a fixed batch."""
    torch.manual_seed(0)
    net = AotNet(replace(VARIANTS["deaot-t"], live_norm=True)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if quick:
        quicken_depthwise(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4)
    batch = generator.batch(0, clips)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss, _ = clip_loss(net, batch, LOSSES, torch.Generator().manual_seed(0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--crop", type=int, default=129)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = ClipConfig(crop_px=options.crop, frames=options.frames)
    generator = ClipGenerator(made_up_data.pool(), config)
    frames = options.clips * options.frames
    results = {"batch": least_cpu_s(lambda: generator.batch(1, options.clips), options.repeats)}
    for name, quick, bfloat16 in (
        ("float32", False, False),
        ("bfloat16", False, True),
        ("bfloat16, quick", True, True),
    ):
        step = step_of(generator, quick=quick, bfloat16=bfloat16, clips=options.clips)
        results[name] = least_cpu_s(step, options.repeats)
    for name, seconds in results.items():
        print(f"{name:18s} {seconds:6.2f} CPU s  {1000 * seconds / frames:6.1f} ms per frame")
    print(json.dumps({name: round(seconds, 3) for name, seconds in results.items()}))


if __name__ == "__main__":
    main()
