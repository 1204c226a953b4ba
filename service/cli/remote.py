"""`maskstream submit | watch | correct | download | cancel | delete | sessions`: a server somewhere else.

Exit codes: 0 done, 1 the session failed or was cancelled, 2 refused or wrong usage, 3 no connection.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.reference_options import Boxes, ExemplarMasks, Exemplars, Masks, Points, Texts
from service.export_formats import SUFFIXES

if TYPE_CHECKING:
    from service.client import Client, SessionInfo

_COLUMNS = ("session", "state", "engine", "frames", "video")
EXIT_SESSION, EXIT_REFUSED, EXIT_CONNECTION = 1, 2, 3

Url = Annotated[str, typer.Option("--url", envvar="MASKSTREAM_URL", help="Address of the server.")]
Key = Annotated[str | None, typer.Option("--key", envvar="MASKSTREAM_API_KEY", help="API key, if the server has keys.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
SessionId = Annotated[str, typer.Argument(help="Session id, as submit printed it.")]
DEFAULT_URL = "http://127.0.0.1:8000"


def register(app: typer.Typer) -> None:
    """Add the commands for a remote server."""
    for command in (submit, watch, correct, download, cancel, delete, sessions):
        app.command()(command)


def submit(
    video: Annotated[Path, typer.Argument(exists=True, help="Video file, or folder or zip of numbered images.")],
    mask: Masks = None,
    text: Texts = None,
    box: Boxes = None,
    point: Points = None,
    exemplar: Exemplars = None,
    exemplar_mask: ExemplarMasks = None,
    max_objects: Annotated[
        int | None, typer.Option("--max-objects", help="Most objects to find when no reference is given.")
    ] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="Engine; the server's default if left out.")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="adaptive, window, every_k, or JSON.")] = None,
    max_side: Annotated[int | None, typer.Option("--max-side", help="Segment at this longer side at most.")] = None,
    start_frame: Annotated[int | None, typer.Option("--start-frame", help="First frame to segment.")] = None,
    end_frame: Annotated[int | None, typer.Option("--end-frame", help="Frame to stop before.")] = None,
    probability: Annotated[bool, typer.Option("--probability", help="Keep probabilities, for soft mattes.")] = False,
    wait: Annotated[bool, typer.Option("--watch", help="Stay and show the progress.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Upload a video with its references; prints the session id."""
    with _client(url, key) as client:
        given = _references(text=text, box=box, point=point, exemplar=exemplar, exemplar_mask=exemplar_mask)
        given |= {"engine": engine, "memory": memory, "max_side": max_side, "probability": probability or None}
        given |= {"start_frame": start_frame, "end_frame": end_frame, "max_objects": max_objects}
        session = client.create_session(video, list(mask or []) or None, **given)
        _print_session(session, as_json)
        if wait:
            _watch(client, session.session_id, as_json)


def _references(**options: Any) -> dict[str, Any]:
    """Options that may be repeated: none of one is an empty list here and nothing in the form."""
    return {name: values or None for name, values in options.items()}


