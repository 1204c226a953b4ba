"""How well texts are understood on pictures that nothing here was trained on, by kind of expression and reader.

    python -m benchmarks.text_accuracy DATA --scenes 80 [--tuning]

DATA as for `benchmarks.train_uniref_t`; scenes and texts are made of every second of its held-out pictures; with
--tuning of the others, which choices are made on. Prints the share of texts whose object is found with an IoU of at
least 0.5, and the mean IoU: by the rules, by `uniref-t` alone, and of the best of all that the rules choose from.
Texts that tell nothing apart ("the object") are left out: the service refuses them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.expressions import Example, draw_example, halves, maker, read_stills, split
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


def best_candidate(resolver: ReferenceResolver, frame: Frame, truth: NDArray[np.bool_]) -> float:
    """IoU of the best of all that the rules choose from."""
    return max((iou(each.mask, truth) for each in resolver.candidates([frame])), default=0.0)


def overlap(read: Reader, frame: Frame, text: str, truth: NDArray[np.bool_]) -> float:
    """IoU of what a reader finds; 0 where it finds nothing."""
    try:
        return iou(read([frame], text), truth)
    except (UnusableReference, UnsupportedReference):
        return 0.0


def measure(resolver: ReferenceResolver, scenes: Iterable[Example]) -> dict[str, dict[str, list[float]]]:
    """IoUs by reader and kind of expression."""
    readers: dict[str, Reader] = {"text-rules": resolver.read_by_rules}
    network = create("uniref-t", device="cpu")
    if isinstance(network, ReferenceSegmenter):
        readers["uniref-t"] = partial(by_network, resolver, network)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in (*readers, "best candidate")}
    for example in scenes:
        for target, text, kind in zip(example.targets, example.texts, example.kinds, strict=True):
            if kind != "plain":
                truth = example.masks[target]
                for name, read in readers.items():
                    found[name].setdefault(kind, []).append(overlap(read, example.frame, text, truth))
                best = best_candidate(resolver, example.frame, truth)
                found["best candidate"].setdefault(kind, []).append(best)
    return found


def draw(data: Path, scenes: int, seed: int, *, tuning: bool) -> Iterator[Example]:
    """Scenes of the pictures that choices were made on, or of those that they were not."""
    pictures = halves(split(read_stills(data))[1])[0 if tuning else 1]
    made, random = maker(pictures), np.random.default_rng(seed)
    for index in range(scenes):
        yield draw_example(made, SIZES[index % len(SIZES)], 3, random)


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
    parser.add_argument("--tuning", action="store_true")
    options = parser.parse_args()
    scenes = draw(options.data, options.scenes, options.seed, tuning=options.tuning)
    print(table(measure(ReferenceResolver("cpu"), scenes)))


if __name__ == "__main__":
    main()
