"""Network, clustering and losses against the numbers of the released code.

Tolerances: network 1e-4, loss values 1e-5 relative, gradients 1e-6 plus the float16 they are stored in, scores 1e-6,
maps equal except 0.1 % of pixels (values at exactly one half). In fact all agree far closer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engines.spatial_embeddings.clustering import (
    PixelEmbedding,
    cluster,
    cluster_by_truth,
    coordinate_map,
    embed_pixels,
    instance_map,
)
from engines.spatial_embeddings.config import PUBLISHED, ClusterConfig, LossConfig
from engines.spatial_embeddings.losses import lovasz_hinge, spatial_embedding_loss
from engines.spatial_embeddings.model import BranchedERFNet, Decoder
from tests.parity.conftest import COMMITTED
from tests.parity.weights import fill, load_spec

Case = Mapping[str, NDArray[Any]]
NAME = "spatial_embeddings"


def read_case(folder: Path) -> Case:
    with np.load(folder / "case_a.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def case(fixture_dir: Callable[[str], Path]) -> Case:
    """The full fixture where it is mounted, else the committed one."""
    return read_case(fixture_dir(NAME))


@pytest.fixture(scope="module")
def network() -> BranchedERFNet:
    keys, gains = load_spec(COMMITTED / NAME)
    model = BranchedERFNet(PUBLISHED)
    model.load_state_dict(fill(keys, gains), strict=True)
    return model.eval()


def tensor(case: Case, name: str) -> Tensor:
    return torch.from_numpy(case[name])


def test_network_repeats_the_reference(network: BranchedERFNet) -> None:
    case = read_case(COMMITTED / NAME)
    image = tensor(case, "net_image").float()
    with torch.no_grad():
        maps, features, coarse = network(image), network.encoder(image), network.encode(image)
    torch.testing.assert_close(maps[:, :, ::4, ::4], tensor(case, "net_output_every4"), atol=1e-4, rtol=0)
    torch.testing.assert_close(features[:, :, ::4, ::4], tensor(case, "net_encoder_every4"), atol=1e-4, rtol=0)
    torch.testing.assert_close(coarse, tensor(case, "net_only_encode"), atol=1e-4, rtol=0)


def test_reset_output_starts_from_zero_offsets_and_sigma_one(case: Case) -> None:
    model = BranchedERFNet(PUBLISHED)
    model.reset_output()
    branch = model.decoders[0]
    assert isinstance(branch, Decoder) and branch.output_conv.bias is not None
    assert not branch.output_conv.weight.any()
    np.testing.assert_array_equal(branch.output_conv.bias.detach().numpy(), case["init_output_bias"])


def test_coordinates_do_not_depend_on_the_size(case: Case) -> None:
    grid = coordinate_map(1024, 2048)
    corners = torch.stack([grid[:, 0, 0], grid[:, -1, -1], grid[:, 100, 200]]).numpy()
    np.testing.assert_allclose(corners, case["xym_corners"], atol=1e-6)
    assert torch.equal(coordinate_map(3, 5), grid[:, :3, :5])


def available(case: Case) -> list[int]:
    return [number for number in (1, 2) if f"cluster{number}_seed_logit" in case]


def embedding_of(case: Case, number: int) -> PixelEmbedding:
    maps = torch.cat(
        [tensor(case, f"cluster{number}_offsets_sigma").float(), tensor(case, f"cluster{number}_seed_logit")[None]]
    )
    return embed_pixels(maps, num_sigmas=number)


@pytest.mark.parametrize("threshold", [50, 90])
def test_clustering_finds_the_same_instances(case: Case, threshold: int) -> None:
    for number in available(case):
        embedding = embedding_of(case, number)
        found = cluster(embedding, ClusterConfig(score_threshold=threshold / 100, max_rounds=None))
        prefix = f"cluster{number}_thr{threshold}_"
        height, width = embedding.seed.shape[-2:]
        np.testing.assert_allclose([each.score for each in found], case[prefix + "scores"], atol=1e-6)
        masks = np.unpackbits(case[prefix + "masks"], axis=-1)[..., :width].astype(bool)
        differing = np.stack([each.mask.numpy() for each in found]) != masks
        assert differing.mean() <= 1e-3
        label_map = instance_map(found, height, width).numpy()
        assert (label_map != case[prefix + "map"]).mean() <= 1e-3


def test_clustering_by_truth_finds_the_same_map(case: Case) -> None:
    for number in available(case):
        embedding = embedding_of(case, number)
        corner = case[f"cluster{number}_embedding_corner"]  # every 37th row, every 41st column
        np.testing.assert_allclose(embedding.position[:, ::37, ::41], corner, atol=1e-6)
        label_map = cluster_by_truth(embedding, tensor(case, f"cluster{number}_gt_instance"))
        assert (label_map.numpy() != case[f"cluster{number}_with_gt_map"]).mean() <= 1e-3


@pytest.mark.parametrize("number", range(8))
def test_lovasz_hinge_value_and_gradient(case: Case, number: int) -> None:
    per_image, ignore = case[f"lovasz{number}_opts"].tolist()
    logits = tensor(case, f"lovasz{number}_logits").requires_grad_()
    labels = tensor(case, f"lovasz{number}_labels")
    value = lovasz_hinge(logits, labels, per_image=bool(per_image), ignore=None if ignore < 0 else ignore)
    value.backward()
    assert value.item() == pytest.approx(case[f"lovasz{number}_value"].item(), rel=1e-5)
    torch.testing.assert_close(logits.grad, tensor(case, f"lovasz{number}_grad"), atol=1e-6, rtol=0)


LOSSES = {
    "n1_center_fw10": LossConfig(),
    "n1_center_fw1": LossConfig(foreground_weight=1),
    "n1_mean_fw10": LossConfig(centre="mean"),
    "n2_center_fw10": LossConfig(num_sigmas=2),
}


def test_loss_value_parts_and_gradient(case: Case) -> None:
    kept = [name for name in LOSSES if f"loss_{name}_value" in case]  # the committed cut keeps the last one
    assert kept
    for name in kept:
        prefix = f"loss_{name}_"
        maps = tensor(case, prefix + "prediction").float().requires_grad_()
        truth = (tensor(case, "loss_instances"), tensor(case, "loss_labels"))
        terms = spatial_embedding_loss(maps, *truth, LOSSES[name])
        terms.total.backward()
        assert terms.total.item() == pytest.approx(case[prefix + "value"].item(), rel=1e-5)
        parts = [terms.instance.item(), terms.variance.item(), terms.seed.item()]
        np.testing.assert_allclose(parts, case[prefix + "parts"], rtol=1e-5)
        assert terms.iou == pytest.approx(case[prefix + "iou"].item(), abs=1e-5)
        assert maps.grad is not None
        stored = case[prefix + "grad"].astype(np.float32)  # the gradient x 1000
        np.testing.assert_allclose(maps.grad.numpy() * 1000, stored, rtol=1e-3, atol=1e-3)
