"""What every process of the service opens first: Redis, storage, and the check that both belong together."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service.errors import Unavailable
from service.mask_stream import MaskStream
from service.queue import JobQueue
from service.redis_client import connect, text
from service.redis_keys import Keys
from service.sessions import SessionStore
from service.settings import Settings
from service.storage import LocalStorage, Storage


@dataclass(frozen=True)
class Services:
    """One process's handles. All share one Redis client, and so belong to one event loop."""

    redis: Redis
    keys: Keys
    storage: Storage
    sessions: SessionStore
    queue: JobQueue
    masks: MaskStream


def open_storage(settings: Settings) -> Storage:
    """The storage that the settings name. Raises Unavailable for a kind that there is not."""
    if settings.storage_url is not None:
        raise Unavailable(f"storage_url={settings.storage_url!r} is not supported; share the data folder between hosts")
    return LocalStorage(settings.data_dir)


def build_services(settings: Settings, storage: Storage) -> Services:
    """All handles; connects at the first command. Raises Unavailable without a Redis URL."""
    if settings.redis_url is None:
        raise Unavailable("MASKSTREAM_REDIS_URL is not set; set it, or run `maskstream serve`, which starts a server")
    redis, keys = connect(settings.redis_url), Keys(settings.redis_prefix)
    return Services(
        redis=redis,
        keys=keys,
        storage=storage,
        sessions=SessionStore(redis, keys),
        queue=JobQueue(redis, keys),
        masks=MaskStream(redis, keys, storage),
    )


async def check_storage(services: Services) -> None:
    """Refuse to work on a storage that the others do not see. Raises Unavailable, which names both ways out."""
    mine = services.storage.storage_id
    try:
        await services.redis.set(services.keys.storage_id, mine, nx=True)
        theirs = text(await services.redis.get(services.keys.storage_id))
    except (RedisError, OSError) as error:
        raise Unavailable(f"Redis cannot be reached: {error}") from error
    if theirs != mine:
        raise Unavailable(
            f"this process sees storage {mine}, the others on this Redis use {theirs}. Give all processes the same "
            f"data folder (MASKSTREAM_DATA_DIR on a shared disk), or, if the old folder is gone for good, delete the "
            f"Redis key {services.keys.storage_id}"
        )
