"""How FEELVOS learns: frames of one clip, matched as they are when served, and the hardest pixels' cross entropy.

Source of the published recipe: Voigtlaender et al. 2019, section 4; `starter` trains from scratch on little data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engines.feelvos.config import CONFIGS
from engines.feelvos.matching import global_matching, local_matching, to_distance
from engines.feelvos.model import FeelvosNet, FrameFeatures, resize_aligned
from engines.feelvos.references import aligned_index, draw_cells
from engines.training.clips import ClipBatch
from engines.training.depthwise import quicken_depthwise
from engines.training.losses import balanced_cross_entropy, hard_cross_entropy, soft_jaccard
from engines.training.recipe import Recipe
from engines.transforms import normalise
from engines.types import IGNORE_LABEL

REFERENCE_SAMPLE = 1024
"""Reference pixels per object, drawn at random (paper)."""

_HARD_SHARE = 0.15
_NEVER = -1e4


@dataclass(frozen=True)
class FeelvosLossConfig:
    """Settings at one point of the schedule.

    hard_share: share of pixels in the cross entropy. own_masks: chance that a clip's previous masks are the network's.
    jaccard: weight of the soft Jaccard term. nearest: weight of the loss that asks of the embedding alone, without the
    head, that each pixel lies nearest to its own object. every_frame: loss on all frames after the first, not on the
    last only.
    """

    hard_share: float
    own_masks: float = 0.0
    jaccard: float = 0.0
    nearest: float = 0.0
    every_frame: bool = False


def loss_schedule(progress: float, *, published: bool) -> FeelvosLossConfig:
    """Settings at a share of the run, 0..1: pixels get harder over the first half."""
    hard_share = max(_HARD_SHARE, 1 - (1 - _HARD_SHARE) * progress / 0.5)
    if published:
        return FeelvosLossConfig(hard_share)
    own_masks = min(1.0, max(0.0, (progress - 0.3) / 0.4))
    nearest = max(0.2, 1 - progress)
    return FeelvosLossConfig(hard_share, own_masks=own_masks, jaccard=1.0, nearest=nearest, every_frame=True)


class FeelvosLearner:
    """A FEELVOS network in training, for engines.training.trainer."""

    def __init__(self, net: FeelvosNet, recipe: Recipe) -> None:
        self.net = net
        self._recipe = recipe

    def loss(self, batch: ClipBatch, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Loss of one batch at a step of the recipe's schedule."""
        config = loss_schedule(self._recipe.progress_at(step), published=self._recipe.preset == "published")
        return clip_loss(self.net, batch, config, generator)

    def is_encoder(self, name: str) -> bool:
        """Whether a parameter belongs to the trunk."""
        return name.startswith("trunk.")


def build_learner(recipe: Recipe, device: torch.device) -> FeelvosLearner:
    """A network with fresh weights; the published preset keeps its batch norms fixed."""
    torch.manual_seed(recipe.seed)
    net = FeelvosNet(CONFIGS[recipe.engine], live_norm=recipe.preset == "starter")
    net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return FeelvosLearner(quicken_depthwise(net) if device.type == "cpu" else net, recipe)


