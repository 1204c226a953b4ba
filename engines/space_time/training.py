"""How STM and AFB-URR learn: clips through the network with every earlier frame as memory.

Merging and eviction belong to serving only: a training clip's memory is whole (as in both papers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.space_time.network import MemoryNetwork, Query
from engines.space_time.padding import Geometry
from engines.training.clips import ClipBatch
from engines.training.losses import balanced_entropy, hard_cross_entropy, matching_loss, soft_jaccard
from engines.training.recipe import Recipe
from engines.types import IGNORE_LABEL, Size

PARTS = ("mask", "matching", "transport", "probe", "confidence")
_TOKEN_PX = 16


@dataclass(frozen=True)
class LossConfig:
    """Weights and shares at one point of the schedule.

    hard_share: share of pixels in the cross entropy. own_masks: chance that a clip's memory holds predicted masks.
    jaccard, matching, transport, probe, confidence: weights of the terms beside it (the last for engines that doubt,
    AFB-URR). transport: the true masks, carried by the affinity alone, must land on the true mask; probe: the first
    value channel must tell the object from the rest. Together they teach reading before the decoder can.
    """

    hard_share: float = 1.0
    own_masks: float = 1.0
    jaccard: float = 0.0
    matching: float = 0.0
    transport: float = 0.0
    probe: float = 0.0
    confidence: float = 0.0


def loss_schedule(progress: float, *, published: bool, confidence: float) -> LossConfig:
    """Settings at a share of the run, 0..1. Published: plain cross entropy, own soft masks in memory from the start."""
    if published:
        return LossConfig(confidence=confidence)
    return LossConfig(
        hard_share=max(0.15, 1 - 0.85 * progress / 0.5),
        own_masks=min(1.0, max(0.0, (progress - 0.3) / 0.4)),
        jaccard=1.0,
        matching=0.3 * max(0.0, 1 - progress / 0.6),
        transport=max(0.2, 1 - progress),
        probe=max(0.1, 0.5 - progress),
        confidence=confidence,
    )


@dataclass(frozen=True)
class Memories:
    """Tokens of every (clip, channel) item so far.

    keys: [M, n, key width]; values: [M, n, value width]; truth: [M, n, 2], shares of the token that are
    the object and that are something else. softness: divides the affinity, see SpaceTimeLearner.
    """

    keys: Tensor
    values: Tensor
    truth: Tensor
    softness: float = 1.0

    def join(self, later: Memories) -> Memories:
        """Both, one after the other."""
        pairs = ((self.keys, later.keys), (self.values, later.values), (self.truth, later.truth))
        keys, values, truth = (torch.cat(pair, dim=1) for pair in pairs)
        return Memories(keys, values, truth, self.softness)

    def affinity(self, query: Tensor) -> Tensor:
        """[M, h * w, key width] queries to [M, h * w, n] scores."""
        return query @ self.keys.transpose(1, 2) / (math.sqrt(query.shape[2]) * self.softness)

    def read(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """[M, h * w, key width] queries to read-outs [M, value width, h * w] and carried masks [M, h * w]."""
        weight = torch.softmax(self.affinity(query).float(), dim=2)
        return (weight.to(self.values.dtype) @ self.values).transpose(1, 2), (weight @ self.truth[..., :1])[..., 0]


@torch.no_grad()
def sharpen(head: nn.Module, softness: float) -> None:
    """Scale an untrained key head so that, read `softness` times as softly, it begins as if there were no softness."""
    for parameter in head.parameters():
        parameter.mul_(math.sqrt(softness))


class SpaceTimeLearner:
    """A memory network in training, for engines.training.trainer.

    confidence: weight of the uncertainty's norm. softness: divides the affinity in training alone. A crop's memory has
    a hundred tokens, a served one thousands; read as softly as in training, the few that match would drown in the rest.
    """

    def __init__(self, net: MemoryNetwork, recipe: Recipe, *, confidence: float = 0.0, softness: float = 1.0) -> None:
        self.net: MemoryNetwork = net
        self._recipe = recipe
        self._confidence = confidence
        self.softness = softness

    def is_encoder(self, name: str) -> bool:
        """Whether a parameter belongs to a trunk."""
        return name.lower().startswith("encoder_")

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Loss of one batch at a step of the recipe's schedule, and its parts for the log."""
        published = self._recipe.preset == "published"
        config = loss_schedule(self._recipe.progress_at(step), published=published, confidence=self._confidence)
        parts = _ClipRun(self, batch, config, generator).losses()
        weights = {"mask": 1.0, **{name: getattr(config, name) for name in PARTS[1:]}}
        loss = sum((parts[name] * weight for name, weight in weights.items()), torch.zeros(()))
        return loss, {name: float(part.detach()) for name, part in parts.items()}

    def segment(self, query: Query, reads: Tensor, channels: Sequence[int]) -> tuple[list[Tensor], Tensor]:
        """Logits [K+1, H, W] of each frame, and what the confidence loss makes of them."""
        return self.net.segment(query, reads, channels), reads.new_zeros(())


