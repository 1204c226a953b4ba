"""Every kind of reference to a mask: the session's own engine where it can, rules and cuts where it cannot.

Holds a proposer, loaded when first needed; nothing of a video. Knows neither sessions nor files.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engines.errors import UnusableReference, WeightsError
from engines.prompts.candidates import CandidateProposer
from engines.prompts.colours import NAMES, name_map, to_lab
from engines.prompts.exemplar_rules import most_alike
from engines.prompts.grabcut import COARSE, mask_from_box, mask_from_points, mask_from_region, sharpen
from engines.prompts.text_grammar import parse
from engines.prompts.text_rules import agreed, select
from engines.prompts.window import Box, Point
from engines.proposals.colour_regions import ColourRegionProposer
from engines.proposals.moving import MovingProposer
from engines.proposals.pool import PooledProposer
from engines.proposals.ranking import compose
from engines.protocols import Engine, Grounding, Proposal, Proposer, ReferenceSegmenter
from engines.registry import create_proposer
from engines.types import Frame, LabelMap

_log = logging.getLogger(__name__)
_AUTO_SHARE = 0.35  # of the best proposal's rank, below which a further one is no object of its own
_GROUNDED = 0.5
_UNSURE = 0.3  # the score under which the published rules say "not here"


@dataclass(frozen=True)
class Resolved:
    """mask: [H, W] bool at the frame's size. warnings: what the client should know of how it was found."""

    mask: NDArray[np.bool_]
    warnings: tuple[str, ...] = ()


class ReferenceResolver:
    """Resolves references on frames. frames: the reference's frame, then some that follow it, to tell what moves."""

    def __init__(self, device: str | torch.device = "auto") -> None:
        self._device = device
        self._loaded: dict[str, Proposer | None] = {}
        self._found: CandidateProposer | None = None

    def box(self, frame: Frame, box: Box) -> Resolved:
        """The object in a box (pixels of the frame). Raises UnusableReference."""
        return Resolved(mask_from_box(frame, box))

    def points(self, frame: Frame, points: Sequence[Point]) -> Resolved:
        """The object under clicks. Raises UnusableReference."""
        return Resolved(mask_from_points(frame, points))

    def text(self, frames: Sequence[Frame], text: str, engine: Engine) -> Resolved:
        """The object that a text describes. Raises UnusableReference, UnsupportedReference."""
        info = engine.spec.info
        # Where a vocabulary is small the rules know it too, and find the object more often (docs/references.md).
        if isinstance(engine, ReferenceSegmenter) and "text" in info.reference_kinds and not info.vocabulary:
            return self.read_by_network(frames, text, engine)
        return Resolved(self.read_by_rules(frames, text))

    def exemplar(self, frames: Sequence[Frame], exemplar: Frame, exemplar_mask: LabelMap, engine: Engine) -> Resolved:
        """The object that looks like the one marked in another picture. Raises UnusableReference."""
        if isinstance(engine, ReferenceSegmenter) and "exemplar" in engine.spec.info.reference_kinds:
            found = engine.ground(frames[0], exemplar=exemplar, exemplar_mask=exemplar_mask)
            return _grounded(found, "the exemplar")
        best = most_alike(frames[0], self._pool().ranked(frames), exemplar, exemplar_mask)
        warning = f"exemplar: {engine.spec.info.name} does not compare pictures; the object was found by colour alone"
        return Resolved(sharpen(frames[0], best[0].mask), (warning,))

    def find_objects(self, frames: Sequence[Frame], max_objects: int) -> LabelMap:
        """[H, W] label map of what stands out in the first frame, ids from 1 by rank. Raises UnusableReference."""
        found = self._objects(frames)
        if not found:
            raise UnusableReference(
                "no object stands out in the first frame: nothing moves on its own there. Give a mask, a box or a text"
            )
        sharp = [Proposal(sharpen(frames[0], each.mask), each.score) for each in _leading(found)]
        return compose(sharp, max_objects)

    def read_by_rules(self, frames: Sequence[Frame], text: str) -> NDArray[np.bool_]:
        """[H, W] what the small grammar takes a text to mean. Raises UnusableReference, UnsupportedReference."""
        query = parse(text)
        if query.kind == "colour":
            mask = agreed(select(query, frames[0], self._pool().ranked(frames)))
            return sharpen(frames[0], mask, _named(frames[0], query.colours) if query.colours else None)
        mask = agreed(select(query, frames[0], self.candidates(frames)))
        return mask_from_region(frames[0], mask, COARSE)

    def read_by_network(self, frames: Sequence[Frame], text: str, engine: ReferenceSegmenter) -> Resolved:
        """What an engine takes a text to mean. Raises UnusableReference, UnsupportedReference."""
        return _grounded(engine.ground(frames[0], text=text), f"the text {text!r}")

    def _objects(self, frames: Sequence[Frame]) -> list[Proposal]:
        """What the network sees and what moves; regions of one colour only where there is neither."""
        network = self._load("spatial-embeddings")
        proposers = [MovingProposer()] if network is None else [network, MovingProposer()]
        return PooledProposer(proposers, fallback=ColourRegionProposer()).propose(frames)

    def candidates(self, frames: Sequence[Frame]) -> list[Proposal]:
        """What texts choose from that count or compare, likeliest objects first."""
        return self._pool().propose(frames)

    def _pool(self) -> CandidateProposer:
        if self._found is None:
            self._found = CandidateProposer(self._load("spatial-embeddings"), self._load("uniref-t"))
        return self._found

    def _load(self, name: str) -> Proposer | None:
        """A proposer with its starter weights, if this installation has any."""
        if name not in self._loaded:
            try:
                self._loaded[name] = create_proposer(name, device=self._device)
            except WeightsError as error:
                _log.info("proposals without %s: %s", name, error)
                self._loaded[name] = None
        return self._loaded[name]


def _named(frame: Frame, colours: Sequence[str]) -> NDArray[np.bool_]:
    """[H, W] pixels that have one of the colours."""
    return np.isin(name_map(to_lab(frame)), [NAMES.index(name) for name in colours])


def _leading(proposals: Sequence[Proposal]) -> list[Proposal]:
    least = _AUTO_SHARE * proposals[0].score
    return [each for each in proposals if each.score >= least]


def _grounded(found: Grounding, what: str) -> Resolved:
    mask = np.asarray(found.probability > _GROUNDED)
    if not mask.any():
        raise UnusableReference(f"{what} was not found in the frame")
    warnings = []
    if found.unknown_words:
        warnings.append(
            f"{what}: these words are not known to the engine and were left out: {', '.join(found.unknown_words)}"
        )
    if found.score < _UNSURE:
        warnings.append(f"{what}: the engine is not sure that it is in the frame (score {found.score:.2f})")
    return Resolved(mask, tuple(warnings))