def clip_loss(
    net: FeelvosNet, batch: ClipBatch, config: FeelvosLossConfig, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Loss of one batch of clips, and its parts for the log. `generator` draws reference pixels and own masks."""
    clips, frames = batch.frames.shape[:2]
    features = encode_clips(net, batch.frames)
    parts: dict[str, list[Tensor]] = {"cross_entropy": [], "jaccard": [], "nearest": []}
    for index in range(clips):
        clip = _Clip.of(net, features, batch.labels[index].long(), index, generator)
        own = bool(torch.rand((), generator=generator) < config.own_masks)
        first = 1 if config.every_frame or own else frames - 1
        previous = clip.cells[first - 1]
        for t in range(first, frames):
            logits, squared = clip.logits(t, previous)
            found = clip.ids[logits.detach().argmax(dim=0)]
            previous = found if own else clip.cells[t]
            if config.every_frame or t == frames - 1:
                _add_losses(parts, logits, clip, t, config.hard_share)
                if config.nearest > 0 and squared is not None:
                    parts["nearest"].append(balanced_cross_entropy(-squared[None], clip.channels(clip.cells[t])[None]))
    means = {name: torch.stack(values).mean() for name, values in parts.items() if values}
    loss = means["cross_entropy"] + config.jaccard * means["jaccard"]
    if "nearest" in means:
        loss = loss + config.nearest * means["nearest"]
    return loss, {name: float(value.detach()) for name, value in means.items()}


def encode_clips(net: FeelvosNet, frames: Tensor) -> FrameFeatures:
    """All frames of all clips through the network at once; frame t of clip b is row b * T + t.

    frames: [B, T, 3, S, S] RGB, 0..1.
    """
    features: FrameFeatures = net(normalise(frames.flatten(0, 1) * 255, net.config.color))
    return features


@dataclass(frozen=True)
class _Clip:
    """One clip of a batch.

    labels: [T, S, S] int64; cells: [T, h, w] the same at feature size; ids: [K+1] background and the objects that the
    first frame shows. drawn: the reference pixels. shared, embedding: of every frame, [T, C, h, w] and [T, h, w, E].
    """

    net: FeelvosNet
    labels: Tensor
    cells: Tensor
    ids: Tensor
    drawn: Tensor
    shared: Tensor
    embedding: Tensor

    @classmethod
    def of(
        cls, net: FeelvosNet, features: FrameFeatures, labels: Tensor, index: int, generator: torch.Generator
    ) -> _Clip:
        """Clip `index` of encode_clips()'s features; `generator` draws its reference pixels."""
        frames = labels.shape[0]
        mine = slice(index * frames, (index + 1) * frames)
        embedding = features.embedding[mine].permute(0, 2, 3, 1).float()
        rows, columns = (
            torch.from_numpy(aligned_index(full, small)).to(labels.device)
            for full, small in zip(labels.shape[1:], embedding.shape[1:3], strict=True)
        )
        cells = labels[:, rows][:, :, columns]
        ids = cells[0].unique()
        ids = torch.cat([ids.new_zeros(1), ids[(ids > 0) & (ids != IGNORE_LABEL)]])
        seed = int(torch.randint(1 << 31, (), generator=generator))
        drawn = draw_cells(cells[0], ids.tolist(), REFERENCE_SAMPLE, seed)
        return cls(net, labels, cells, ids, drawn, features.shared[mine], embedding)

    def logits(self, t: int, previous: Tensor) -> tuple[Tensor, Tensor | None]:
        """[K+1, h, w] of frame t, given [h, w] labels of the frame before, and global squared distances, as large."""
        with torch.autocast(previous.device.type, enabled=False):  # squared distances need every bit of float32
            squared = self._global_squared(t) if self.net.config.use_global else None
            own = torch.stack(self._object_maps(t, previous, squared), dim=1)
        owner = torch.zeros(len(self.ids), dtype=torch.long, device=own.device)
        logits: Tensor = self.net.head(self.shared[t : t + 1], own.to(self.shared.dtype), owner)
        return logits.float(), squared

    def _global_squared(self, t: int) -> Tensor:
        reference, identity = self.embedding[0].flatten(0, 1)[self.drawn], self.cells[0].flatten()[self.drawn]
        match = global_matching(self.embedding[t].flatten(0, 1), reference, identity, self.ids.tolist())
        return match.squared.view(-1, *self.embedding.shape[1:3])

    def _object_maps(self, t: int, previous: Tensor, squared: Tensor | None) -> list[Tensor]:
        """[K+1, h, w] global distance, previous mask and local distance, those that the variant uses."""
        config, names = self.net.config, self.ids.tolist()
        maps = [] if squared is None else [to_distance(squared)]
        if config.use_previous:
            maps.append((self.ids[:, None, None] == previous).float())
        if config.use_local:
            query, before = self.embedding[t], self.embedding[t - 1]
            maps.append(local_matching(query, before, previous, names, window=config.window))
        return maps

    def target(self, t: int) -> Tensor:
        """[S, S] channels of frame t."""
        return self.channels(self.labels[t])

    def channels(self, labels: Tensor) -> Tensor:
        """Label map to channels; IGNORE_LABEL where an object is that the first frame does not show."""
        channel = torch.full((IGNORE_LABEL + 1,), IGNORE_LABEL, device=self.ids.device)
        channel[self.ids] = torch.arange(len(self.ids), device=self.ids.device)
        return channel[labels]


def _add_losses(parts: dict[str, list[Tensor]], logits: Tensor, clip: _Clip, t: int, hard_share: float) -> None:
    target = clip.target(t)[None]
    full = resize_aligned(logits[None], (target.shape[1], target.shape[2]))
    parts["cross_entropy"].append(hard_cross_entropy(full, target, hard_share))
    known = target != IGNORE_LABEL
    used = torch.ones(1, full.shape[1], dtype=torch.bool, device=full.device)
    # What the first frame does not show is background to the overlap, whatever the network says of it.
    background = torch.full_like(full, _NEVER)
    background[:, 0] = 0.0
    judged = torch.where(known[:, None], full, background)
    parts["jaccard"].append(soft_jaccard(judged, target.where(known, 0), used))
