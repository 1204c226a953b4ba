"""What references must obey, whichever engine resolves them: known words, one voice per object and frame, kinds.

Pure functions over the catalog; knows no request, no storage and no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engines.catalog import CATALOG, EngineInfo
from engines.prompts.word_pieces import count_pieces, read_vocabulary
from engines.prompts.words import GLUE, split_words
from engines.weights_dir import weights_dir
from service.errors import InvalidInput

MAX_TEXT_TOKENS = 77
_FRAMING_TOKENS = 2  # a text encoder adds a start and an end
TEXT_RULES = "text-rules"


class Described(Protocol):
    """An entry that describes one object at one frame."""

    @property
    def object_id(self) -> int: ...  # noqa: D102 - named for what it is
    @property
    def frame_index(self) -> int: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class TextRoute:
    """Who reads the texts of a session. vocabulary: its words; empty when it takes free text."""

    engine: str
    vocabulary: tuple[str, ...]


def text_route(engine: EngineInfo) -> TextRoute:
    """The session's own engine where it reads free text, else the rules over proposals."""
    if "text" in engine.reference_kinds and not engine.vocabulary:
        return TextRoute(engine.name, ())
    return TextRoute(TEXT_RULES, CATALOG[TEXT_RULES].vocabulary)


def free_text_engines() -> list[str]:
    """Engines that read any text."""
    return [info.name for info in CATALOG.values() if "text" in info.reference_kinds and not info.vocabulary]


def check_engine(engine: EngineInfo) -> None:
    """Raises InvalidInput for an engine that finds objects but does not follow them."""
    if not engine.follows:
        able = ", ".join(info.name for info in CATALOG.values() if info.follows)
        raise InvalidInput(
            f"engine: {engine.name!r} finds objects in one frame and does not follow them through the video. It is "
            f"used by itself where a session needs it; engines that follow objects: {able}",
            field="engine",
        )


def check_text(text: str, engine: EngineInfo, field: str) -> tuple[str, ...]:
    """Words of a text that its reader does not know. Raises InvalidInput for an empty, too long or unknown text."""
    words = split_words(text)
    if not words:
        raise InvalidInput(f"{field}: the text is empty; describe the object", field=field)
    if len(words) + _FRAMING_TOKENS > MAX_TEXT_TOKENS:
        raise InvalidInput(
            f"{field}: the text has {len(words)} words, more than {MAX_TEXT_TOKENS} tokens hold; shorten it",
            field=field,
        )
    route = text_route(engine)
    if not route.vocabulary:
        _check_pieces(text, field)
        return ()
    known = set(route.vocabulary) - set(GLUE)
    if not known & set(words):
        raise InvalidInput(
            f"{field}: {route.engine} knows no word of {text[:80]!r} that tells objects apart. Known words: "
            f"{', '.join(word for word in route.vocabulary if word in known)}. "
            f"Engines that take free text: {', '.join(free_text_engines())}",
            field=field,
        )
    return tuple(dict.fromkeys(word for word in words if word not in known and word not in GLUE))


def _check_pieces(text: str, field: str) -> None:
    """Count as the text encoder will, where its vocabulary has been fetched; without it the engine itself refuses."""
    path = weights_dir() / "vocab.txt"
    if not path.is_file():
        return
    tokens = count_pieces(text, read_vocabulary(path)) + _FRAMING_TOKENS
    if tokens > MAX_TEXT_TOKENS:
        raise InvalidInput(
            f"{field}: the text has {tokens} tokens and at most {MAX_TEXT_TOKENS} are read; shorten it", field=field
        )


def check_agreement(entries: Sequence[Described]) -> None:
    """Raises InvalidInput when two entries describe one object at one frame: one of them would be lost."""
    seen: dict[tuple[int, int], int] = {}
    for index, entry in enumerate(entries):
        first = seen.setdefault((entry.object_id, entry.frame_index), index)
        if first != index:
            raise InvalidInput(
                f"references[{index}]: object {entry.object_id} has a reference of kind {entries[first].kind} at frame "
                f"{entry.frame_index} already (references[{first}]); give one. Several clicks are one `points` list",
                field=f"references[{index}]",
            )


def unknown_words_warning(text: str, words: Iterable[str], reader: str) -> str:
    """What a client reads when a text was understood only in part."""
    return f"text {text[:80]!r}: {reader} does not know {', '.join(words)}; the rest of the text was used"
