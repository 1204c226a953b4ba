"""Print the requirements that pyproject.toml names, for the extras given: an image layer that code does not touch."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """The project's own dependencies and those of some extras; references to itself are left out."""
    found: list[str] = list(project["dependencies"])
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return [line for line in found if not line.startswith("maskstream[")]


if __name__ == "__main__":
    described = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    sys.stdout.write("\n".join(requirements(described["project"], sys.argv[1:])) + "\n")
