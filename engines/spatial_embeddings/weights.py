"""Checkpoints of SpatialEmbeddings: names and shapes, and the network that a file asks for.

Published layout: `model_state_dict`, every name with the data-parallel prefix `module.`. Licence of the published
weights: CC BY-NC 4.0 (davyneven/SpatialEmbeddings).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from engines.checkpoint import Checkpoint, fit
from engines.errors import WeightsError
from engines.spatial_embeddings.config import NetworkConfig
from engines.spatial_embeddings.model import BranchedERFNet

LICENCE = "CC BY-NC 4.0"
_SHAPES_FROM = ("decoders.0.output_conv.bias", "decoders.1.output_conv.bias")


def config_of(tensors: Mapping[str, Tensor], origin: str) -> NetworkConfig:
    """Sigmas and classes of a checkpoint, read off its last layers. Raises WeightsError."""
    missing = [name for name in _SHAPES_FROM if name not in tensors]
    if missing:
        raise WeightsError(f"{origin} is no branched ERFNet: {', '.join(missing)} is missing")
    margins, classes = (int(tensors[name].shape[0]) for name in _SHAPES_FROM)
    if margins not in (3, 4):
        raise WeightsError(f"{origin}: {margins} maps in the first branch; 3 (circles) or 4 (ellipses) are possible")
    return NetworkConfig(num_sigmas=margins - 2, num_classes=classes)


def load_network(checkpoint: Checkpoint) -> BranchedERFNet:
    """The network with these weights, in eval mode. Raises WeightsError."""
    network = BranchedERFNet(config_of(checkpoint.tensors, checkpoint.origin))
    fit(network, checkpoint, "spatial-embeddings")
    return network.eval()
