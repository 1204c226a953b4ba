"""FEELVOS's matching at 480p, stride 4, beside plain transcriptions of the released code's way, on one machine.

The plain ways must first take about the time that was measured for the released code itself (within 25 %), so that
"so many times faster" means something. CPU seconds of this process; memory is the peak resident set above the start.

    python benchmarks/bench_matching.py [--threads 2] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.feelvos.matching import ABSENT, global_matching, local_matching, to_distance

HEIGHT, WIDTH, CHANNELS, WINDOW = 120, 214, 100, 15
QUERY_CHUNKS = 500

# CPU seconds measured for the released code (TensorFlow) and for CFBI's PyTorch matching; None: not measured.
REFERENCE_S = {
    ("local", "released", 1): 1.9,
    ("local", "released", 3): 2.7,
    ("local", "unfold", 1): 13.9,
    ("local", "unfold", 3): 11.6,
    ("global", "released", 1): 5.4,
}


@dataclass(frozen=True)
class Scene:
    """Embeddings of two frames and the first one's labels; ids are background and the objects."""

    query: Tensor
    reference: Tensor
    labels: Tensor
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One measured way."""

    operation: str
    way: str
    objects: int
    cpu_s: float
    wall_s: float
    peak_extra_mib: float
    reference_s: float | None


def make_scene(objects: int) -> Scene:
    """Random non-negative embeddings, and one ellipse per object, as large as objects usually are."""
    generator = torch.Generator().manual_seed(objects)
    query, reference = (torch.rand(HEIGHT, WIDTH, CHANNELS, generator=generator) * 0.5 for _ in range(2))
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    for i in range(objects):
        middle = (WIDTH * (i + 1)) // (objects + 1)
        labels[((y - 60) / 35.0) ** 2 + ((x - middle) / 24.0) ** 2 < 1] = i + 1
    return Scene(query, reference, labels, tuple(range(objects + 1)))


def released_local(scene: Scene) -> Tensor:
    """One offset after the other over the whole frame, all 961 distances kept, then a masked minimum per id."""
    side = 2 * WINDOW + 1
    pad = (0, 0, WINDOW, WINDOW, WINDOW, WINDOW)
    padded = F.pad(scene.reference, pad, value=1e10)
    offsets = []
    for dy in range(side):
        for dx in range(side):
            shifted = padded[dy : dy + HEIGHT, dx : dx + WIDTH]
            offsets.append((scene.query - shifted).square().sum(-1))
    distance = 2 * (torch.stack(offsets, dim=-1).sigmoid() - 0.5)
    return masked_minimum(distance, scene)


def unfold_local(scene: Scene) -> Tensor:
    """The windows of one query row at a time copied out by unfold, one product for all of them."""
    padded = F.pad(scene.reference.permute(2, 0, 1), (WINDOW,) * 4)
    side = 2 * WINDOW + 1
    norm = F.pad(scene.reference.square().sum(-1), (WINDOW,) * 4, value=1e20)
    rows = []
    for y in range(HEIGHT):
        windows = F.unfold(padded[None, :, y : y + side], side).view(CHANNELS, side * side, WIDTH)
        squares = F.unfold(norm[None, None, y : y + side], side)[0]
        product = torch.einsum("wc,cow->ow", scene.query[y], windows)
        rows.append(squares - 2 * product + scene.query[y].square().sum(-1))
    distance = to_distance(torch.stack(rows).permute(0, 2, 1))
    return masked_minimum(distance, scene)


def masked_minimum(distance: Tensor, scene: Scene) -> Tensor:
    """[K, h, w] from [h, w, 961] distances, with the windows of the labels taken by unfold."""
    side = 2 * WINDOW + 1
    padded = F.pad(scene.labels, (WINDOW,) * 4, value=-1)
    windows = padded.unfold(0, side, 1).unfold(1, side, 1).flatten(2)
    one = torch.ones(())
    return torch.stack([torch.where(windows == name, distance, one).amin(-1) for name in scene.ids])


def fast_local(scene: Scene) -> Tensor:
    """This project's."""
    return local_matching(scene.query, scene.reference, scene.labels, scene.ids, window=WINDOW)


