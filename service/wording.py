"""How numbers stand in sentences for people."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 mask`, `2 masks`; for nouns whose plural takes an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
