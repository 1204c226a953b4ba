"""Where each weight of this network lies in the published TensorFlow checkpoint, and how to turn it.

Published under Apache-2.0 with tensorflow/models research/feelvos.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.checkpoint import Checkpoint, Weights, load_checkpoint
from engines.errors import WeightsError
from engines.feelvos.config import FEELVOS
from engines.feelvos.model import FeelvosNet
from engines.feelvos.tensor_bundle import is_bundle, open_bundle

# From this network's module paths to TensorFlow's variable scopes; the first pattern that fits is applied.
_SCOPES: tuple[tuple[str, str], ...] = (
    (r"trunk\.conv(\d_\d)", r"xception_65/entry_flow/conv\1"),
    (r"trunk\.(entry|exit)_block(\d)", r"xception_65/\1_flow/block\2/unit_1/xception_module"),
    (r"trunk\.middle\.(\d+)", r"xception_65/middle_flow/block1/unit_{}/xception_module"),
    (r"aspp\.image_pooling", "image_pooling"),
    (r"aspp\.branches\.(\d)", r"aspp\1"),
    (r"aspp\.projection", "concat_projection"),
    (r"decoder\.low_projection", "decoder/feature_projection0"),
    (r"decoder\.convs\.(\d)", r"decoder/decoder_conv\1"),
    (r"embedding", "embedding/split_separable_conv2d"),
    (r"head\.layers\.(\d)", r"embedding_seg/split_separable_conv2d_\1"),
    (r"head\.logits", "logits/semantic"),
)

_NORM_LEAVES = {
    "weight": "BatchNorm/gamma",
    "bias": "BatchNorm/beta",
    "running_mean": "BatchNorm/moving_mean",
    "running_var": "BatchNorm/moving_variance",
}


def _scope(path: str) -> tuple[str, str]:
    """TensorFlow's scope of the module at `path`, and the rest of the path that it does not cover."""
    for pattern, replacement in _SCOPES:
        match = re.match(pattern + r"(?=\.|$)", path)
        if match:
            scope = match.expand(replacement)
            if "{}" in scope:  # TensorFlow counts the middle flow's units from 1
                scope = scope.format(int(match.group(1)) + 1)
            return scope, path[match.end() :].lstrip(".")
    raise WeightsError(f"no published counterpart is known for {path!r}; only the Xception-65 variant was published")


def published_name(key: str) -> str:
    """The TensorFlow variable that holds `key` of FeelvosNet's state dict."""
    scope, rest = _scope(key)
    *inner, leaf = rest.split(".")
    for part in inner:
        if part == "separable_conv":
            scope += "/separable_conv"
        elif part.isdigit():
            scope += str(int(part) + 1)
        elif part in ("depthwise", "pointwise"):
            scope += f"_{part}"
        elif part == "shortcut":
            scope += "/shortcut"
    if "norm" in inner:
        return f"{scope}/{_NORM_LEAVES[leaf]}"
    if leaf == "bias":
        return f"{scope}/biases"
    return f"{scope}/depthwise_weights" if scope.endswith("_depthwise") else f"{scope}/weights"


def from_tensorflow(name: str, array: NDArray[np.float32]) -> Tensor:
    """A TensorFlow variable in PyTorch's layout: convolutions become [out, in, height, width]."""
    if array.ndim == 4:
        order = (2, 3, 0, 1) if name.endswith("depthwise_weights") else (3, 2, 0, 1)
        array = array.transpose(order)
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def convert(variables: Mapping[str, NDArray[np.float32]], network: nn.Module) -> dict[str, Tensor]:
    """`network`'s state dict from the published variables; optimizer slots and counters are ignored.

    Raises WeightsError naming what is missing or misshapen.
    """
    state: dict[str, Tensor] = {}
    for key, current in network.state_dict().items():
        name = published_name(key)
        if name not in variables:
            raise WeightsError(f"the checkpoint has no variable {name!r}; is it FEELVOS with Xception-65?")
        state[key] = from_tensorflow(name, variables[name])
        if state[key].shape != current.shape:
            found, wanted = tuple(variables[name].shape), tuple(current.shape)
            raise WeightsError(f"variable {name!r} has shape {found}, which does not turn into {wanted}")
    return state


def read_published(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """`network`'s state dict from a published checkpoint, given as a prefix, a file of it, a folder or the .tar.gz.

    TensorFlow is not needed. Raises WeightsError.
    """
    bundle = open_bundle(path)
    wanted = {published_name(key) for key in network.state_dict()}
    missing = sorted(wanted - bundle.entries.keys())
    if missing:
        raise WeightsError(
            f"{path} lacks {len(missing)} of FEELVOS's {len(wanted)} variables, the first is {missing[0]!r}; "
            "is it a FEELVOS checkpoint with Xception-65?"
        )
    return convert({name: bundle.read(name).astype(np.float32, copy=False) for name in sorted(wanted)}, network)


def load_published(path: Path) -> Checkpoint:
    """A published TensorFlow checkpoint as weights of `feelvos`. Raises WeightsError."""
    with torch.device("meta"):
        network = FeelvosNet(FEELVOS)
    return Checkpoint(read_published(path, network), open_bundle(path).sha256, str(path))


def load_weights(weights: Weights, name: str) -> Checkpoint:
    """All that load_checkpoint() takes, and TensorFlow's checkpoint as it is published. Raises WeightsError."""
    if isinstance(weights, str | Path) and weights != "starter" and is_bundle(Path(weights)):
        return load_published(Path(weights))
    return load_checkpoint(weights, name)
