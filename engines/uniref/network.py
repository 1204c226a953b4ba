"""UniRef as the video rules want it: frames are encoded once, objects are found a few at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engines.uniref.inference import find
from engines.uniref.model import ImageFeatures, UniRef, mask_keys
from engines.uniref.unifusion import Reference, ReferenceTokens, join
from engines.uniref.video import ObjectMemory


def split_reference(reference: Reference, index: int) -> Reference:
    """One batch entry of a reference; shares its storage."""
    return tuple(
        ReferenceTokens(
            part.keys[index : index + 1],
            part.values[index : index + 1],
            part.condition[index : index + 1],
            None if part.padding is None else part.padding[index : index + 1],
        )
        for part in reference
    )


def _batch(references: Sequence[Reference]) -> Reference:
    """References of several objects, equally long, as one batch."""
    if len(references) == 1:
        return references[0]
    return tuple(
        ReferenceTokens(
            torch.cat([part.keys for part in parts]),
            torch.cat([part.values for part in parts]),
            torch.cat([part.condition for part in parts]),
        )
        for parts in zip(*references, strict=True)
    )


class VideoNetwork:
    """Implements `engines.uniref.video.Network`.

    objects_per_pass: how many objects go through the transformer together. 1 makes the result of an object
    independent of how many others there are, to the last bit. text_alone: masks found by a text are left unused
    (as released for Ref-DAVIS).
    """

    def __init__(self, model: UniRef, *, objects_per_pass: int = 1, text_alone: bool = False) -> None:
        self.model = model
        self.objects_per_pass = objects_per_pass
        self.text_alone = text_alone

    def encode(self, frame: ImageFeatures, masks: Tensor) -> list[Reference]:
        """[n, 1, H, W] masks at the padded size to n references, one at a time, so that none depends on another."""
        keys = mask_keys(frame)
        return [self.model.encode_masks(frame, masks[index : index + 1], keys) for index in range(len(masks))]

    def _references(self, memory: ObjectMemory[Reference]) -> list[Reference]:
        masks = memory.masks()
        if memory.text is None:
            return [join(masks)]
        if self.text_alone or not masks:
            return [memory.text]
        return [memory.text, join(masks)]

    def find(self, frame: ImageFeatures, objects: Sequence[ObjectMemory[Reference]]) -> tuple[Tensor, Tensor]:
        """Mask logits [n, H, W] and scores [n]."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, memory in enumerate(objects):
            shape = tuple(part[0].keys.shape[1] for part in self._references(memory))
            groups.setdefault((int(memory.text is not None), *shape), []).append(index)
        logits: dict[int, Tensor] = {}
        scores: dict[int, Tensor] = {}
        for (with_text, *_), members in groups.items():
            for start in range(0, len(members), self.objects_per_pass):
                chunk = members[start : start + self.objects_per_pass]
                kinds = zip(*(self._references(objects[index]) for index in chunk), strict=True)
                found = find(self.model, frame, [_batch(kind) for kind in kinds], full_size=not with_text)
                logits.update(zip(chunk, found.logits, strict=True))
                scores.update(zip(chunk, found.scores, strict=True))
        order = range(len(objects))
        return torch.stack([logits[index] for index in order]), torch.stack([scores[index] for index in order])
