"""Refuses a memory budget that cannot hold the references, before a worker is asked: arithmetic on the catalog."""

from __future__ import annotations

import math

from engines.catalog import TOKEN_OVERHEAD_BYTES, EngineInfo

from service.errors import InvalidInput
from service.schemas import MemoryOptions


def require_budget(engine: EngineInfo, memory: MemoryOptions, size: tuple[int, int], objects: int) -> None:
    """Raise InvalidInput that names the smallest budget when this one is below it.

    size: height and width of the frames that the worker will see. Where the weights decide, the worker
    judges: always where none are shipped that the catalog could know, else beyond the smallest of those it knows.
    """
    smallest = engine.smallest_budget_tokens(*size, objects=max(1, objects))
    if smallest is None or memory.kind == "every_k":
        return
    if memory.budget_tokens is not None and memory.budget_tokens < smallest:
        raise InvalidInput(
            f"memory.budget_tokens {memory.budget_tokens} cannot hold the references of {objects} object(s) in "
            f"{engine.name} at {size[1]}x{size[0]}; the smallest that works is {smallest}",
            field="memory",
        )
    if memory.budget_mib is not None and engine.budget_tokens(memory.budget_mib) < smallest:
        least = math.ceil(smallest * (engine.token_bytes + TOKEN_OVERHEAD_BYTES) / 2**20 * 100) / 100
        raise InvalidInput(
            f"memory.budget_mib {memory.budget_mib:g} cannot hold the references of {objects} object(s) in "
            f"{engine.name} at {size[1]}x{size[0]}; the smallest that works is {least:.2f}",
            field="memory",
        )
