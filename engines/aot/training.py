"""How AOT and DeAOT learn: one clip after the other through the network as it is served, and the losses.

Source of the published recipe: Yang et al. 2021 and 2022; `starter` is what trains from scratch on little data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.aot.cells import pool_cells
from engines.aot.config import CHANNELS_PER_GROUP, OBJECTS_PER_GROUP, STRIDE, VARIANTS
from engines.aot.model import AotNet, EncodedFrame, join_memory, reader_of
from engines.aot.propagation import LayerMemory
from engines.aot.target_model import CELL_PX, ridge_sums, score, solve, target_features
from engines.training.clips import ClipBatch
from engines.training.depthwise import quicken_depthwise
from engines.training.losses import (
    balanced_cross_entropy,
    hard_cross_entropy,
    matching_loss,
    soft_jaccard,
    transport_loss,
)
from engines.training.recipe import Recipe
from engines.transforms import normalise
from engines.types import IGNORE_LABEL

PARTS = ("mask", "reference", "matching", "transport", "target", "identity")
_UNUSED = -1e4
_SELDOM = 100
"""From this gap on, a served memory is next to only the references, and so is a training clip's."""

_LOSS_STRIDE = 2
_LOGIT_STRIDE = 4
_SHARPNESS = 8.0
"""What the target model's scores, which lie between 0 and 1, are multiplied by to be logits of their own loss."""


@dataclass(frozen=True)
class AotLossConfig:
    """Weights and shares at one point of the schedule.

    hard_share: share of pixels in the cross entropy. own_masks: chance that a clip's memory holds predicted masks.
    memorize: chance that a frame joins the long-term memory. reference, matching, transport, identity: weights of the
    auxiliary losses. matching and transport teach the affinity itself: to find the same point again, and to carry the
    true labels onto the true labels; target teaches features that a target model tells objects apart by; identity asks
    for the right slot among all ten, not only among those in use. target_gain: weight of the target model's scores in
    the logits, as when served.
    """

    hard_share: float
    own_masks: float
    memorize: float = 0.5
    reference: float = 0.0
    matching: float = 0.0
    transport: float = 0.0
    target: float = 0.0
    target_gain: float = 0.0
    identity: float = 0.0


class AotLearner:
    """An AOT or DeAOT network in training, for engines.training.trainer."""

    def __init__(self, net: AotNet, recipe: Recipe) -> None:
        self.net = net
        self._recipe = recipe

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Loss of one batch at a step of the recipe's schedule."""
        config = loss_schedule(self._recipe.progress_at(step), published=self._recipe.preset == "published")
        if self._recipe.memorize_every > _SELDOM:
            config = replace(config, memorize=min(config.memorize, 0.2))
        if gain := self._recipe.target_gain:
            config = replace(config, target=max(0.3, 1 - self._recipe.progress_at(step)), target_gain=gain)
        return clip_loss(self.net, batch, config, generator)

    def is_encoder(self, name: str) -> bool:
        """Whether a parameter belongs to the trunk."""
        return name.startswith("encoder.")


def build_learner(recipe: Recipe, device: torch.device) -> AotLearner:
    """A network with fresh weights; the published preset keeps its batch norms fixed."""
    torch.manual_seed(recipe.seed)
    config = replace(VARIANTS[recipe.engine], live_norm=recipe.preset == "starter")
    net = AotNet(config).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return AotLearner(quicken_depthwise(net) if device.type == "cpu" else net, recipe)


def loss_schedule(progress: float, *, published: bool) -> AotLossConfig:
    """Settings at a share of the run, 0..1: pixels get harder, memories get the network's own masks."""
    hard_share = max(0.15, 1 - 0.85 * progress / 0.5)
    if published:
        return AotLossConfig(hard_share, own_masks=float(progress > 0.5), memorize=0.0, reference=float(progress < 0.1))
    return AotLossConfig(
        hard_share,
        own_masks=min(1.0, max(0.0, (progress - 0.3) / 0.4)),
        reference=0.5 * max(0.0, 1 - progress / 0.5),
        matching=0.3 * max(0.0, 1 - progress / 0.6),
        transport=max(0.2, 1 - progress),
        identity=max(0.25, 1 - progress),
    )


