"""Structured logs for every process of the service: one line per event, JSON unless on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

import structlog

from service.settings import Settings, mistyped_variables

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_CONTROLS_IN_EVENTS = {code: shown for code, shown in _CONTROLS.items() if chr(code) not in "\n\t"}


def _disarm(logger: Any, name: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """What clients send must not steer the terminal that shows it; JSON escapes by itself."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = value.translate(_CONTROLS_IN_EVENTS if key == "event" else _CONTROLS)
    return event


def configure_logs(settings: Settings, **bound: str) -> None:
    """Send structlog and the standard library's loggers to standard error. Called once, in an entry point.

    bound: what every line of this process carries (component="worker", say).
    """
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # The default would print local variables: slow with videos in them, and nobody's business.
    last: list[Any] = [_disarm, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    if not console:
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level]),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    for chatty in ("uvicorn.access", "websockets", "asyncio"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(**bound)


def warn_of_mistyped(environment: Iterable[str]) -> None:
    """Log variables that are nearly called like a setting, and so set nothing."""
    for name, meant in mistyped_variables(environment):
        structlog.get_logger().warning("this variable sets nothing", variable=name, meant=meant)
