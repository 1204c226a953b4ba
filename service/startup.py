"""What every process of the service opens first: Redis, storage, and the check that both belong together."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from engines.catalog import CATALOG
from service.errors import InvalidInput, Unavailable
from service.keys import require_strength
from service.live_input import LiveInput
from service.local_copies import LocalCopies
from service.local_storage import LocalStorage
from service.mask_stream import MaskStream
from service.queue import JobQueue
from service.redis_client import connect, text
from service.redis_keys import Keys
from service.sessions import SessionStore
from service.settings import Settings
from service.storage import Storage, StorageUnavailable


@dataclass(frozen=True)
class Services:
    """One process's handles. All share one Redis client, and so belong to one event loop."""

    redis: Redis
    keys: Keys
    storage: Storage
    sessions: SessionStore
    queue: JobQueue
    masks: MaskStream
    live: LiveInput


def open_storage(settings: Settings) -> Storage:
    """The storage that the settings name. Raises Unavailable when it cannot be used, with the reason and a remedy."""
    if settings.storage_url is None:
        return LocalStorage(settings.data_dir)
    address = urlsplit(settings.storage_url)
    if address.scheme != "s3" or not address.netloc:
        raise Unavailable(
            f"MASKSTREAM_STORAGE_URL={settings.storage_url!r}: give it as s3://bucket or s3://bucket/prefix"
        )
    return _open_bucket(settings, address.netloc, address.path.strip("/"))


def _open_bucket(settings: Settings, bucket: str, prefix: str) -> Storage:
    try:
        from service.s3_storage import open_bucket
    except ModuleNotFoundError as error:
        raise Unavailable("an S3 storage needs obstore: pip install 'maskstream[s3]'") from error
    room = settings.min_free_bytes + settings.max_upload_bytes  # copies must never be why an upload is refused
    copies = LocalCopies(settings.data_dir / "copies", settings.copies_bytes, room)
    try:
        return open_bucket(bucket, prefix, settings.s3_endpoint, copies)
    except FileNotFoundError as error:
        raise Unavailable(
            f"there is no bucket {bucket!r} at {settings.s3_endpoint or 'AWS'}: make it, or mend MASKSTREAM_STORAGE_URL"
        ) from error
    except StorageUnavailable as error:
        raise Unavailable(
            f"s3://{bucket} cannot be used: {error}. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and "
            "MASKSTREAM_S3_ENDPOINT; the key must be allowed to list, read, write and delete"
        ) from error


def check_settings(settings: Settings) -> None:
    """Raises InvalidInput for an engine that nobody could ever serve, or a key that could be guessed."""
    if settings.api_key is not None:
        require_strength(settings.api_key.get_secret_value())
    following = [info.name for info in CATALOG.values() if info.follows]
    for name in (*settings.engines, *filter(None, [settings.default_engine])):
        if name not in following:
            raise InvalidInput(f"the settings name an engine {name!r}; there are: {', '.join(following)}")


def build_services(settings: Settings, storage: Storage) -> Services:
    """All handles; connects at the first command. Raises Unavailable without a Redis URL, InvalidInput."""
    check_settings(settings)
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
        live=LiveInput(redis, keys),
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
            f"data folder (MASKSTREAM_DATA_DIR on a shared disk) or the same MASKSTREAM_STORAGE_URL (S3); or, if the "
            f"old storage is gone for good, delete the Redis key {services.keys.storage_id}"
        )
