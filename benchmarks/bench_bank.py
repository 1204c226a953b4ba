"""Absorb of one frame into a feature bank: time and extra memory, beside the released algorithm.

    python -m benchmarks.bench_bank [--features 10000 50000 250000] [--allocators default hugepages keep]

Each case runs in a child process of its own: one absorb warms up and tells the extra memory, then the median of several
absorbs into fresh copies of the bank counts. The baseline is the released algorithm in our words; it must first
reproduce the times measured with the released code (0.135, 0.655 and 3.64 s for 1,620 new features on a machine of this
kind with two quiet threads) within 25 %, and both are printed for every row.

Which allocator matters: the released way takes and returns whole copies of the bank, so that much of its time is
page faults rather than arithmetic. `default` maps each copy anew, `hugepages` with fewer and larger pages, `keep` never
gives memory back to the system, so that little faults after the warm-up: the least favourable to us. All
implementations of a table run under the same one.

On a shared machine `--threads 1 --clock cpu` counts the processor's seconds instead; the anchors do not apply to those.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.banks import BankConfig, Tokens, build_bank, restore_bank
from engines.types import TrackState

NEW = 1620
KEY, VALUE = 128, 512
ANCHORS_S = {10_000: 0.135, 50_000: 0.655, 250_000: 3.64}
MERGED_SHARE = 0.5
_FILL_ROWS = 4096


class ReleasedBank:
    """The released algorithm: whole matrices, columns as tokens, sums in buffers as long as the bank."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def absorb(self, new_keys: Tensor, new_values: Tensor, *, threshold: float = 0.95, rate: float = 0.1) -> None:
        """new_keys: [128, n]; new_values: [512, n]."""
        unit_new = F.normalize(new_keys, dim=0)
        similarity = F.normalize(self.keys, dim=0).T @ unit_new
        entry = similarity.argmax(dim=0, keepdim=True)
        merges = similarity.gather(0, entry)[0] > threshold
        target = entry[0, merges]
        touched = target.unique()
        self.keys = self._merged(self.keys, unit_new[:, merges], target, touched, rate)
        self.values = self._merged(self.values, F.normalize(new_values, dim=0)[:, merges], target, touched, rate)
        self.keys = torch.cat([self.keys, new_keys[:, ~merges]], dim=1)
        self.values = torch.cat([self.values, new_values[:, ~merges]], dim=1)

    @staticmethod
    def _merged(bank: Tensor, unit_new: Tensor, target: Tensor, touched: Tensor, rate: float) -> Tensor:
        sums = torch.zeros_like(bank).scatter_add_(1, target.expand(bank.shape[0], -1), unit_new)
        count = torch.zeros(bank.shape[1]).scatter_add_(0, target, torch.ones(len(target)))
        mean = sums.div_(count.clamp_(min=1))
        norm = bank[:, touched].norm(dim=0, keepdim=True)
        bank[:, touched] = norm * ((1 - rate) * bank[:, touched] / norm + rate * mean[:, touched])
        return bank


