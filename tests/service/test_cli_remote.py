"""The commands for a remote server, against a real one: what they print, and their exit codes."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from service.cli import app, main
from service.export_formats import SUFFIXES, ExportFormat
from tests.service.api_server import ApiServer, running_api
from tests.service.scene import Scene, reference_png


@pytest.fixture
def api(scene: Scene) -> Iterator[ApiServer]:
    with running_api(scene.settings.model_copy(update={"port": 0, "min_free_bytes": 0})) as server:
        yield server


@pytest.fixture
def folder(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user is, with a clip and its mask."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(scene.clip(5, 0))
    (tmp_path / "mask.png").write_bytes(reference_png())
    return tmp_path


@dataclass(frozen=True)
class Said:
    """What a command printed, without the log of the API that runs in this process, and its exit code."""

    output: str
    exit_code: int


def run(api: ApiServer, *words: str) -> Said:
    done = CliRunner().invoke(app, [*words], env={"MASKSTREAM_URL": f"http://127.0.0.1:{api.port}"})
    lines = [line for line in done.output.splitlines() if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line)]
    return Said("\n".join(lines), done.exit_code)


@pytest.mark.anyio
async def test_from_submit_to_download(api: ApiServer, scene: Scene, folder: Path) -> None:
    sent = run(api, "submit", "clip.mp4", "--mask", "mask.png", "--engine", "fake", "--json")
    assert sent.exit_code == 0, sent.output
    session_id = json.loads(sent.output)["session_id"]
    unfinished = run(api, "download", session_id)
    assert unfinished.exit_code == 2 and "partial=true gives those" in unfinished.output
    scene.run_here()
    followed = run(api, "watch", session_id, "--json")
    assert [json.loads(line)["frame_index"] for line in followed.output.splitlines()] == [0, 1, 2, 3, 4]
    assert "5/5" in run(api, "watch", session_id).output
    assert run(api, "download", session_id).exit_code == 0
    assert zipfile.is_zipfile(folder / f"{session_id}-png.zip")
    (folder / "out").mkdir()
    assert run(api, "download", session_id, "-o", "out", "--format", "cvat").exit_code == 0
    assert (folder / "out" / f"{session_id}-cvat.xml").read_bytes().startswith(b"<?xml")
    assert run(api, "download", session_id, "-o", "here.json", "--format", "coco").output.strip() == "here.json"
    assert session_id in run(api, "sessions").output
    asked = run(api, "correct", session_id, "--frame", "3", "--mask", "mask.png")
    assert asked.exit_code == 0 and asked.output.startswith(f"{session_id} queued")


@pytest.mark.anyio
async def test_exit_codes_say_what_went_wrong(api: ApiServer, scene: Scene, folder: Path) -> None:
    refused = run(api, "submit", "mask.png", "--mask", "mask.png", "--engine", "nothing")
    assert refused.exit_code == 2 and "no engine is called 'nothing'" in refused.output
    assert run(api, "download", "x", "--format", "gif").exit_code == 2
    lost = CliRunner().invoke(app, ["sessions", "--url", "http://127.0.0.1:1"])
    assert lost.exit_code == 3 and "no answer from" in lost.output
    session_id = run(api, "submit", "clip.mp4", "--mask", "mask.png", "--engine", "fake").output.split()[0]
    assert run(api, "cancel", session_id).output.split() == [session_id, "cancelled"]
    cancelled = run(api, "watch", session_id, "--json")
    assert cancelled.exit_code == 1 and "cancelled" in cancelled.output


@pytest.mark.anyio
async def test_what_the_user_can_mend_is_one_line_and_exit_code_2(api: ApiServer, scene: Scene, folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "zero.mp4").write_bytes(b"")
    says = {
        ("submit", "empty"): "holds no images",
        ("submit", "zero.mp4"): "0 bytes",
        ("submit", "clip.mp4", "--mask", "empty"): "is a directory",
        ("submit", "clip.mp4", "--box", "1,2,3,x"): "box is x,y,width,height in pixels of the video, not '1,2,3,x'",
        ("submit", "clip.mp4", "--engine", "spatial-embeddings"): "does not follow them",
        ("sessions", "--url", "localhost:8000"): "write it as http://HOST:PORT",
    }
    session_id = run(api, "submit", "clip.mp4", "--mask", "mask.png", "--engine", "fake").output.split()[0]
    says[("correct", session_id, "--frame", "9", "--mask", "mask.png")] = "the frames that are segmented: 0 to 4"
    says[("download", session_id, "--partial", "-o", "nowhere/x.zip")] = "there is no folder nowhere"
    for words, reason in says.items():
        said = run(api, *words)
        assert reason in " ".join(said.output.split()) and "Traceback" not in said.output, (words, said.output)
        assert said.exit_code == 2, words


@pytest.mark.anyio
async def test_submit_tells_people_how_the_mask_was_read_and_delete_forgets(api: ApiServer, folder: Path) -> None:
    (folder / "clip.mp4").rename(folder / "a shot whose name is longer than any column of a terminal.mp4")
    video = next(str(path) for path in folder.glob("a shot*"))
    sent = run(api, "submit", video, "--mask", "mask.png", "--engine", "fake").output.splitlines()
    session_id = sent[0].split()[0]
    assert sent[1].startswith("mask: ")
    listed = next(line for line in run(api, "sessions").output.splitlines() if session_id in line)
    assert "fake" in listed and "0 / 5" in listed and "a shot" in listed, (
        "an id is never cut, whatever the terminal's width"
    )
    assert run(api, "delete", session_id).output.strip() == f"{session_id} deleted"
    assert run(api, "delete", session_id).exit_code == 2


def test_a_file_that_cannot_be_used_is_named_without_a_stack_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("sys.argv", ["maskstream", "demo", "-o", str(tmp_path / "file")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and capsys.readouterr().err.strip() == f"error: {tmp_path / 'file'}: File exists"


def test_every_format_has_a_suffix() -> None:
    assert set(SUFFIXES) == set(get_args(ExportFormat))