def watch(session_id: SessionId, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Follow a session to its end."""
    with _client(url, key) as client:
        _watch(client, session_id, as_json)


def correct(
    session_id: SessionId,
    frame: Annotated[int, typer.Option("--frame", min=0, help="Frame that the references belong to.")],
    mask: Masks = None,
    text: Texts = None,
    box: Boxes = None,
    point: Points = None,
    exemplar: Exemplars = None,
    exemplar_mask: ExemplarMasks = None,
    direction: Annotated[
        str, typer.Option("--direction", help="Frames made again: forward, backward or both.")
    ] = "forward",
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Correct objects, or add new ones, at a frame; the frames after it are made again, or as --direction says."""
    with _client(url, key) as client:
        given = _references(text=text, box=box, point=point, exemplar=exemplar, exemplar_mask=exemplar_mask)
        masks = list(mask or []) or None
        session = client.correct(session_id, frame, masks, direction=direction, **given)  # type: ignore[arg-type]
        _print_session(session, as_json)


def download(
    session_id: SessionId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File or folder to write; default: ID-FORMAT.SUFFIX here.")
    ] = None,
    format: Annotated[str, typer.Option("--format", help=f"One of: {', '.join(SUFFIXES)}.")] = "png",
    partial: Annotated[bool, typer.Option("--partial", help="Take what is there of an unfinished session.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Save a session's result as a file; goes on where a lost connection broke it off."""
    if format not in SUFFIXES:
        raise typer.BadParameter(f"{format!r} is none of {', '.join(SUFFIXES)}", param_hint="--format")
    name = f"{session_id}-{format}.{SUFFIXES[format]}"
    target = Path(name) if output is None else output / name if output.is_dir() else output
    with _client(url, key) as client:
        client.session(session_id)  # one that is not there is said at once; what breaks later is tried again for long
        typer.echo(str(client.download(session_id, target, format=format, partial=partial)))


def cancel(session_id: SessionId, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Stop a session at its next step; its masks stay."""
    with _client(url, key) as client:
        _print_session(client.cancel(session_id), as_json)


def delete(session_id: SessionId, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Delete a session with its video and masks, for good."""
    with _client(url, key) as client:
        client.delete(session_id)
    typer.echo(f"{session_id} deleted")


def sessions(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many.")] = 50,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """List your sessions, newest first."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Column, Table

    with _client(url, key) as client:
        found = client.sessions(limit=limit)
    if as_json:
        typer.echo(json.dumps([dict(session.raw) for session in found]))
        return
    table = Table(*(Column(title, no_wrap=title != "video") for title in _COLUMNS), box=SIMPLE)
    for session in found:
        name, engine = (str(session.raw.get(field) or "") for field in ("name", "engine"))
        table.add_row(session.session_id, session.state, engine, _frames(session.raw), name)
    Console().print(table)


@contextmanager
def _client(url: str, key: str | None) -> Iterator[Client]:
    """A client whose errors end the command with one line and the right exit code."""
    from service.client import ApiError, Client, ClientError, ConnectionLost, SessionCancelled, SessionFailed

    try:
        with Client(url, api_key=key) as client:
            yield client
    except ConnectionLost as error:
        raise _stop(str(error), EXIT_CONNECTION) from error
    except (SessionFailed, SessionCancelled) as error:
        raise _stop(str(error), EXIT_SESSION) from error
    except ClientError as error:
        keyless = isinstance(error, ApiError) and error.status == 401
        hint = ". Here: --key KEY, or MASKSTREAM_API_KEY in the environment" if keyless else ""
        raise _stop(f"{error}{hint}", EXIT_REFUSED) from error


def _stop(message: str, code: int) -> typer.Exit:
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    return typer.Exit(code)


def _watch(client: Client, session_id: str, as_json: bool) -> None:
    """Follow to the end; the session itself does not stop when its reader does."""
    try:
        _follow(client, session_id, as_json)
    except KeyboardInterrupt:
        typer.echo(
            f"the session goes on: `maskstream watch {session_id}` follows it again, `maskstream cancel {session_id}` "
            "stops it",
            err=True,
        )
        raise


def _follow(client: Client, session_id: str, as_json: bool) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = client.session(session_id).raw.get("progress", {}).get("frames_total")
    if as_json:
        for frame in client.stream(session_id):
            typer.echo(json.dumps({"seq": frame.seq, "frame_index": frame.frame_index}))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(session_id, total=total)
        for _ in client.stream(session_id):
            bar.advance(task)


def _print_session(session: SessionInfo, as_json: bool) -> None:
    """One line for programs; how the references were taken is for people, and goes to stderr."""
    typer.echo(json.dumps(dict(session.raw)) if as_json else f"{session.session_id} {session.state}")
    if not as_json:
        for remark in (*session.raw.get("notes", ()), *session.raw.get("warnings", ())):
            typer.secho(remark, dim=True, err=True)


def _frames(raw: Any) -> str:
    progress = raw.get("progress") or {}
    return f"{progress.get('frames_done', 0)} / {progress.get('frames_total') or '?'}"
