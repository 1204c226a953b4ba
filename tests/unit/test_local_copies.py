"""Copies on a process's disk: fetched once, kept while used, bounded otherwise."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from service.local_copies import LocalCopies


def fetch_ten(path: Path) -> None:
    path.write_bytes(bytes(10))


def held(copies: LocalCopies, name: str) -> Path:
    with copies.hold("s", name, fetch_ten) as path:
        assert path.stat().st_size == 10
    return path


def test_the_least_recently_used_leaves_first(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, 25)
    first, second = held(copies, "a"), held(copies, "b")
    assert held(copies, "a") == first, "no second fetch"
    third = held(copies, "c")
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, 5)
    with copies.hold("s", "a", fetch_ten) as outer:
        with copies.hold("s", "a", fetch_ten) as inner:
            assert inner == outer
        held(copies, "b")
        assert outer.exists()
    assert not outer.exists()


def test_idle_copies_make_room_on_a_full_disk(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, 10**9, keep_free_bytes=2**62)
    with copies.hold("s", "a", fetch_ten) as path:
        assert path.exists()
    assert not path.exists()


def test_two_that_ask_at_once_share_one_fetch(tmp_path: Path) -> None:
    copies, fetches, together = LocalCopies(tmp_path, 100), [], threading.Barrier(2)

    def fetch(path: Path) -> None:
        fetches.append(path)
        fetch_ten(path)

    def ask() -> None:
        together.wait(10)
        with copies.hold("s", "a", fetch) as path:
            assert path.read_bytes() == bytes(10)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fetches) == 1


def test_a_fetch_that_fails_leaves_nothing_and_is_tried_again(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, 100)

    def broken(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"), copies.hold("s", "a", broken):
        pass
    assert list(copies.folder.iterdir()) == []
    assert held(copies, "a").exists()


def test_forgotten_copies_go_at_once(tmp_path: Path) -> None:
    copies = LocalCopies(tmp_path, 100)
    path = held(copies, "a")
    copies.forget("s")
    assert not path.exists()
