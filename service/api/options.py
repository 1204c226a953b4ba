"""The plain fields of an upload's form, read and checked before anything of the video is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engines.catalog import CATALOG, DEFAULT_ENGINE, EngineInfo
from pydantic import ValidationError

from service.api.references import parse_json, parse_whole
from service.api.upload import Form
from service.errors import InvalidInput, UnknownEngine
from service.schemas import MemoryOptions
from service.settings import Settings

_MOST = 10**9
"""Of any number in `memory`: beyond it stand slips of the pen, and what no arithmetic of ours is made for."""


@dataclass(frozen=True)
class Options:
    """The plain fields of the form."""

    engine: EngineInfo
    memory: MemoryOptions
    max_side: int | None
    start_frame: int
    end_frame: int | None
    probability: bool = False


def read_options(form: Form, settings: Settings) -> Options:
    """The plain fields. Raises InvalidInput, UnknownEngine."""
    name = form.one("engine") or default_engine(settings)
    engine = CATALOG.get(name)
    if engine is None:
        following = ", ".join(each.name for each in CATALOG.values() if each.follows)
        raise UnknownEngine(f"no engine is called {name[:60]!r}; there are: {following}")
    start = _integer(form, "start_frame", 0, settings.max_frames) or 0
    end = _integer(form, "end_frame", 1, settings.max_frames)
    if end is not None and end <= start:
        raise InvalidInput(f"end_frame {end} (exclusive) must be greater than start_frame {start}")
    max_side = _integer(form, "max_side", settings.min_side, settings.max_side_limit)
    return Options(engine, read_memory(form.one("memory")), max_side, start, end, _switch(form, "probability"))


def default_engine(settings: Settings) -> str:
    """Engine of a session that names none: the settings' own, else the catalog's unless only others are served."""
    offered = settings.engines or tuple(CATALOG)
    return settings.default_engine or (DEFAULT_ENGINE if DEFAULT_ENGINE in offered else offered[0])


def _switch(form: Form, name: str) -> bool:
    text = form.one(name) or "false"
    if text not in ("true", "false"):
        raise InvalidInput(f"{name} is true or false, not {text[:40]!r}")
    return text == "true"


def _integer(form: Form, name: str, least: int, most: int) -> int | None:
    text = form.one(name)
    return None if text is None else parse_whole(name, text, least, most)


def read_memory(text: str | None) -> MemoryOptions:
    """`adaptive`, or JSON with the fields of MemoryOptions."""
    if text is None:
        return MemoryOptions()
    value: Any = parse_json("memory", text) if text.startswith("{") else {"kind": text}
    unknown = set(value) - set(MemoryOptions.model_fields)
    if unknown:
        raise InvalidInput(f"memory: unknown fields {sorted(unknown)}; there are {sorted(MemoryOptions.model_fields)}")
    try:
        options = MemoryOptions.model_validate(value)
    except ValidationError as error:
        item = error.errors()[0]
        raise InvalidInput(f"memory.{'.'.join(str(part) for part in item['loc'])}: {item['msg']}") from error
    for name, number in options.model_dump(exclude={"kind"}).items():
        if number is not None and not abs(number) <= _MOST:  # nor is NaN
            raise InvalidInput(f"memory.{name} must be a number of at most {_MOST}", field="memory")
    if options.budget_tokens is not None and options.budget_mib is not None:
        raise InvalidInput("memory: give budget_tokens or budget_mib, not both")
    if options.exact and options.kind != "adaptive":
        raise InvalidInput(f"memory: exact is a mode of the adaptive memory, not of {options.kind}")
    return options
