"""Where fetched weights are kept. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path


def weights_dir() -> Path:
    """MASKSTREAM_WEIGHTS_DIR, else maskstream/weights in the user's cache folder."""
    given = os.environ.get("MASKSTREAM_WEIGHTS_DIR")
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(given) if given else Path(cache) / "maskstream" / "weights"
