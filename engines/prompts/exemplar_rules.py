"""An exemplar without a network that compares pictures: the proposal whose colours are most like the exemplar's.

Knows colours only; shape and meaning are not compared, and the caller says so to the client.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engines.errors import UnusableReference
from engines.prompts.colours import to_lab
from engines.protocols import Proposal
from engines.types import Frame, LabelMap

_BINS = (6, 12, 12)
_RANGES = ((0.0, 100.0), (-90.0, 90.0), (-90.0, 90.0))
_LEAST = 0.2


def most_alike(frame: Frame, proposals: Sequence[Proposal], exemplar: Frame, exemplar_mask: LabelMap) -> list[Proposal]:
    """Proposals by likeness to what is marked (non-zero) in the exemplar, best first; their scores are the likeness.

    Raises UnusableReference when none shares a fifth of the exemplar's colours.
    """
    wanted = _histogram(to_lab(exemplar), exemplar_mask > 0)
    lab = to_lab(frame)
    alike = [Proposal(each.mask, _shared(wanted, _histogram(lab, each.mask))) for each in proposals]
    alike = sorted((each for each in alike if each.score >= _LEAST), key=lambda each: each.score, reverse=True)
    if not alike:
        raise UnusableReference(f"nothing in the frame has the exemplar's colours; {len(proposals)} regions were seen")
    return alike


def _histogram(lab: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    counts, _ = np.histogramdd(lab[mask], bins=_BINS, range=_RANGES)
    return np.asarray(counts / max(1, int(mask.sum())))


def _shared(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Histogram intersection, 0..1."""
    return float(np.minimum(first, second).sum())
