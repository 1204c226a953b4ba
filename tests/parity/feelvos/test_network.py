"""The published network, layer by layer and as a whole, against the released code's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engines.feelvos.matching import global_matching, local_matching, to_distance
from engines.feelvos.model import FeelvosNet, FrameFeatures, resize_aligned
from engines.feelvos.weights import published_name

Arrays = Mapping[str, NDArray[Any]]


def stored_map(arrays: Arrays, name: str) -> Tensor:
    """[C, h, w] from the stored [h, w, C]."""
    return torch.from_numpy(arrays[name]).permute(2, 0, 1)


def scaled(frames: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() * 2 / 255 - 1


@pytest.fixture(scope="module")
def features(network: FeelvosNet, case: Arrays) -> FrameFeatures:
    with torch.no_grad():
        return network.encode(scaled(case["frames"]))


def test_every_published_variable_is_used(
    network: FeelvosNet, published_variables: dict[str, NDArray[np.float32]]
) -> None:
    names = {published_name(key) for key in network.state_dict()}
    assert names == set(published_variables)
    assert len(names) == 752


def watched_units(network: FeelvosNet) -> dict[str, nn.Module]:
    """The trunk's units by the released code's names; all but the one whose middle the trunk taps."""
    names = ["conv1_1", "conv1_2", "entry_block1", "entry_block3", "exit_block1", "exit_block2"]
    names += [f"middle.{i}" for i in range(16)]
    modules = dict(network.trunk.named_modules())
    return {published_name(f"trunk.{name}.weight").removesuffix("/weights"): modules[name] for name in names}


def test_trunk_units_equal_the_released_code(network: FeelvosNet, case: Arrays) -> None:
    found: dict[str, Tensor] = {}
    handles = []
    for name, unit in watched_units(network).items():

        def keep(_: nn.Module, inputs: tuple[Tensor], output: Tensor, name: str = name) -> None:
            found[name] = output
            if "entry_flow/block3" in name:
                found[name.replace("block3", "block2")] = inputs[0]

        handles.append(unit.register_forward_hook(keep))
    with torch.no_grad():
        network.trunk(scaled(case["frames"][1:2]))
    for handle in handles:
        handle.remove()
    stored = [name for name in case if name.startswith("t1/endpoint8/")]
    assert len(stored) >= 21
    for name in stored:
        unit_output = found["xception_65/" + name.removeprefix("t1/endpoint8/")][0, :8]
        torch.testing.assert_close(unit_output, stored_map(case, name), atol=1e-4, rtol=1e-4)


def test_embeddings_equal_the_released_code(features: FrameFeatures, case: Arrays) -> None:
    names = [name for name in case if name.endswith("/embedding")]
    assert "t1/embedding" in names
    for name in names:
        torch.testing.assert_close(features.embedding[int(name[1])], stored_map(case, name), atol=1e-4, rtol=0)


def test_inner_features_equal_the_released_code(network: FeelvosNet, features: FrameFeatures, case: Arrays) -> None:
    with torch.no_grad():
        trunk = network.trunk(scaled(case["frames"][1:2]))
        pyramid = network.aspp(trunk.high)
    found = {"low_level": trunk.low, "backbone": trunk.high, "aspp": pyramid, "decoder": features.shared[1:2]}
    stored = found.keys() & {name.removeprefix("t1/inner/") for name in case}
    assert "aspp" in stored
    for name in stored:
        torch.testing.assert_close(found[name][0], stored_map(case, f"t1/inner/{name}"), atol=1e-4, rtol=0)


def nearest_aligned(label_map: NDArray[Any], size: tuple[int, int]) -> Tensor:
    """Labels at stride 4, half rounded up."""
    index = [
        np.floor(np.arange(out) * (full - 1) / (out - 1) + 0.5).astype(np.int64)
        for full, out in zip(label_map.shape, size, strict=True)
    ]
    return torch.from_numpy(label_map.astype(np.int64)[np.ix_(*index)])


@pytest.mark.parametrize("step", [1, 2])
def test_one_step_equals_the_released_code(
    network: FeelvosNet, features: FrameFeatures, case: Arrays, step: int
) -> None:
    size = features.embedding.shape[2:]
    channels = len(case[f"t{step}/ids"])
    embedding = features.embedding.permute(0, 2, 3, 1)
    previous = nearest_aligned(case[f"t{step}/prev_labels"], (size[0], size[1]))
    first = nearest_aligned(case["label0"], (size[0], size[1]))
    match = global_matching(embedding[step].flatten(0, 1), embedding[0].flatten(0, 1), first.flatten(), range(channels))
    distance = to_distance(match.squared).view(channels, *size)
    local = local_matching(embedding[step], embedding[step - 1], previous, range(channels), window=15)
    one_hot = nn.functional.one_hot(previous, channels).permute(2, 0, 1).float()
    own = torch.stack([distance, one_hot, local], dim=1)
    with torch.no_grad():
        logits = network.head(features.shared[step : step + 1], own, torch.zeros(channels, dtype=torch.long))
    for found, name in ((distance, "global_dist"), (local, "local_dist"), (one_hot, "prev_onehot")):
        torch.testing.assert_close(found, stored_map(case, f"t{step}/{name}"), atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, stored_map(case, f"t{step}/logits_s4"), atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.softmax(0), stored_map(case, f"t{step}/softmax_s4"), atol=1e-4, rtol=0)
    height, width = case["label0"].shape
    mask = resize_aligned(logits[None], (height, width))[0].argmax(0)
    # The random weights leave about five pixels per frame within 1e-4 of a tie.
    assert int((mask.numpy() != case[f"t{step}/mask"]).sum()) <= 5
