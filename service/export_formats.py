"""What a result can be had as, for the API and the command line: apart from `service.exports`, which imports slowly."""

from __future__ import annotations

from typing import Literal

ExportFormat = Literal[
    "png",
    "png-binary",
    "rle",
    "coco",
    "youtube-vis",
    "label-studio",
    "cvat",
    "overlay",
    "matte",
    "probability",
]
SUFFIXES: dict[ExportFormat, str] = {
    "png": "zip",
    "png-binary": "zip",
    "rle": "jsonl",
    "coco": "json",
    "youtube-vis": "json",
    "label-studio": "json",
    "cvat": "xml",
    "overlay": "mp4",
    "matte": "mp4",
    "probability": "zip",
}
"""How files of a format end."""
