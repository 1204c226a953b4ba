"""What the API reserves for a session, against what the worker's engine says that the session takes."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from engines.catalog import CATALOG
from engines.protocols import Engine
from engines.registry import create
from engines.types import MemoryPolicy, Size
from service.admission import device_bytes
from service.schemas import MemoryOptions

SIZES = [(96, 128), (480, 854), (854, 480), (1080, 1920), (100, 1000)]
BOUNDED: list[dict[str, Any]] = [{}, {"kind": "window"}, {"budget_tokens": 200_000}, {"budget_mib": 200.0}]
LIGHT = ["deaot-t", "aot-t", "stm-t", "afb-urr-t", "feelvos-t", "uniref-t"]
LARGE = ["r50-deaot-l", "aot-l", "stm", "afb-urr", "feelvos"]
ENGINES = [*LIGHT, *LARGE]
FACTOR = 4.0
"""The catalog knows one network size for a family, and counts all objects at once where some engines go in chunks."""


@cache
def engine(name: str) -> Engine:
    """Untrained: how much memory a track takes is a matter of shapes."""
    return create(name, weights="starter" if name == "fake" else "random", device="cpu")


def ratio(name: str, size: tuple[int, int], objects: int, memory: dict[str, Any]) -> float:
    """Bytes reserved over bytes that the engine says."""
    needed = engine(name).track_bytes(Size(*size), objects, MemoryPolicy(**{"kind": "adaptive", **memory}))
    return device_bytes(CATALOG[name], size, objects, MemoryOptions(**memory)) / needed


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("objects", [1, 3, 12])
def test_the_reserve_is_enough_and_not_four_times_too_much(name: str, objects: int) -> None:
    ratios = {(size, str(memory)): ratio(name, size, objects, memory) for size in SIZES for memory in BOUNDED}
    assert {case: value for case, value in ratios.items() if not 1.0 <= value <= FACTOR} == {}


@pytest.mark.parametrize("name", ["fake", *ENGINES])
def test_the_reserve_is_enough_for_an_unbounded_memory(name: str) -> None:
    ratios = {(size, n): ratio(name, size, n, {"kind": "every_k"}) for size in SIZES for n in (1, 12)}
    assert {case: value for case, value in ratios.items() if value < 1.0} == {}


def test_every_family_that_follows_is_tested() -> None:
    tested = {CATALOG[name].family for name in ["fake", *ENGINES]}
    assert tested == {info.family for info in CATALOG.values() if info.follows}


def test_max_side_lowers_the_reserve() -> None:
    info, memory = CATALOG["deaot-t"], MemoryOptions()
    assert device_bytes(info, (480, 854), 1, memory, 240) < 0.2 * device_bytes(info, (480, 854), 1, memory)
