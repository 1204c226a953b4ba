"""From a checkpoint as it is published to the network, without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engines.checkpoint import load_checkpoint
from engines.errors import WeightsError
from engines.feelvos.config import FEELVOS
from engines.feelvos.crc32c import crc32c
from engines.feelvos.engine import FeelvosEngine
from engines.feelvos.model import FeelvosNet
from engines.feelvos.tensor_bundle import open_bundle
from engines.feelvos.weights import convert, read_published
from engines.registry import create
from service.weights.convert import convert as convert_file
from service.weights.published import published
from tests.unit.tensor_bundle_writer import write_bundle

Variables = dict[str, NDArray[np.float32]]


def test_a_published_checkpoint_fills_the_network(
    tmp_path: Path, published_variables: Variables, network: FeelvosNet
) -> None:
    slots = {"global_step": np.array(200004), "logits/semantic/biases/Momentum": np.zeros(1, np.float32)}
    prefix = tmp_path / "model.ckpt-200004"
    write_bundle(prefix, {**published_variables, **slots}, checksum=crc32c)
    converted = tmp_path / "feelvos.safetensors"
    convert_file(prefix, converted, published("feelvos"))
    checkpoint = load_checkpoint(converted, "feelvos")
    wanted = network.state_dict()
    assert checkpoint.tensors.keys() == wanted.keys()
    assert all(torch.equal(checkpoint.tensors[key], wanted[key]) for key in wanted)
    assert checkpoint.metadata["published_sha256"] == open_bundle(prefix).sha256
    engine = create("feelvos", weights=converted, device="cpu")
    assert isinstance(engine, FeelvosEngine)
    image = torch.linspace(-1, 1, 3 * 33 * 41).view(1, 3, 33, 41)
    with torch.no_grad():
        torch.testing.assert_close(engine.network(image).embedding, network(image).embedding, atol=1e-4, rtol=0)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, published_variables: Variables) -> None:
    few = {name: array for name, array in published_variables.items() if name.startswith("aspp0/")}
    write_bundle(tmp_path / "model.ckpt-1", few, checksum=crc32c)
    with torch.device("meta"):
        network = FeelvosNet(FEELVOS)
    with pytest.raises(WeightsError, match=r"lacks 747 of FEELVOS's 752 variables"):
        read_published(tmp_path / "model.ckpt-1", network)


def test_a_misshapen_variable_is_named(published_variables: Variables, network: FeelvosNet) -> None:
    wrong = {**published_variables, "logits/semantic/weights": np.zeros((1, 1, 128, 1), np.float32)}
    with pytest.raises(WeightsError, match="logits/semantic/weights"):
        convert(wrong, network)
