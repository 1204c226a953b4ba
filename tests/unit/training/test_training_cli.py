"""`maskstream train` and `maskstream eval` from end to end on made-up data."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from engines.errors import UnknownEngine
from engines.training.learners import recipe_for, trainable_engines
from service.cli import app
from service.cli import train as train_command
from service.errors import Unavailable
from tests.unit.training import made_up_data

RUNNER = CliRunner()


def test_train_then_eval_with_the_weights_that_came_out(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "run"
    for seed in (1, 2):
        made_up_data.write_still(data, f"still{seed}", seed)
    made_up_data.write_clip(data / "clips" / "walk", 3)
    (data / "masks" / "still2.png").write_bytes(b"no picture")
    ran = RUNNER.invoke(
        app, ["train", "deaot-t", "--data", str(data), "--out", str(out), "--steps", "1", "--tensorboard"]
    )
    assert ran.exit_code == 0, ran.output
    assert "1 images, 1 clips, 1 skipped; 1 steps" in ran.output
    (events,) = (out / "tensorboard").iterdir()
    assert b"parts/mask" in events.read_bytes()
    weights = out / "deaot-t.safetensors"
    with safe_open(weights, framework="pt") as file:
        assert file.metadata()["engine"] == "deaot-t"
    scores = tmp_path / "scores.json"
    arguments = ["--clips", str(data / "clips"), "--weights", str(weights), "--json", str(scores)]
    ran = RUNNER.invoke(app, ["eval", "deaot-t", *arguments, "--save", str(tmp_path / "masks")])
    assert ran.exit_code == 0, ran.output
    report = json.loads(scores.read_text())
    assert list(report) == ["deaot-t", "copy", "flow"]
    assert 0 <= report["deaot-t"]["J&F"] <= 100 and 0 < report["copy"]["J&F"] < 100
    assert len(list((tmp_path / "masks" / "deaot-t" / "walk").glob("*.png"))) == 6
    again = RUNNER.invoke(app, ["train", "deaot-t", "--data", str(data), "--out", str(out), "--steps", "1", "--resume"])
    assert again.exit_code == 0, again.output


def test_tensorboard_that_is_missing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engines.training.tensorboard_log", None)
    with pytest.raises(Unavailable, match="pip install"):
        train_command._tensorboard_log(tmp_path)


def test_engines_without_a_recipe_are_refused() -> None:
    assert "deaot-t" in trainable_engines()
    with pytest.raises(UnknownEngine, match="cannot be trained here; these can: .*deaot-t"):
        recipe_for("fake")