def tokens(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Keys [count, 128] and values [count, 512]."""
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, KEY, generator=rng) - 0.5, torch.rand(count, VALUE, generator=rng) - 0.5


def newcomers(bank_size: int) -> tuple[Tensor, Tensor]:
    """New features of which half resemble one in the bank's first block."""
    keys, values = tokens(NEW, 999)
    merged = int(NEW * MERGED_SHARE)
    old, _ = tokens(min(_FILL_ROWS, bank_size), 0)
    keys[:merged] = old[:merged] + 0.05 * keys[:merged]
    return keys, values


def filled(size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The bank's tokens, by blocks."""
    for seed, start in enumerate(range(0, size, _FILL_ROWS)):
        yield tokens(min(_FILL_ROWS, size - start), seed)


Absorb = Callable[[], dict[str, int]]
Opener = Callable[[], Absorb]
"""Makes a fresh copy of a filled bank; what it returns absorbs the new features into that copy."""


def released_opener(size: int) -> Opener:
    """Copies of a released bank of `size` tokens."""
    keys, values = torch.empty(KEY, size), torch.empty(VALUE, size)
    start = 0
    for key, value in filled(size):
        keys[:, start : start + len(key)], values[:, start : start + len(key)] = key.T, value.T
        start += len(key)
    new_keys, new_values = (part.T.contiguous() for part in newcomers(size))

    def fresh() -> Absorb:
        bank = ReleasedBank(keys.clone(), values.clone())

        def absorb() -> dict[str, int]:
            bank.absorb(new_keys, new_values)
            return {"tokens": bank.keys.shape[1]}

        return absorb

    return fresh


def bank_opener(size: int, *, exact: bool, full: bool) -> Opener:
    """Copies of a bank of `size` tokens, without room for more when `full`, else with room for the new ones."""
    plain = build_bank(BankConfig("every_k", None))
    for key, value in filled(size):
        plain.write(Tokens({"key": key, "value": value}), step=0)
    config = BankConfig("adaptive", size if full else size + 4 * NEW, exact=exact, static=not exact, grace_steps=1)
    state = plain.snapshot()
    filled_state = TrackState({**state.meta, "config": config.to_json()}, state.tensors)
    usage = torch.rand(size, generator=torch.Generator().manual_seed(1))
    new_keys, new_values = newcomers(size)

    def fresh() -> Absorb:
        bank = restore_bank(filled_state)
        bank.add_usage(usage)

        def absorb() -> dict[str, int]:
            bank.write(Tokens({"key": new_keys, "value": new_values}), step=30)
            return {"tokens": len(bank), **bank.counts}

        return absorb

    return fresh


CASES: dict[str, Callable[[int], Opener]] = {
    "released": released_opener,
    "exact": lambda size: bank_opener(size, exact=True, full=False),
    "default": lambda size: bank_opener(size, exact=False, full=False),
    "default, full": lambda size: bank_opener(size, exact=False, full=True),
}
ALLOCATORS = {
    "default": "",
    "hugepages": "glibc.malloc.hugetlb=1",
    "keep": "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=17179869184",
}


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status: Linux is needed")


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(case: str, size: int, absorbs: int, clock: Callable[[], float]) -> dict[str, float | int]:
    """Median seconds of several absorbs, and bytes that the first one took above what was held before it."""
    fresh = CASES[case](size)
    first = fresh()
    torch.mm(torch.randn(512, 512), torch.randn(512, 512))  # wakes the thread pool
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _peak_bytes()
    told = first()
    extra = _peak_bytes() - before
    del first
    seconds = []
    for _ in range(absorbs):
        absorb = fresh()
        start = clock()
        absorb()
        seconds.append(clock() - start)
        del absorb
    return {"seconds": statistics.median(seconds), "worst": max(seconds), "extra_bytes": extra, **told}


def _in_child(case: str, size: int, allocator: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.bench_bank", "--child", case, "--features", str(size)]
    command += ["--clock", options.clock, "--absorbs", str(options.absorbs)]
    env = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "GLIBC_TUNABLES": ALLOCATORS[allocator]}
    result: dict[str, float] = json.loads(subprocess.run(command, env=env, capture_output=True, check=True).stdout)
    return result


def compare(size: int, allocator: str, options: argparse.Namespace) -> None:
    """Print the rows of one size under one allocator: every implementation in turn."""
    results = {case: _in_child(case, size, allocator, options) for case in CASES}
    baseline = results["released"]["seconds"]
    for case, run in results.items():
        told = ", ".join(f"{name} {int(run[name])}" for name in ("tokens", "merged", "evicted") if name in run)
        times = f"{run['seconds']:.3f} ({run['worst']:.3f}) | {baseline / run['seconds']:.2f}x"
        print(f"| {size} | {allocator} | {case} | {times} | {run['extra_bytes'] / 2**20:.0f} | {told} |", flush=True)
    anchor = ANCHORS_S.get(size) if options.clock == "wall" else None
    if anchor is not None:
        off = baseline / anchor - 1
        verdict = "reproduced" if abs(off) <= 0.25 else "NOT reproduced"
        print(f"| {size} | {allocator} | measured for the original | {anchor:.3f} | | | {off:+.0%}: {verdict} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=list(ANCHORS_S))
    parser.add_argument("--allocators", nargs="+", choices=list(ALLOCATORS), default=list(ALLOCATORS))
    parser.add_argument("--absorbs", type=int, default=5, help="timed absorbs of each case, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--child", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        told = measure(options.child, options.features[0], options.absorbs, CLOCKS[options.clock])
        print(json.dumps(told))
        return
    load = f"load average {os.getloadavg()[0]:.1f}, {options.threads} threads, {options.clock} clock"
    print(f"{load}, median of {options.absorbs} absorbs (worst), torch {torch.__version__}")
    print("| features | allocator | implementation | s | against released | extra MiB | after |")
    print("|--:|---|---|--:|--:|--:|---|")
    for size in options.features:
        for allocator in options.allocators:
            compare(size, allocator, options)


if __name__ == "__main__":
    main()
