"""A disk that fills up, and files that come and go while others look: what local storage does then."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.api.export_files import ExportFiles, ExportKey
from service.local_storage import LocalStorage
from service.redis_keys import new_session_id

_FULL_DISK = """
import resource, sys
from pathlib import Path
from service.local_storage import LocalStorage
resource.setrlimit(resource.RLIMIT_FSIZE, (98_000, resource.RLIM_INFINITY))
storage = LocalStorage(Path(sys.argv[1]))
for name, pieces in (("archive/1-0-9.jsonl", [b"x" * 200_000]), ("input/video", [b"x" * 5_000] * 30)):
    writer = storage.writer(sys.argv[2], name)
    try:
        for piece in pieces:
            writer.write(piece)
        writer.commit()
    except OSError as error:
        print("refused", error.errno)
    finally:
        writer.abort()
"""


def test_what_does_not_fit_leaves_nothing_behind(storage: LocalStorage) -> None:
    session_id = new_session_id()
    storage.create(session_id)
    command = [sys.executable, "-c", _FULL_DISK, str(storage.root), session_id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "refused 27\nrefused 27\n", done.stderr  # EFBIG: a file may not grow, as on a full disk
    assert storage.list(session_id) == []


_OTHERS = """
import sys
from pathlib import Path
from service.local_storage import LocalStorage
storage, number = LocalStorage(Path(sys.argv[1])), 0
print("ready", flush=True)
while True:
    if sys.argv[2] == "trash":
        storage.empty_trash()
    else:
        number += 1
        storage.write(sys.argv[2], f"snapshots/1-{number}.safetensors", b"")
        storage.remove(sys.argv[2], f"snapshots/1-{number - 1}.safetensors")
"""


@contextmanager
def another_process(storage: LocalStorage, what: str) -> Iterator[None]:
    command = [sys.executable, "-c", _OTHERS, str(storage.root), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == b"ready\n"
            yield
        finally:
            other.kill()


def test_looking_while_files_come_and_go(storage: LocalStorage) -> None:
    session_id = new_session_id()
    storage.create(session_id)
    with another_process(storage, session_id):
        for _ in range(2000):
            storage.list(session_id)


def test_two_who_delete_the_same(storage: LocalStorage) -> None:
    with another_process(storage, "trash"):
        for _ in range(20):
            session_id = new_session_id()
            storage.create(session_id)
            for number in range(40):
                (storage.root / "sessions" / session_id / f"file-{number}").touch()
            storage.delete(session_id)


@pytest.mark.anyio
async def test_an_export_leaves_those_of_other_formats_alone(storage: LocalStorage) -> None:
    session_id = new_session_id()
    storage.create(session_id)
    exports = ExportFiles(storage)
    for format_name, version in (("png-binary", 4), ("png", 3), ("png", 4)):
        key = ExportKey(session_id, format_name, version, "zip")
        await exports.build(key, lambda: iter([b"zip"])).finished()
    await exports.close()
    names = [file.name.rsplit("-", 1)[0] for file in storage.list(session_id)]
    assert names == ["exports/png-4", "exports/png-binary-4"]
