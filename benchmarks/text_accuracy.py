"""How well texts are understood on pictures that nothing here was trained on, by kind of expression and reader.

    python -m benchmarks.text_accuracy DATA --scenes 80 [--weights uniref-t.safetensors]

DATA as for `benchmarks.train_uniref_t`; scenes and texts are made of its held-out pictures. Prints, for the rules and
for `uniref-t`, the share of texts whose object is found with an IoU of at least 0.5, and the mean IoU.
Texts that tell nothing apart ("the object") are left out: the service refuses them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.expressions import draw_example, maker, read_stills, split
from engines.errors import UnsupportedReference, UnusableReference
from engines.prompts.resolver import ReferenceResolver
from engines.proposals.ranking import iou
from engines.protocols import ReferenceSegmenter
from engines.registry import create
from engines.types import Frame, Size

SIZES = (Size(240, 320), Size(240, 240), Size(240, 400))
Reader = Callable[[Sequence[Frame], str], NDArray[np.bool_]]


def by_network(
    resolver: ReferenceResolver, network: ReferenceSegmenter, frames: Sequence[Frame], text: str
) -> NDArray[np.bool_]:
    """`uniref-t` as it would be served."""
    return resolver.read_by_network(frames, text, network).mask


def overlap(read: Reader, frame: Frame, text: str, truth: NDArray[np.bool_]) -> float:
    """IoU of what a reader finds; 0 where it finds nothing."""
    try:
        return iou(read([frame], text), truth)
    except (UnusableReference, UnsupportedReference):
        return 0.0


def measure(readers: dict[str, Reader], data: Path, scenes: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """IoUs by reader and kind of expression."""
    made, random = maker(split(read_stills(data))[1]), np.random.default_rng(seed)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in readers}
    for index in range(scenes):
        example = draw_example(made, SIZES[index % len(SIZES)], 3, random)
        for target, text, kind in zip(example.targets, example.texts, example.kinds, strict=True):
            if kind != "plain":
                for name, read in readers.items():
                    value = overlap(read, example.frame, text, example.masks[target])
                    found[name].setdefault(kind, []).append(value)
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: a row per kind, IoU >= 0.5 in per cent and mean IoU per reader."""
    names = list(found)
    rows = [f"| kind | texts | {' | '.join(f'{name}, IoU >= 0.5 | mean' for name in names)} |"]
    rows.append("|---|--:" + "|--:|--:" * len(names) + "|")
    kinds = sorted(next(iter(found.values())))
    every = {name: [value for kind in kinds for value in found[name][kind]] for name in names}
    for kind in [*kinds, "all"]:
        lists = [every[name] if kind == "all" else found[name][kind] for name in names]
        cells = [f"{100 * np.mean(np.array(each) >= 0.5):.0f} % | {np.mean(each):.2f}" for each in lists]
        rows.append(f"| {kind} | {len(lists[0])} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    resolver = ReferenceResolver("cpu")
    readers: dict[str, Reader] = {"text-rules": resolver.read_by_rules}
    if options.weights is not None:
        network = create("uniref-t", weights=options.weights, device="cpu")
        if isinstance(network, ReferenceSegmenter):
            readers["uniref-t"] = partial(by_network, resolver, network)
    print(table(measure(readers, options.data, options.scenes, options.seed)))


if __name__ == "__main__":
    main()