@dataclass(frozen=True)
class ClipTargets:
    """labels: [B, T, S, S] int64 ids 0..K or IGNORE_LABEL.

    slots: [B, K + 1] identity slot of each id. used: [B, K + 1] bool.
    """

    labels: Tensor
    slots: Tensor
    used: Tensor

    def one_hot(self, ids: Tensor) -> Tensor:
        """[B, S, S] ids to [B, 11, S, S] float in identity slots; IGNORE_LABEL is in none of them, as when served."""
        slots = self.slots_of(ids)
        channels = torch.arange(CHANNELS_PER_GROUP, device=ids.device).view(-1, 1, 1)
        return (slots[:, None] == channels).float()

    def slots_of(self, ids: Tensor) -> Tensor:
        """[B, h, w] ids to identity slots; IGNORE_LABEL stays what it is."""
        unknown = ids == IGNORE_LABEL
        slots = self.slots.gather(1, ids.masked_fill(unknown, 0).flatten(1)).view(ids.shape)
        return slots.masked_fill(unknown, IGNORE_LABEL)

    def shown(self, t: int) -> Tensor:
        """[B, K + 1, S, S] float, 1 where a frame shows an id."""
        ids = torch.arange(self.used.shape[1], device=self.labels.device).view(-1, 1, 1)
        return (self.labels[:, t, None] == ids).float()

    def shares(self, t: int) -> Tensor:
        """[B, N, K + 1] how much of each token of a frame shows each id."""
        shown = self.shown(t)
        aligned = bool(shown.shape[-1] % STRIDE)  # whether tokens lie on corners or in the middle of their pixels
        return pool_cells(shown, STRIDE, align_corners=aligned).flatten(2).transpose(1, 2)

    def in_use(self, logits: Tensor) -> Tensor:
        """[B, 11, h, w] logits by slot to [B, K + 1, h, w] by id; ids that the clip does not have cannot win."""
        index = self.slots[:, :, None, None].expand(-1, -1, *logits.shape[-2:])
        return logits.gather(1, index).masked_fill(~self.used[:, :, None, None], _UNUSED)


def assign_slots(labels: Tensor, generator: torch.Generator) -> ClipTargets:
    """Give each clip's ids 1..K random identity slots, so that all ten get trained.

    labels: [B, T, S, S] uint8.
    """
    batch, most = labels.shape[0], max(1, int(labels.masked_fill(labels == IGNORE_LABEL, 0).max()))
    order = torch.rand(batch, OBJECTS_PER_GROUP, generator=generator).argsort(dim=1)[:, :most] + 1
    slots = torch.cat([torch.zeros(batch, 1, dtype=torch.long), order], dim=1).to(labels.device)
    ids = labels.long()
    used = torch.stack([(ids[:, 0] == i).flatten(1).any(dim=1) for i in range(most + 1)], dim=1)
    used[:, 0] = True
    return ClipTargets(ids, slots, used)


