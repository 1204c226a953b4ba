"""The proposer around the network: published files, geometry, and the doors of the registry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from engines.errors import UnknownEngine, UnsupportedReference, WeightsError
from engines.protocols import Proposer, ThoroughProposer
from engines.registry import create, create_proposer
from engines.spatial_embeddings.config import ClusterConfig, NetworkConfig
from engines.spatial_embeddings.engine import ProposeConfig, SpatialEmbeddingsProposer, network_input
from engines.spatial_embeddings.model import BranchedERFNet


class Painted(BranchedERFNet):
    """The network's place, taken by maps that are read off the colours: red is an object, all its pixels agree."""

    def forward(self, image: Tensor) -> Tensor:
        red = (image[:, :1] > 0.5).float()
        y, x = torch.meshgrid(torch.arange(image.shape[2]), torch.arange(image.shape[3]), indexing="ij")
        offsets = torch.atanh(-torch.stack([x / 1023.5, y / 1023.0])[None].float())  # everything at the origin
        sigma = torch.full_like(red, 1.0)
        return torch.cat([offsets, sigma, 8.0 * red - 4.0], 1)


def red_square(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    frame = np.zeros((height, width, 3), np.uint8)
    frame[height // 4 : height // 2, width // 4 : width // 2, 0] = 255
    return frame


@pytest.mark.parametrize(("height", "width"), [(100, 150), (203, 331), (64, 64)])
def test_masks_lie_where_the_object_is(height: int, width: int) -> None:
    config = ProposeConfig(net_short_side=96, cluster=ClusterConfig(score_threshold=0.5))
    proposer = SpatialEmbeddingsProposer(Painted(NetworkConfig()), config)
    assert isinstance(proposer, Proposer)
    frame = red_square(height, width)
    (found,) = proposer.propose([frame])
    wrong = found.mask != (frame[..., 0] > 0)
    assert found.mask.shape == (height, width)
    assert wrong.sum() <= 4 * (height + width) / 2 * max(1.0, min(height, width) / 96)


def test_a_closer_look_runs_at_three_sizes_and_counts_what_is_found_twice_once() -> None:
    sizes = []

    class Watched(Painted):
        def forward(self, image: Tensor) -> Tensor:
            sizes.append(image.shape[2])
            return super().forward(image)

    proposer = SpatialEmbeddingsProposer(Watched(NetworkConfig()), ProposeConfig(net_short_side=48))
    closer = proposer.thorough()
    assert isinstance(proposer, ThoroughProposer) and isinstance(closer, Proposer)
    assert len(closer.propose([red_square(200, 300)])) == 1
    assert sizes == [48, 72, 96]


def test_input_is_padded_not_stretched() -> None:
    image, inner = network_input(red_square(203, 331), ProposeConfig(net_short_side=96))
    assert (inner.height, inner.width) == (96, 157)
    assert image.shape == (1, 3, 96, 160)
    assert float(image.max()) == pytest.approx(1.0, abs=1e-5)
    small, inner = network_input(red_square(30, 40), ProposeConfig(net_short_side=96))
    assert (inner.height, inner.width) == (30, 40) and small.shape == (1, 3, 32, 40)


@pytest.mark.parametrize(("sigmas", "classes"), [(1, 1), (2, 3)])
def test_a_published_file_is_read_as_it_is(tmp_path: Path, sigmas: int, classes: int) -> None:
    network = BranchedERFNet(NetworkConfig(num_sigmas=sigmas, num_classes=classes))
    prefixed = {f"module.{name}": value for name, value in network.state_dict().items()}
    path = tmp_path / "cars_pretrained_model.pth"
    torch.save({"epoch": 199, "best_iou": 0.7, "model_state_dict": prefixed, "optim_state_dict": {}}, path)
    proposer = create_proposer(weights=path, device="cpu")
    assert isinstance(proposer, SpatialEmbeddingsProposer)
    assert proposer.network.config == NetworkConfig(num_sigmas=sigmas, num_classes=classes)
    assert proposer.config.net_short_side == 1024
    for name, value in proposer.network.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])


def test_a_file_that_does_not_fit_says_so() -> None:
    state = BranchedERFNet(NetworkConfig()).state_dict()
    with pytest.raises(WeightsError, match="no branched ERFNet"):
        create_proposer(weights={"weight": torch.zeros(1)}, device="cpu")
    del state["encoder.layers.3.conv3x1_1.weight"]
    with pytest.raises(WeightsError, match=r"encoder.layers.3.conv3x1_1.weight is missing"):
        create_proposer(weights=state, device="cpu")


def test_the_registry_tells_followers_from_proposers() -> None:
    with pytest.raises(UnsupportedReference, match="create_proposer"):
        create("spatial-embeddings", device="cpu")
    with pytest.raises(UnknownEngine, match="there are: uniref-t, spatial-embeddings$"):
        create_proposer("fake", device="cpu")


def test_a_frame_without_structure_ends_soon() -> None:
    torch.manual_seed(0)
    network = BranchedERFNet(NetworkConfig()).eval()
    proposer = SpatialEmbeddingsProposer(network, ProposeConfig(net_short_side=64))
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    for proposal in proposer.propose([noise]):
        assert proposal.mask.shape == (64, 96)
