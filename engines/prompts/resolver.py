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
from engines.prompts.exemplar_rules import most_alike
from engines.prompts.grabcut import Box, Point, mask_from_box, mask_from_points
from engines.prompts.text_grammar import TextQuery, parse
from engines.prompts.text_rules import RuleConfig, select
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
_CLEARLY = RuleConfig(colour_floor=0.3)
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
        self._network: Proposer | None = None
        self._asked = False

    def box(self, frame: Frame, box: Box) -> Resolved:
        """The object in a box (pixels of the frame). Raises UnusableReference."""
        return Resolved(mask_from_box(frame, box))

    def points(self, frame: Frame, points: Sequence[Point]) -> Resolved:
        """The object under clicks. Raises UnusableReference."""
        return Resolved(mask_from_points(frame, points))

    def text(self, frames: Sequence[Frame], text: str, engine: Engine) -> Resolved:
        """The object that a text describes. Raises UnusableReference, UnsupportedReference."""
        if isinstance(engine, ReferenceSegmenter) and "text" in engine.spec.info.reference_kinds:
            return _grounded(engine.ground(frames[0], text=text), f"the text {text!r}")
        return Resolved(self._by_rules(parse(text), frames))

    def exemplar(self, frames: Sequence[Frame], exemplar: Frame, exemplar_mask: LabelMap, engine: Engine) -> Resolved:
        """The object that looks like the one marked in another picture. Raises UnusableReference."""
        if isinstance(engine, ReferenceSegmenter) and "exemplar" in engine.spec.info.reference_kinds:
            found = engine.ground(frames[0], exemplar=exemplar, exemplar_mask=exemplar_mask)
            return _grounded(found, "the exemplar")
        proposals = self._pool(regions=True).propose(frames)
        best = most_alike(frames[0], proposals, exemplar, exemplar_mask)
        warning = f"exemplar: {engine.spec.info.name} does not compare pictures; the object was found by colour alone"
        return Resolved(best[0].mask, (warning,))

    def find_objects(self, frames: Sequence[Frame], max_objects: int) -> LabelMap:
        """[H, W] label map of what stands out in the first frame, ids from 1 by rank. Raises UnusableReference."""
        found = self._pool(regions=False).propose(frames)
        if not found:
            raise UnusableReference(
                "no object stands out in the first frame: nothing moves on its own there. Give a mask, a box or a text"
            )
        return compose(_leading(found), max_objects)

    def _by_rules(self, query: TextQuery, frames: Sequence[Frame]) -> NDArray[np.bool_]:
        """Objects come first, parts of one colour only where none clearly fits: a part must not win over its whole."""
        try:
            found = select(query, frames[0], self._pool(regions=False).propose(frames), _CLEARLY)
        except UnusableReference:
            found = select(query, frames[0], self._pool(regions=True).propose(frames))
        return found[0].mask

    def _pool(self, *, regions: bool) -> PooledProposer:
        """regions: whether parts of one colour count as proposals beside what the network sees and what moves."""
        proposers: list[Proposer] = [MovingProposer()]
        network = self._load_network()
        if network is not None:
            proposers.insert(0, network)
        by_colour = ColourRegionProposer()
        return PooledProposer([*proposers, by_colour]) if regions else PooledProposer(proposers, fallback=by_colour)

    def _load_network(self) -> Proposer | None:
        """The network's starter weights, if this installation has any."""
        if not self._asked:
            self._asked = True
            try:
                self._network = create_proposer(device=self._device)
            except WeightsError as error:
                _log.info("proposals without a network: %s", error)
        return self._network


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