def released_global(scene: Scene) -> Tensor:
    """A slice of query pixels against all reference pixels, then a masked minimum per id."""
    query, reference = scene.query.flatten(0, 1), scene.reference.flatten(0, 1)
    labels, norm = scene.labels.flatten(), reference.square().sum(1)
    absent = torch.full((), ABSENT)
    parts = []
    for chunk in query.split(-(-len(query) // QUERY_CHUNKS)):
        squared = chunk.square().sum(1, keepdim=True) + norm - 2 * chunk @ reference.T
        parts.append(torch.stack([torch.where(labels == name, squared, absent).amin(1) for name in scene.ids]))
    return 2 * (torch.cat(parts, dim=1).sigmoid() - 0.5)


def fast_global(scene: Scene) -> Tensor:
    """This project's."""
    query, reference = scene.query.flatten(0, 1), scene.reference.flatten(0, 1)
    return to_distance(global_matching(query, reference, scene.labels.flatten(), scene.ids).squared)


WAYS: dict[tuple[str, str], Callable[[Scene], Tensor]] = {
    ("local", "released"): released_local,
    ("local", "unfold"): unfold_local,
    ("local", "maskstream"): fast_local,
    ("global", "released"): released_global,
    ("global", "maskstream"): fast_global,
}


def resident_peak_mib() -> float:
    """Peak resident set of this process since it was last reset (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def measure(operation: str, way: str, objects: int, repeats: int) -> Row:
    """Least time and largest peak of some runs; the result must equal ours."""
    scene, function = make_scene(objects), WAYS[operation, way]
    Path("/proc/self/clear_refs").write_text("5")
    before, cpu_s, wall_s, result = resident_peak_mib(), float("inf"), float("inf"), torch.empty(0)
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        result = function(scene)
        cpu_s, wall_s = min(cpu_s, time.process_time() - cpu), min(wall_s, time.perf_counter() - wall)
    peak = resident_peak_mib() - before
    assert torch.allclose(result, WAYS[operation, "maskstream"](scene), atol=1e-4), f"{operation} {way} differs"
    return Row(operation, way, objects, cpu_s, wall_s, peak, REFERENCE_S.get((operation, way, objects)))


def measure_apart(operation: str, way: str, objects: int, options: list[str]) -> Row:
    """measure() in a fresh process, so that its peak holds nothing of the ways before it."""
    command = [sys.executable, __file__, *options, "--only", operation, way, str(objects)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Row(**json.loads(done.stdout))


def report(rows: list[Row]) -> None:
    """A table for people, then one JSON line for scripts."""
    print("| matching | way | objects | CPU s | wall s | peak extra MiB | measured for the original | times faster |")
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        fast = next(r for r in rows if (r.operation, r.way, r.objects) == (row.operation, "maskstream", row.objects))
        known = "" if row.reference_s is None else f"{row.reference_s} ({row.cpu_s / row.reference_s - 1:+.0%})"
        ratio = "" if row is fast else f"{row.cpu_s / fast.cpu_s:.1f}"
        cells = (row.operation, row.way, row.objects, f"{row.cpu_s:.2f}", f"{row.wall_s:.2f}")
        print("|", " | ".join(str(c) for c in (*cells, f"{row.peak_extra_mib:.0f}", known, ratio)), "|")
    print(json.dumps([asdict(row) for row in rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs=3, metavar=("OPERATION", "WAY", "OBJECTS"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        operation, way, objects = arguments.only
        print(json.dumps(asdict(measure(operation, way, int(objects), arguments.repeats))))
        return
    options = ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
    report([measure_apart(operation, way, objects, options) for objects in (1, 3) for operation, way in WAYS])


if __name__ == "__main__":
    main()
