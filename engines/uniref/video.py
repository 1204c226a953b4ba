"""The video rules of UniRef++: what each object is remembered by, and how objects share a frame.

Knows no network: the `Network` it is given encodes and finds, so the rules are tested on made-up outputs.
Source: UniRef++, Wu et al. 2023, §3.5, and its released inference code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from engines.uniref.inference import MASK_THRESHOLD, Geometry, network_masks, probability_maps

F_contra = TypeVar("F_contra", contravariant=True)
R = TypeVar("R")


@dataclass
class ObjectMemory(Generic[R]):
    """What one object is known by: never more than a text and three masks, so memory does not grow.

    first and latest are the client's; previous is the newest frame in which the object was found.
    """

    text: R | None = None
    first: R | None = None
    latest: R | None = None
    previous: R | None = None

    def masks(self) -> list[R]:
        """The mask references, each once: attending to the same tokens twice changes nothing."""
        kept: list[R] = []
        for reference in (self.first, self.latest, self.previous):
            if reference is not None and all(reference is not other for other in kept):
                kept.append(reference)
        return kept

    def give(self, reference: R) -> None:
        """Take a mask of the client."""
        self.first = reference if self.first is None else self.first
        self.latest = self.previous = reference

    def found(self, reference: R) -> None:
        """Take a mask that the network found. For a text, the first find stands in for the client's mask."""
        self.first = reference if self.first is None else self.first
        self.previous = reference


class Network(Protocol[F_contra, R]):
    """What the video rules need of a network."""

    def encode(self, frame: F_contra, masks: Tensor) -> list[R]:
        """[n, 1, H, W] masks at the padded network size to n references."""
        ...

    def find(self, frame: F_contra, objects: Sequence[ObjectMemory[R]]) -> tuple[Tensor, Tensor]:
        """Mask logits [n, H, W] at the padded network size, and the probability [n] that each object is there."""
        ...


Objects = dict[int, ObjectMemory[R]]
"""By the client's object id."""


def predict(
    network: Network[F_contra, R],
    frame: F_contra,
    objects: Mapping[int, ObjectMemory[R]],
    geometry: Geometry,
    threshold: float | None,
) -> dict[int, Tensor]:
    """Probability [H, W] of every object at the displayed size; all zero where its score is not above the threshold."""
    if not objects:
        return {}
    logits, scores = network.find(frame, list(objects.values()))
    maps = probability_maps(logits, geometry)
    if threshold is not None:
        maps = maps * (scores > threshold).to(maps)[:, None, None]
    return dict(zip(objects, maps, strict=True))


def soft_aggregate(probabilities: Mapping[int, Tensor]) -> Tensor:
    """Objects by ascending id to [K + 1, H, W]: the background is where no object is."""
    stacked = torch.stack([probabilities[object_id] for object_id in sorted(probabilities)])
    return torch.cat(((1 - stacked).prod(0, keepdim=True), stacked))


def labels_of(probabilities: Mapping[int, Tensor]) -> Tensor:
    """The [H, W] uint8 label map in the client's ids."""
    channel = soft_aggregate(probabilities).argmax(0)
    ids = torch.tensor([0, *sorted(probabilities)], dtype=torch.uint8, device=channel.device)
    return ids[channel]


def remember(
    network: Network[F_contra, R],
    frame: F_contra,
    objects: Mapping[int, ObjectMemory[R]],
    masks: Mapping[int, Tensor],
    geometry: Geometry,
) -> None:
    """Feed the masks [H, W] that were found; an empty one leaves the memory as it was."""
    seen = [object_id for object_id, mask in masks.items() if bool(mask.any())]
    if not seen:
        return
    stacked = torch.stack([masks[object_id] for object_id in seen])
    for object_id, reference in zip(seen, network.encode(frame, network_masks(stacked, geometry)), strict=True):
        objects[object_id].found(reference)


def label_masks(labels: Tensor, object_ids: Collection[int]) -> dict[int, Tensor]:
    """A label map as one bool mask per object."""
    return {object_id: labels == object_id for object_id in object_ids}


def text_step(
    network: Network[F_contra, R],
    frame: F_contra,
    memory: ObjectMemory[R],
    geometry: Geometry,
    threshold: float | None,
) -> Tensor:
    """Text video segmentation, one expression, one frame: the mask [H, W], which the memory has taken.

    Until something is found the text alone decides; from then on text and masks together.
    """
    probability = predict(network, frame, {0: memory}, geometry, threshold)[0]
    mask = probability > MASK_THRESHOLD
    remember(network, frame, {0: memory}, {0: mask}, geometry)
    return mask
