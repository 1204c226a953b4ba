"""What a UniRef++ network sees when it is asked for one thing after another: masks, and how often each was seen.

A light network is rarely right about which object a text means, but its queries know where objects are: what many
texts at several sizes bring up is one. Holds weights, nothing of any video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engines.catalog import CATALOG
from engines.checkpoint import Weights, load_checkpoint
from engines.errors import UnknownEngine
from engines.proposals.ranking import pairwise_iou
from engines.protocols import Proposal
from engines.types import Frame, Size
from engines.uniref.config import VARIANTS
from engines.uniref.model import UniRef
from engines.uniref.preprocess import Resize, frame_tensor, to_batch
from engines.uniref.text import Words
from engines.uniref.weights import build as build_network
from engines.uniref.words import WORDS

_STRIDE = 4  # of the mask head


@dataclass(frozen=True)
class LookConfig:
    """texts at each of short_sides (pixels; at most long_side the other way) make the looks.

    agreeing: IoU from which a look has seen a mask too. same_iou: from there on masks are one object, and averaged.
    least_cells: of the mask head's, under which a mask is noise. most: proposals that are given.
    """

    texts: tuple[str, ...] = (
        "the object", "the left one", "the right one", "the small one", "the big one", "the top one", "the bottom one",
    )  # fmt: skip
    short_sides: tuple[int, ...] = (192, 256)
    long_side: int = 512
    agreeing: float = 0.5
    same_iou: float = 0.7
    least_cells: int = 6
    most: int = 30


class UniRefProposer:
    """Implements `Proposer`. The score of a proposal is the share of looks that have seen it, by IoU."""

    def __init__(self, model: UniRef, config: LookConfig | None = None) -> None:
        self._model = model
        self._config = config or LookConfig()
        words = Words(WORDS, model.config.text.context_length)
        ids = [words.tokenize(text).ids for text in self._config.texts]
        longest = max(map(len, ids))
        self._ids = torch.tensor([[*each, *[-1] * (longest - len(each))] for each in ids])

    def propose(self, frames: Sequence[Frame]) -> list[Proposal]:
        """Masks in the first frame, those most often seen first. The frames after it tell nothing here."""
        config, size = self._config, Size.of(frames[0])
        looks = [self._look(frames[0], side) for side in config.short_sides]
        grid = max((look.shape[-2:] for look in looks), key=lambda shape: shape[0])
        maps = torch.cat([F.interpolate(look, grid, mode="bilinear", align_corners=False) for look in looks])
        seen = (maps > 0.5).cpu().numpy()  # [looks, queries, h, w]
        found = _vote(seen, config)
        return [Proposal(_to_frame(mask, size), votes) for mask, votes in found]

    @torch.inference_mode()
    def _look(self, frame: Frame, short_side: int) -> Tensor:
        """[texts, queries, h, w] mask probabilities at the mask head's stride, without padding."""
        device = next(self._model.parameters()).device
        inner = Resize(short_side, self._config.long_side)(Size.of(frame))
        features = self._model.encode_image(to_batch([frame_tensor(frame, inner, device)]))
        ids = self._ids.to(device)
        reference = self._model.encode_text(ids.clamp(min=0), (ids >= 0).long())
        found = self._model.detect(features.repeat(len(ids)), [reference])
        logits = self._model.mask_head(found.mask_features, found.decoded.hidden[-1], found.points)
        return torch.sigmoid(logits[..., : -(-inner.height // _STRIDE), : -(-inner.width // _STRIDE)])


def _vote(seen: NDArray[np.bool_], config: LookConfig) -> list[tuple[NDArray[np.float32], float]]:
    """[looks, queries, h, w] masks to the distinct ones among them, each a mean of its like, and their votes."""
    looks = np.repeat(np.arange(seen.shape[0]), seen.shape[1])
    masks = seen.reshape(-1, *seen.shape[-2:])
    kept = masks.sum((1, 2)) >= config.least_cells
    looks, masks = looks[kept], masks[kept].astype(np.float32)
    overlap = pairwise_iou(masks)
    by_look = np.stack([overlap[:, looks == look].max(1, initial=0.0) for look in range(seen.shape[0])], 1)
    votes = np.where(by_look > config.agreeing, by_look, 0.0).mean(1)
    found: list[tuple[NDArray[np.float32], float]] = []
    left = np.ones(len(masks), bool)
    for index in np.argsort(-votes, kind="stable"):
        if left[index] and len(found) < config.most:
            like = overlap[index] > config.same_iou
            left &= ~like
            found.append((masks[like].mean(0), float(votes[index])))
    return found


def _to_frame(mask: NDArray[np.float32], size: Size) -> NDArray[np.bool_]:
    soft = F.interpolate(torch.from_numpy(mask)[None, None], (size.height, size.width), mode="bilinear")
    return np.asarray(soft[0, 0].numpy() >= 0.5)


def build_proposer(name: str, *, weights: Weights, device: torch.device) -> UniRefProposer:
    """Load the network. Raises UnknownEngine for one that reads free text, WeightsError."""
    if not CATALOG[name].vocabulary:
        raise UnknownEngine(f"{name!r} proposes nothing by itself; give it a text")
    return UniRefProposer(build_network(VARIANTS[name], load_checkpoint(weights, name).tensors).to(device))
