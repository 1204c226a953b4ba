"""What a log line may hold."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import structlog
from service.logs import configure_logs
from service.settings import Settings
configure_logs(Settings(log_format="console"), component="api")
log = structlog.get_logger("x")
log.info("request", path="/\\x1b[2J\\x9b", name="tuné")
log.info("two\\nlines")
try:
    raise ValueError("of \\x1b[31m")
except ValueError:
    log.exception("failed")
"""


def test_clients_cannot_steer_the_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, timeout=60)
    shown = done.stderr.decode()
    assert r"/\x1b[2J\x9b" in shown and "tuné" in shown and "two\nlines" in shown
    assert "/\x1b[2J" not in shown and "\x9b" not in shown
    assert "Traceback" in shown and "ValueError" in shown
