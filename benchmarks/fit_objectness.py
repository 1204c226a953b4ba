"""Fit the rule that says how likely a proposal is an object: logistic regression on scenes of held-out stills.

    python -m benchmarks.fit_objectness DATA --scenes 80

DATA as for `benchmarks.train_uniref_t`; its tuning half alone. A proposal counts as an object from an IoU of 0.5 with
one. Prints weights and bias for `engines.prompts.objectness`, and the area under the curve on scenes left out in turn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.text_accuracy import draw
from engines.prompts.candidates import CandidateProposer
from engines.prompts.objectness import features
from engines.proposals.ranking import iou
from engines.registry import create_proposer

Floats = NDArray[np.float64]
_FOLDS, _ROUNDS, _RIDGE = 5, 30, 1e-3


def collect(data: Path, scenes: int, seed: int) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int_]]:
    """[n, f] features, whether each proposal is an object, and the number of its scene."""
    ranker = CandidateProposer(create_proposer("spatial-embeddings", device="cpu"))
    voter = create_proposer("uniref-t", device="cpu")
    rows, right, scene_of = [], [], []
    for number, example in enumerate(draw(data, scenes, seed, tuning=True)):
        found, values = features(example.frame, ranker.ranked([example.frame]), voter.propose([example.frame]))
        rows.append(values)
        right += [max(iou(each.mask, mask) for mask in example.masks) >= 0.5 for each in found]
        scene_of += [number] * len(found)
    return np.concatenate(rows), np.array(right), np.array(scene_of)


def fit(rows: Floats, right: NDArray[np.bool_]) -> Floats:
    """[f + 1] weights and bias, by Newton's method with a small ridge on standardised features."""
    mean, spread = rows.mean(0), rows.std(0) + 1e-9
    design = np.column_stack([(rows - mean) / spread, np.ones(len(rows))])
    ridge = np.diag([_RIDGE * len(rows)] * rows.shape[1] + [0.0])
    found = np.zeros(design.shape[1])
    for _ in range(_ROUNDS):
        chance = 1 / (1 + np.exp(-design @ found))
        curvature = (design.T * (chance * (1 - chance))) @ design + ridge
        found -= np.linalg.solve(curvature, design.T @ (chance - right) + ridge @ found)
    weights = found[:-1] / spread
    return np.append(weights, found[-1] - weights @ mean)


def area_under_curve(scores: Floats, right: NDArray[np.bool_]) -> float:
    """Chance that an object scores higher than what is none."""
    rank = np.argsort(np.argsort(scores))
    positive = int(right.sum())
    return float((rank[right].sum() - positive * (positive - 1) / 2) / (positive * (len(right) - positive)))


def main() -> None:
    """Collect, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows, right, scene_of = collect(options.data, options.scenes, options.seed)
    left_out = np.zeros(len(rows))
    for fold in range(_FOLDS):
        held = scene_of % _FOLDS == fold
        solution = fit(rows[~held], right[~held])
        left_out[held] = rows[held] @ solution[:-1] + solution[-1]
    solution = fit(rows, right)
    print(f"{len(rows)} proposals, {right.mean():.3f} of them objects; area {area_under_curve(left_out, right):.3f}")
    print("weights", [round(float(value), 2) for value in solution[:-1]], "bias", round(float(solution[-1]), 2))


if __name__ == "__main__":
    main()
