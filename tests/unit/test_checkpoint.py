"""Reading weights: every layout that is published, and every way in which a file can be wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engines.checkpoint import Shapes, fit, load_checkpoint, shapes_of
from engines.errors import WeightsError


def _net(width: int = 3) -> nn.Module:
    torch.manual_seed(width)
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def _prefixed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in tensors.items()}


LAYOUTS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda t: t,
    "state_dict": lambda t: {"state_dict": t, "epoch": 3},
    "model, module.": lambda t: {"model": _prefixed(t)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_load(layout: str, tmp_path: Path) -> None:
    source, target = _net(), _net()
    nn.init.zeros_(target[0].weight)  # type: ignore[index]
    torch.save(LAYOUTS[layout](_tensors(source)), tmp_path / "w.pth")
    checkpoint = load_checkpoint(tmp_path / "w.pth", "x")
    fit(target, checkpoint, "x")
    assert len(checkpoint.sha256) == 64
    for key, value in source.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(target.state_dict()[key], value)


def test_float16_safetensors_load_with_their_metadata(tmp_path: Path) -> None:
    source, target = _net(), _net()
    half = {key: value.half() for key, value in _tensors(source).items()}
    save_file(half, tmp_path / "w.safetensors", metadata={"net_short_side": "320"})
    checkpoint = load_checkpoint(str(tmp_path / "w.safetensors"), "x")
    fit(target, checkpoint, "x")
    assert checkpoint.integer("net_short_side", 480) == 320
    assert checkpoint.integer("memorize_every", 5) == 5
    assert target.state_dict()["0.weight"].dtype == torch.float32


def test_a_state_dict_is_hashed_by_content() -> None:
    first, second = _tensors(_net()), _tensors(_net())
    assert load_checkpoint(first, "x").sha256 == load_checkpoint(second, "x").sha256
    second["0.bias"] += 1
    assert load_checkpoint(first, "x").sha256 != load_checkpoint(second, "x").sha256


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(_tensors(_net()), path)
    else:
        save_file(_tensors(_net()), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read|not opened"):
        load_checkpoint(path, "x")


class Evil:
    """Would run a command if a checkpoint were unpickled without care."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (print, ("ran",))


def test_a_file_with_code_in_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds more than plain weights"):
        load_checkpoint(tmp_path / "w.pth", "x")
    assert capsys.readouterr().out == ""


def test_another_variant_is_named_with_the_first_wrong_keys() -> None:
    def variants() -> dict[str, Shapes]:
        return {"narrow": shapes_of(_net(3)), "wide": shapes_of(_net(5))}

    with pytest.raises(WeightsError, match=r"0\.weight has shape \(5, 2\), not \(3, 2\).*looks like wide"):
        fit(_net(3), load_checkpoint(_tensors(_net(5)), "narrow"), "narrow", variants=variants)


def test_missing_and_unknown_keys_are_refused() -> None:
    tensors = _tensors(_net())
    tensors["extra"] = tensors.pop("0.bias")
    with pytest.raises(WeightsError, match=r"0\.bias is missing; extra is unknown"):
        fit(_net(), load_checkpoint(tensors, "x"), "x")


def test_auto_prefers_fetched_weights_to_the_starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKSTREAM_WEIGHTS_DIR", str(tmp_path / "fetched"))
    monkeypatch.setattr("engines.checkpoint.STARTER_DIR", tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "some.safetensors")
    assert float(load_checkpoint("auto", "some").tensors["x"]) == 0
    (tmp_path / "fetched").mkdir()
    save_file({"x": torch.ones(1)}, tmp_path / "fetched" / "some.safetensors")
    assert float(load_checkpoint("auto", "some").tensors["x"]) == 1
    assert float(load_checkpoint("starter", "some").tensors["x"]) == 0


def test_no_file_no_starter_no_tensors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights file"):
        load_checkpoint(tmp_path / "none.pth", "x")
    with pytest.raises(WeightsError, match="no starter weights are shipped for 'nonesuch'; engines that have some:"):
        load_checkpoint("starter", "nonesuch")
    with pytest.raises(WeightsError, match="holds no tensors"):
        load_checkpoint({}, "x")
