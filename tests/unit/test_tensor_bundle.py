"""The checkpoint reader on files written by hand, whole, damaged and foreign."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engines.errors import WeightsError
from engines.feelvos.crc32c import crc32c
from engines.feelvos.tensor_bundle import is_bundle, open_bundle
from tests.unit.tensor_bundle_writer import slow_crc32c, write_bundle

Variables = dict[str, NDArray[Any]]


@pytest.fixture
def variables() -> Variables:
    rng = np.random.default_rng(0)
    names = [f"net/layer_{i}/{leaf}" for i in range(30) for leaf in ("weights", "weights/Momentum", "biases")]
    arrays: Variables = {name: rng.standard_normal((3, 2, i % 5 + 1)).astype("f4") for i, name in enumerate(names)}
    arrays["global_step"] = np.array(200004, dtype=np.int64)
    arrays["net/wide"] = rng.standard_normal((1, 300)).astype("f4")
    return arrays


@pytest.fixture
def prefix(tmp_path: Path, variables: Variables) -> Path:
    prefix = tmp_path / "model.ckpt-200004"
    write_bundle(prefix, variables, shards=2, per_block=7)
    return prefix


def test_all_variables_come_back(prefix: Path, variables: Variables) -> None:
    bundle = open_bundle(prefix)
    assert set(bundle.entries) == set(variables)
    for name, array in variables.items():
        found = bundle.read(name)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("form", ["index", "data", "folder", "archive"])
def test_every_form_in_which_it_is_handed_over(prefix: Path, variables: Variables, form: str) -> None:
    archive = prefix.parent / "feelvos_davis17_trained.tar.gz"
    if form == "archive":
        with tarfile.open(archive, "w:gz") as tar:
            for file in sorted(prefix.parent.glob(prefix.name + ".*")):
                tar.add(file, arcname=f"feelvos_davis17_trained/{file.name}")
    path = {
        "index": prefix.with_name(prefix.name + ".index"),
        "data": prefix.with_name(prefix.name + ".data-00000-of-00002"),
        "folder": prefix.parent,
        "archive": archive,
    }[form]
    assert is_bundle(path)
    np.testing.assert_array_equal(open_bundle(path).read("net/wide"), variables["net/wide"])


def test_other_files_are_no_checkpoint(tmp_path: Path) -> None:
    other = tmp_path / "weights.safetensors"
    other.write_bytes(b"\0" * 100)
    assert not is_bundle(other)
    with pytest.raises(WeightsError, match="no TensorFlow checkpoint"):
        open_bundle(other)


def test_a_folder_of_several_checkpoints_needs_a_name(prefix: Path, variables: Variables) -> None:
    write_bundle(prefix.with_name("model.ckpt-7"), variables)
    with pytest.raises(WeightsError, match="name one"):
        open_bundle(prefix.parent)


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x10
    path.write_bytes(content)


def test_a_flipped_bit_is_found_in_the_index(prefix: Path) -> None:
    flip(prefix.with_name(prefix.name + ".index"), 25)
    with pytest.raises(WeightsError, match="damaged"):
        open_bundle(prefix)


def test_a_flipped_bit_is_found_in_the_data(prefix: Path, variables: Variables) -> None:
    flip(prefix.with_name(prefix.name + ".data-00001-of-00002"), 5)
    bundle = open_bundle(prefix)
    with pytest.raises(WeightsError, match="damaged"):
        for name in variables:
            bundle.read(name)


@pytest.mark.parametrize("ending", [".index", ".data-00000-of-00002"])
def test_a_file_cut_short_is_named(prefix: Path, variables: Variables, ending: str) -> None:
    path = prefix.with_name(prefix.name + ending)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(WeightsError, match="checkpoint"):
        bundle = open_bundle(prefix)
        for name in variables:
            bundle.read(name)


def test_a_missing_data_file_is_named(prefix: Path, variables: Variables) -> None:
    prefix.with_name(prefix.name + ".data-00001-of-00002").unlink()
    bundle = open_bundle(prefix)
    with pytest.raises(WeightsError, match="data-00001-of-00002"):
        for name in variables:
            bundle.read(name)


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "feelvos.tar.gz"
    path.write_bytes(b"not an archive")
    with pytest.raises(WeightsError, match="cannot read the archive"):
        open_bundle(path)


@pytest.mark.parametrize("length", [0, 1, 9, 65535, 65536, 70001])
def test_checksum_equals_its_definition(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8).tobytes()
    assert crc32c(data) == slow_crc32c(data)


def test_checksum_of_the_known_example() -> None:
    assert crc32c(b"123456789") == 0xE3069283