class _ClipRun:
    """One batch of clips through the network, frame after frame."""

    def __init__(
        self, learner: SpaceTimeLearner, batch: ClipBatch, config: LossConfig, generator: torch.Generator
    ) -> None:
        self._learner, self._net, self._config = learner, learner.net, config
        self._origin = batch.origin.flatten(2, 3)
        self._clips, self._length = batch.frames.shape[:2]
        side = batch.frames.shape[-1]
        self._geometry = Geometry.of(Size(side, side), side)
        self._frames = self._geometry.pad(batch.frames)
        self._labels, objects = _channel_labels(batch.labels)
        self._counts = [k + int(self._net.has_background) for k in objects]
        self._objects = objects
        self._item_clip = torch.arange(self._clips).repeat_interleave(torch.tensor(self._counts))
        self._own = torch.rand(self._clips, generator=generator) < config.own_masks

    def losses(self) -> dict[str, Tensor]:
        """The mean loss terms over all frames but the first."""
        whole = self._net.encode_query(self._frames.transpose(0, 1).flatten(0, 1))
        memory = first = self._remember(0, [self._truth(b, 0) for b in range(self._clips)])
        parts = {name: torch.zeros((), device=self._frames.device) for name in PARTS}
        share = 1.0 / (self._length - 1)
        for t in range(1, self._length):
            query = self._at(whole, t)
            tokens = query.key.flatten(2).transpose(1, 2)[self._item_clip]
            reads, carried = memory.read(tokens)
            logits, doubt = self._learner.segment(query, reads.unflatten(2, query.key.shape[2:]), self._counts)
            logits = [self._geometry.crop(scores) for scores in logits]
            parts["mask"] = parts["mask"] + share * self._mask_loss(logits, t)
            parts["confidence"] = parts["confidence"] + share * doubt
            if self._config.transport > 0:
                parts["transport"] = parts["transport"] + share * balanced_entropy(carried, *self._shares(t))
            if self._config.matching > 0:
                parts["matching"] = parts["matching"] + share * self._matching(first.affinity(tokens), t)
            if t + 1 < self._length:
                memory = memory.join(self._remember(t, self._fed_back(logits, t)))
        if self._config.probe > 0:
            told = torch.sigmoid(memory.values[..., 0].float())
            parts["probe"] = balanced_entropy(told, memory.truth[..., 0], memory.truth[..., 1])
        return parts

    def _at(self, whole: Query, t: int) -> Query:
        part = slice(t * self._clips, (t + 1) * self._clips)
        return Query(whole.key[part], whole.value[part], whole.r1[part], whole.r2[part], whole.r3[part])

    def _truth(self, clip: int, t: int) -> Tensor:
        channels = torch.arange(self._objects[clip] + 1, device=self._labels.device)
        return (self._labels[clip, t] == channels[:, None, None]).float()

    def _fed_back(self, logits: list[Tensor], t: int) -> list[Tensor]:
        """Probabilities for the memory: the truth, or for some clips what the network itself found."""
        own = self._own.tolist()
        return [
            self._net.probability(scores.detach()) if own[b] else self._truth(b, t) for b, scores in enumerate(logits)
        ]

    def _remember(self, t: int, probabilities: list[Tensor]) -> Memories:
        masks = [self._net.memory_masks(self._geometry.pad(p)) for p in probabilities]
        own, other = (torch.cat([pair[i] for pair in masks]) for i in (0, 1))
        key, value = self._net.encode_memory(self._frames[:, t][self._item_clip], own, other)
        truth = torch.stack(self._shares(t), dim=2)
        keys, values = (x.flatten(2).transpose(1, 2) for x in (key, value))
        return Memories(keys, values, truth, self._learner.softness)

    def _shares(self, t: int) -> tuple[Tensor, Tensor]:
        """[M, h * w] shares of each token that are the item's own channel, and that are known to be something else."""
        padded = (self._geometry.pad(self._truth(b, t)) for b in range(self._clips))
        own = torch.cat([self._net.memory_masks(p)[0] for p in padded])
        known = self._geometry.pad((self._labels[:, t, None] != IGNORE_LABEL).float())[self._item_clip]
        inside, anything = (F.avg_pool2d(x, _TOKEN_PX).flatten(1) for x in (own, known))
        return inside, anything - inside

    def _mask_loss(self, logits: list[Tensor], t: int) -> Tensor:
        total = self._frames.new_zeros(())
        for b, scores in enumerate(logits):
            target = self._labels[b : b + 1, t]
            total = total + hard_cross_entropy(scores[None], target, self._config.hard_share)
            if self._config.jaccard > 0:
                used = torch.ones(1, scores.shape[0], dtype=torch.bool, device=scores.device)
                total = total + self._config.jaccard * soft_jaccard(scores[None], target, used)
        return total / len(logits)

    def _matching(self, scores: Tensor, t: int) -> Tensor:
        """Teach the affinity itself: each frame's queries against the first frame's keys."""
        now, then = (self._origin[self._item_clip, i] for i in (t, 0))
        return matching_loss(scores, now, then, radius_px=0.75 * _TOKEN_PX)


def _channel_labels(labels: Tensor) -> tuple[Tensor, list[int]]:
    """[B, T, S, S] ids to channels 1..K of the objects that the first frame shows, and K of each clip (at least 1)."""
    mapped = torch.zeros_like(labels, dtype=torch.int64)
    counts = []
    for b, clip in enumerate(labels):
        seen = [i for i in clip[0].unique().tolist() if i not in (0, IGNORE_LABEL)]
        mapped[b][clip == IGNORE_LABEL] = IGNORE_LABEL
        for channel, object_id in enumerate(seen, start=1):
            mapped[b][clip == object_id] = channel
        counts.append(max(1, len(seen)))
    return mapped, counts
