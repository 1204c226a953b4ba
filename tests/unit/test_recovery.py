"""What is put back of a session that Redis has lost."""

from __future__ import annotations

import pytest

from service.recovery import recovered
from service.schemas import SessionRecord, SessionSpec, SessionState, VideoInfo
from service.session_file import SessionFile
from service.storage import StoredFile

NOW = 1000.0


def found(live: bool, *names: str, state: SessionState = SessionState.RUNNING) -> SessionFile:
    spec = SessionSpec(engine="fake", video=VideoInfo(name="input/video", height=8, width=9), live=live)
    session = SessionRecord(id="x", spec=spec, state=state)
    return recovered(SessionFile(session=session), [StoredFile(name, 1, NOW) for name in names], NOW)


def span(file: SessionFile) -> tuple[int, int]:
    """(first mask, masks made): as told, which must be what the files hold."""
    if file.archives:
        assert file.archives[0].first == file.session.kept_from_seq
        assert file.archives[-1].last + 1 == file.session.next_seq == file.session.archived_seq
    return file.session.kept_from_seq, file.session.next_seq


def test_the_latest_epochs_files_without_a_gap_count() -> None:
    file = found(False, "archive/1-0-7.jsonl", "archive/2-0-9.jsonl", "archive/2-10-15.jsonl", "archive/2-20-29.jsonl")
    assert [archive.name for archive in file.archives] == ["archive/2-0-9.jsonl", "archive/2-10-15.jsonl"]
    assert span(file) == (0, 16) and file.session.state is SessionState.FAILED
    assert file.session.error is not None
    assert "The 16 masks that had been stored are kept; upload the video again" in file.session.error.detail


def test_one_mask_is_spoken_of_as_one() -> None:
    error = found(False, "archive/1-0-0.jsonl").session.error
    assert error is not None and "The one mask that had been stored is kept; upload" in error.detail


def test_a_live_session_keeps_what_it_had_not_deleted_yet() -> None:
    names = ("archive/3-40-49.jsonl", "archive/3-50-64.jsonl", "archive/1-8-15.jsonl", "input/mask.png")
    file = found(True, *names)
    assert [archive.first for archive in file.archives] == [40, 50]
    assert span(file) == (40, 65)
    assert file.session.error is not None
    assert "The 25 masks that had been stored are kept; open a new live session" in file.session.error.detail


@pytest.mark.parametrize("live", [False, True])
def test_nothing_stored_is_not_called_kept(live: bool) -> None:
    file = found(live, "session.json")
    assert span(file) == (0, 0) and file.archives == ()
    assert file.session.error is not None and "No mask had been stored yet" in file.session.error.detail


def test_an_ended_session_comes_back_as_it_was() -> None:
    file = found(False, "archive/1-0-7.jsonl", state=SessionState.COMPLETED)
    assert file.session.state is SessionState.COMPLETED and file.session.error is None
