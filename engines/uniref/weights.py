"""Published checkpoints: what their tensors are called, and what the network here calls them.

Licence of the published weights: MIT (FoundationVision/UniRef).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from engines.errors import WeightsError
from engines.layers.products import recast_linear
from engines.uniref.config import UniRefConfig
from engines.uniref.model import UniRef

LICENCE = "MIT"

_COUNTER = ".num_batches_tracked"

_PREFIXES = (
    ("detr.detr.backbone.0.backbone.", "backbone."),
    ("detr.detr.input_proj.", "input_proj."),
    ("detr.detr.transformer.", "transformer."),
    ("detr.detr.", "transformer."),  # class_embed, bbox_embed, query_embed
    ("detr.fusion_module.", "fusion.blocks.0."),
    ("detr.", "mask_head."),  # mask_head, controller, lateral_conv, output_conv, mask_conv
    ("text_encoder.", "text_encoder.bert."),
    ("resizer.", "text_encoder.resizer."),
    ("value_encoder.", "mask_encoder."),
)

# The released file lists the heads twice, and carries a counter of the training loss.
_IGNORED = re.compile(
    r"detr\.detr\.transformer\.decoder\.(bbox|class)_embed\.|criterion\.|text_encoder\.embeddings\.position_ids$"
)

_RESNET = (
    (re.compile(r"^stem\.conv1\.norm\."), "bn1."),
    (re.compile(r"^stem\.conv1\."), "conv1."),
    (re.compile(r"^res(\d)\.(\d+)\.shortcut\.norm\."), r"layer{stage}.\2.downsample.1."),
    (re.compile(r"^res(\d)\.(\d+)\.shortcut\."), r"layer{stage}.\2.downsample.0."),
    (re.compile(r"^res(\d)\.(\d+)\.conv(\d)\.norm\."), r"layer{stage}.\2.bn\3."),
    (re.compile(r"^res(\d)\.(\d+)\.conv(\d)\."), r"layer{stage}.\2.conv\3."),
)


def _resnet_name(name: str) -> str:
    for pattern, target in _RESNET:
        match = pattern.match(name)
        if match:
            stage = int(match.group(1)) - 1 if match.groups() else 0
            return pattern.sub(target.replace("{stage}", str(stage)), name)
    return name


def convert_name(published: str) -> str | None:
    """The network's name of a published tensor; None for those that it does not need."""
    if _IGNORED.match(published):
        return None
    for prefix, target in _PREFIXES:
        if published.startswith(prefix):
            rest = published[len(prefix) :]
            return target + (_resnet_name(rest) if target == "backbone." else rest)
    return published


def convert(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict (or one of this project's, which passes unchanged) under the network's names."""
    if not any(name.startswith("detr.") for name in checkpoint):
        return dict(checkpoint)
    named = ((convert_name(name), tensor) for name, tensor in checkpoint.items())
    return {name: tensor for name, tensor in named if name is not None}


def vocabulary_beside(weights: object) -> Path | None:
    """The vocabulary file of a weights file: `<file>.vocab.txt` or `vocab.txt` in the same folder."""
    if not isinstance(weights, str | Path):
        return None
    path = Path(weights)
    beside = (path.with_name(path.name + ".vocab.txt"), path.with_name("vocab.txt"))
    return next((file for file in beside if file.is_file()), None)


def build(config: UniRefConfig, checkpoint: Mapping[str, Tensor]) -> UniRef:
    """The network with these weights, in eval mode; tensors are taken over, not copied. Raises WeightsError.

    Without any tensors it stays untrained, for timings.
    """
    if not checkpoint:
        return _for_serving(UniRef(config))
    with torch.device("meta"):
        model = UniRef(config)
    expected = model.state_dict()
    state = {name: _full(value) for name, value in convert(checkpoint).items()}
    # Counters that only training reads; files for serving leave them out.
    state |= {name: torch.tensor(0) for name in expected if name.endswith(_COUNTER) and name not in state}
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    shapes = [n for n in expected.keys() & state.keys() if expected[n].shape != state[n].shape]
    for what, names in (("lacks", missing), ("has unknown", unexpected), ("has other shapes of", sorted(shapes))):
        if names:
            some = ", ".join(names[:3])
            raise WeightsError(f"the checkpoint {what} {len(names)} tensors ({some}, …): is it of another variant?")
    model.load_state_dict(state, assign=True)
    _drop_unsaved_buffers(model)
    return _for_serving(model)


def _for_serving(model: UniRef) -> UniRef:
    recast_linear(model)
    return model.eval()


def _full(tensor: Tensor) -> Tensor:
    """Half-precision files are computed with in single precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _drop_unsaved_buffers(model: UniRef) -> None:
    """BERT's position and type ids are given with every call; its own copies were never filled."""
    for module in model.modules():
        for name in list(module._non_persistent_buffers_set):
            module._buffers[name] = None
