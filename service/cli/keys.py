"""`maskstream keys create | list | revoke`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from service.keys import AccessKeys
    from service.settings import Settings

T = TypeVar("T")
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", file_okay=False, help="Data folder of the service [MASKSTREAM_DATA_DIR].")
]
keys = typer.Typer(help="Access keys: create, list, revoke.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add `keys` and its sub-commands."""
    app.add_typer(keys, name="keys")


@keys.command()
def create(
    name: Annotated[str, typer.Option("--name", help="What the key is for.")] = "unnamed", data_dir: DataDir = None
) -> None:
    """Make a key and print it, once: the service keeps only its hash."""
    key, record = _with_keys(data_dir, lambda access: access.create(name))
    typer.echo(key)
    typer.echo(f"id {record.key_id}, name {record.name}; from now on every request needs a key", err=True)


@keys.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """Show ids, names and dates of all keys."""
    from datetime import UTC, datetime

    found = _with_keys(data_dir, lambda access: access.list(), must_exist=True)
    if not found:
        typer.echo("there are no keys: the service answers on this machine only, and without any", err=True)
    for record in found:
        made = datetime.fromtimestamp(record.created_at, UTC).isoformat(timespec="seconds")
        typer.echo(f"{record.key_id}  {'revoked' if record.revoked_at else 'valid':7}  {made}  {record.name}")


@keys.command()
def revoke(key_id: Annotated[str, typer.Argument(help="The id that `list` shows.")], data_dir: DataDir = None) -> None:
    """Refuse a key from now on."""
    record = _with_keys(data_dir, lambda access: access.revoke(key_id), must_exist=True)
    typer.echo(f"revoked {record.key_id} ({record.name})")


def _with_keys(data_dir: Path | None, act: Callable[[AccessKeys], Awaitable[T]], *, must_exist: bool = False) -> T:
    """Do something with the keys of the service that the settings name, whether it runs now or not.

    must_exist: its data folder is not made. Raises Unavailable.
    """
    import asyncio

    from redis.exceptions import RedisError

    from service.cli.serve import read_settings
    from service.errors import Unavailable
    from service.keys import AccessKeys
    from service.redis_client import connect
    from service.redis_keys import Keys

    settings = read_settings(data_dir=data_dir)
    if must_exist and settings.redis_url is None and not settings.data_dir.exists():
        raise Unavailable(
            f"there is no data folder {settings.data_dir}; --data-dir names the one of `maskstream serve`"
        )

    async def run(url: str) -> T:
        redis = connect(url)
        try:
            return await act(AccessKeys(redis, Keys(settings.redis_prefix)))
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis cannot be reached: {error}") from error
        finally:
            await redis.aclose()

    with _redis_url(settings) as url:
        return asyncio.run(run(url))


@contextmanager
def _redis_url(settings: Settings) -> Iterator[str]:
    """The Redis of the settings, the embedded one of a running `serve`, or that one started for a moment."""
    if settings.redis_url is not None:
        yield settings.redis_url
        return
    from service.embedded import EmbeddedRedis
    from service.errors import Unavailable

    embedded = EmbeddedRedis(settings.data_dir / "redis")
    try:
        embedded.start()
    except Unavailable:
        if not embedded.answers():
            raise
        yield embedded.url
        return
    try:
        yield embedded.url
    finally:
        embedded.stop()