def clip_loss(
    net: AotNet, batch: ClipBatch, config: AotLossConfig, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch of clips, and its parts for the log. `generator` decides slots, own masks and memory."""
    frames = batch.frames.shape[1]
    targets = assign_slots(batch.labels, generator)
    encoded = _encode_clip(net, batch.frames)
    step = net.reference_step(encoded[0], net.embed_ids(targets.one_hot(targets.labels[:, 0])))
    long_term: Sequence[LayerMemory] = step.memory or ()
    short_term = long_term
    parts = dict.fromkeys(PARTS, torch.zeros(()))
    if config.reference > 0 or config.identity > 0:
        logits = net.decode(step, encoded[0])
        parts["reference"] = mask_loss(logits, targets, 0, config.hard_share)
        parts["identity"] = identity_loss(logits, targets, 0) / frames
    keys = [step.queries[0].key]
    target_model = _TargetModel(net, encoded[0], targets) if config.target_gain > 0 else None
    for t in range(1, frames):
        step = net.propagate_step(encoded[t], reader_of(long_term, net.config.heads), [short_term])
        logits = net.decode(step, encoded[t])
        if target_model is not None:
            scores = target_model.score(encoded[t])
            parts["target"] = parts["target"] + target_model.loss(scores, t) / (frames - 1)
            logits = logits + config.target_gain * target_model.in_slots(scores, logits)
        parts["mask"] = parts["mask"] + mask_loss(logits, targets, t, config.hard_share) / (frames - 1)
        if config.identity > 0:
            parts["identity"] = parts["identity"] + identity_loss(logits, targets, t) / frames
        keys.append(step.queries[0].key)
        if t + 1 < frames:
            fed = _fed_back(logits, targets, t, config.own_masks, generator)
            short_term = net.remember(step, net.embed_ids(fed))
            if float(torch.rand((), generator=generator)) < config.memorize:
                long_term = join_memory(long_term, short_term)
    if config.matching > 0 or config.transport > 0:
        parts["matching"], parts["transport"] = _affinity_losses(keys, batch.origin, targets, net.config.heads)
    weights = {"mask": 1.0, **{name: getattr(config, name) for name in PARTS[1:]}}
    loss = sum((parts[name] * weight for name, weight in weights.items()), torch.zeros(()))
    return loss, {name: float(part.detach()) for name, part in parts.items()}


class _TargetModel:
    """The target models of a batch of clips, fitted to their first frames."""

    def __init__(self, net: AotNet, first: EncodedFrame, targets: ClipTargets) -> None:
        self._aligned, self._targets = net.config.align_corners, targets
        with torch.autocast(first.tokens.device.type, enabled=False):
            features = target_features(first.maps, align_corners=self._aligned)
            shares = pool_cells(targets.shown(0), CELL_PX, align_corners=self._aligned)
            self._weights = solve(*ridge_sums(features, shares))

    def score(self, encoded: EncodedFrame) -> Tensor:
        """[B, K + 1, h8, w8] of a later frame."""
        with torch.autocast(encoded.tokens.device.type, enabled=False):
            return score(encoded.maps, self._weights, align_corners=self._aligned)

    def loss(self, scores: Tensor, t: int) -> Tensor:
        """Cross entropy of the scores alone."""
        labels = self._targets.labels[:, t, ::CELL_PX, ::CELL_PX]
        unused = ~self._targets.used[:, :, None, None]
        return balanced_cross_entropy((_SHARPNESS * scores).masked_fill(unused, _UNUSED), labels)

    def in_slots(self, scores: Tensor, logits: Tensor) -> Tensor:
        """The scores of the ids in use in their slots, at the logits' size; 0 elsewhere."""
        resized = F.interpolate(scores, logits.shape[-2:], mode="bilinear", align_corners=self._aligned)
        resized = resized * self._targets.used[:, :, None, None]
        index = self._targets.slots[:, :, None, None].expand_as(resized)
        return torch.zeros_like(logits, dtype=resized.dtype).scatter_add(1, index, resized)


def mask_loss(logits: Tensor, targets: ClipTargets, t: int, hard_share: float) -> Tensor:
    """Half cross entropy on the hardest pixels, half soft Jaccard, at half the input's resolution."""
    labels = targets.labels[:, t, ::_LOSS_STRIDE, ::_LOSS_STRIDE]
    logits = F.interpolate(targets.in_use(logits).float(), labels.shape[-2:], mode="bilinear", align_corners=True)
    return 0.5 * hard_cross_entropy(logits, labels, hard_share) + 0.5 * soft_jaccard(logits, labels, targets.used)


def identity_loss(logits: Tensor, targets: ClipTargets, t: int) -> Tensor:
    """Cross entropy over the background and all ten slots, at a quarter of the input's resolution.

    Among the slots in use alone, a clip of one object would teach nothing of which slot it is in; from scratch, on
    little data, that leaves the network unable to tell objects apart.
    """
    labels = targets.labels[:, t, ::_LOGIT_STRIDE, ::_LOGIT_STRIDE]
    return balanced_cross_entropy(logits, targets.slots_of(labels))


def _encode_clip(net: AotNet, frames: Tensor) -> list[EncodedFrame]:
    """All frames of all clips through the encoder at once; one EncodedFrame of batch B per frame."""
    batch, count = frames.shape[:2]
    whole = net.encode(normalise(frames.transpose(0, 1).flatten(0, 1) * 255))
    tokens = whole.tokens.split(batch)
    adapted, maps = ([x.split(batch) for x in each] for each in (whole.adapted, whole.maps))
    return [
        EncodedFrame(tokens[t], (adapted[0][t], adapted[1][t], adapted[2][t]), whole.grid, tuple(x[t] for x in maps))
        for t in range(count)
    ]


def _fed_back(logits: Tensor, targets: ClipTargets, t: int, chance: float, generator: torch.Generator) -> Tensor:
    """One-hot label maps for the memory: the truth, or for some clips what the network itself found."""
    truth = targets.labels[:, t]
    own = (torch.rand(len(truth), generator=generator) < chance).to(truth.device)
    if not bool(own.any()):
        return targets.one_hot(truth)
    seen = targets.in_use(logits.detach()).float()
    found = F.interpolate(seen, truth.shape[-2:], mode="bilinear", align_corners=True).contiguous().argmax(dim=1)
    return targets.one_hot(torch.where(own[:, None, None], found, truth))


def _affinity_losses(keys: list[Tensor], origin: Tensor, targets: ClipTargets, heads: int) -> tuple[Tensor, Tensor]:
    """Matching and transport: each frame's keys against the first and the previous frame's."""
    scale = (keys[0].shape[-1] / heads) ** -0.5 / heads
    matching = transport = keys[0].new_zeros((), dtype=torch.float32)
    origin = origin.flatten(2, 3)  # [B, T, N, 3]
    pairs = sorted({(t, s) for t in range(1, len(keys)) for s in (0, t - 1)})
    shares = [targets.shares(t) for t in range(len(keys))]
    for t, s in pairs:
        scores = keys[t] @ keys[s].transpose(1, 2) * scale
        matching = matching + matching_loss(scores, origin[:, t], origin[:, s], radius_px=0.75 * STRIDE)
        transport = transport + transport_loss(scores, shares[t], shares[s])
    return matching / len(pairs), transport / len(pairs)
