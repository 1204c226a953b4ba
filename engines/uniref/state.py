"""Snapshots of what a track remembers: every tensor once, however many objects share it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from torch import Tensor

from engines.types import TrackState
from engines.uniref.unifusion import Reference, ReferenceTokens
from engines.uniref.video import ObjectMemory, Objects

_ROLES = ("text", "first", "latest", "previous")


class _Packer:
    """Numbers references and tensors in the order in which they are met."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.references: list[list[list[str | None]]] = []
        self._tensor_names: dict[tuple[int, tuple[int, ...]], str] = {}
        self._reference_numbers: dict[int, int] = {}

    def _tensor(self, tensor: Tensor | None) -> str | None:
        if tensor is None:
            return None
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in self._tensor_names:
            self._tensor_names[key] = f"tensor{len(self._tensor_names)}"
            self.tensors[self._tensor_names[key]] = tensor.detach().to("cpu", copy=True).contiguous()
        return self._tensor_names[key]

    def reference(self, reference: Reference | None) -> int | None:
        if reference is None:
            return None
        if id(reference) not in self._reference_numbers:
            self._reference_numbers[id(reference)] = len(self.references)
            self.references.append(
                [[self._tensor(t) for t in (p.keys, p.values, p.condition, p.padding)] for p in reference]
            )
        return self._reference_numbers[id(reference)]


def pack(objects: Objects[Reference]) -> TrackState:
    """All that the objects are remembered by, copied to the host."""
    packer = _Packer()
    roles = {
        str(object_id): [packer.reference(getattr(memory, role)) for role in _ROLES]
        for object_id, memory in objects.items()
    }
    meta = {"objects": json.dumps(roles), "references": json.dumps(packer.references)}
    return TrackState(meta, packer.tensors)


def unpack(state: TrackState, device: torch.device) -> Objects[Reference]:
    """The memories that pack() saw, sharing what they shared."""
    tensors = {name: tensor.to(device, copy=True) for name, tensor in state.tensors.items()}
    packed = json.loads(str(state.meta["references"]))
    references = [tuple(_tokens(part, tensors) for part in parts) for parts in packed]
    objects: Objects[Reference] = {}
    for object_id, numbers in json.loads(str(state.meta["objects"])).items():
        held = {role: None if n is None else references[n] for role, n in zip(_ROLES, numbers, strict=True)}
        objects[int(object_id)] = ObjectMemory(**held)
    return objects


def _tokens(names: list[str | None], tensors: Mapping[str, Tensor]) -> ReferenceTokens:
    keys, values, condition, padding = (None if name is None else tensors[name] for name in names)
    if keys is None or values is None or condition is None:
        raise ValueError("a reference in the snapshot lacks its tokens")
    return ReferenceTokens(keys, values, condition, padding)


def held_tensors(objects: Objects[Reference]) -> list[Tensor]:
    """Every tensor that the memories keep alive, once."""
    unique: dict[int, Tensor] = {}
    for memory in objects.values():
        for role in _ROLES:
            for part in getattr(memory, role) or ():
                for tensor in (part.keys, part.values, part.condition):
                    unique.setdefault(tensor.data_ptr(), tensor)
    return list(unique.values())
