"""What goes into a track's bank, from references and from segmented frames, and what leaves it when an object joins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engines.banks import BankConfig, Tokens, bank_config
from engines.banks.budget import budget_tokens, require_budget
from engines.feelvos.config import FeelvosConfig
from engines.feelvos.references import BACKGROUND, CellLabels, contradicted, draw_cells
from engines.feelvos.track import FeelvosTrack
from engines.types import IGNORE_LABEL, MemoryPolicy

EMBEDDING = "embedding"
"""The one feature that FEELVOS's tokens have."""

DEFAULT_BUDGET_FRAMES = 4
_MERGE_BELOW = 0.1
"""Squared distance under which an adaptive bank merges; a matching distance of 0.05."""


def bank_settings(config: FeelvosConfig, memory: MemoryPolicy, *, frame_tokens: int, token_bytes: int) -> BankConfig:
    """The bank of one track whose frames have `frame_tokens` feature cells. Raises BudgetTooSmall."""
    default = DEFAULT_BUDGET_FRAMES * frame_tokens
    tokens = budget_tokens(memory, token_bytes=token_bytes, default_tokens=default)
    if memory.kind != "every_k":
        sample = config.reference_sample
        least = frame_tokens if sample is None else min(frame_tokens, 2 * sample)
        require_budget(tokens, least, token_bytes=token_bytes)
    settings = bank_config(memory, budget_tokens=tokens, match=EMBEDDING)
    if memory.exact:
        return settings
    threshold = _MERGE_BELOW if memory.merge_threshold is None else memory.merge_threshold
    return replace(settings, metric="l2", merge_threshold=threshold)


@dataclass(frozen=True)
class Annotation:
    """A reference at feature size, joined with what the track knows of that frame.

    labels: [h, w] int64 object ids. annotated: the objects that the client's map speaks for.
    complete: whether 0 is background for every object of the track, not for the annotated ones only.
    """

    labels: Tensor
    annotated: tuple[int, ...]
    complete: bool


def annotate(
    track: FeelvosTrack, cells: CellLabels, annotated: Sequence[int], checksum: int, device: torch.device
) -> Annotation:
    """Join a reference with the labels of the frame just segmented, if it is that frame; the client's pixels win."""
    labels = torch.from_numpy(cells.labels).to(device)
    known = torch.tensor([BACKGROUND, IGNORE_LABEL, *annotated], device=device)
    labels = torch.where(torch.isin(labels, known), labels, BACKGROUND)
    others = [name for name in track.object_ids if name not in annotated]
    if not others:
        return Annotation(labels, tuple(annotated), complete=True)
    if track.previous is None or track.previous.checksum != checksum:
        return Annotation(labels, tuple(annotated), complete=False)
    before = track.previous.labels
    kept = torch.isin(before, torch.tensor(others, device=device)) & (labels == BACKGROUND)
    return Annotation(torch.where(kept, before, labels), tuple(annotated), complete=True)


def warn_of_small(track: FeelvosTrack, cells: CellLabels) -> None:
    """Note objects that a reference shows in less than one feature cell, or not at all."""
    for name in cells.tiny:
        track.warn(f"object {name} is smaller than one feature cell in its reference; it is followed by one feature")
    for name in cells.empty:
        track.warn(f"object {name} has no pixels in its reference; nothing is known of it from there")


def store_reference(track: FeelvosTrack, embedding: Tensor, annotation: Annotation, sample: int | None) -> None:
    """Write a reference's features; [h, w, C] embedding, at most `sample` cells of each object.

    When an object joins a running track, old background that is really the newcomer leaves the bank first.
    """
    features, labels = embedding.flatten(0, 1), annotation.labels.flatten()
    newcomers = [name for name in annotation.annotated if name not in track.object_ids]
    if track.object_ids and newcomers:
        beside = features[labels == BACKGROUND] if annotation.complete else features[:0]
        own = features[torch.isin(labels, torch.tensor(newcomers, device=labels.device))]
        _drop_contradicted(track, own.float(), beside.float())
    ids = [BACKGROUND, *annotation.annotated] if annotation.complete else annotation.annotated
    _write(track, features, labels, draw_cells(labels, ids, sample, track.sample_seed()), reference=True)


def _drop_contradicted(track: FeelvosTrack, newcomer: Tensor, beside: Tensor) -> None:
    members = (track.bank.identity() == BACKGROUND).nonzero()[:, 0]
    if not members.numel():
        return
    wrong = torch.zeros(len(track.bank), dtype=torch.bool, device=members.device)
    wrong[members] = contradicted(track.bank.view(EMBEDDING)[members].float(), newcomer, beside)
    track.bank.discard(wrong)


def store_frame(track: FeelvosTrack, embedding: Tensor, labels: Tensor, sample: int | None) -> None:
    """Write a segmented frame, for those objects that are surely where `labels` [h, w] says.

    While any object is lost its pixels may be labelled background, so background is stored only when none is.
    """
    certain = [name for name in track.object_ids if track.visibility.is_certain(name)]
    if not certain:
        return
    ids = [BACKGROUND, *certain] if len(certain) == len(track.object_ids) else certain
    cells = draw_cells(labels, ids, sample, track.sample_seed())
    if cells.numel():
        _write(track, embedding.flatten(0, 1), labels.flatten(), cells, reference=False)


def _write(track: FeelvosTrack, features: Tensor, labels: Tensor, cells: Tensor, *, reference: bool) -> None:
    thinned = track.bank.counts["thinned"]
    tokens = Tokens({EMBEDDING: features[cells]}, identity=labels[cells])
    track.bank.write(tokens, step=track.steps, reference=reference)
    if track.bank.counts["thinned"] > thinned:
        track.warn("the references exceed half of the memory budget; some of their features were thinned out")
