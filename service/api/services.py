"""What every request uses, made once per process in the app's lifespan and handed on through `app.state`."""

from __future__ import annotations

from dataclasses import dataclass

from redis.asyncio import Redis
from starlette.requests import HTTPConnection

from service.api.export_files import ExportFiles
from service.api.prober import Prober
from service.api.tailer import Tailer
from service.api.upload_slots import UploadSlots
from service.keys import AccessKeys
from service.live_input import LiveInput
from service.mask_stream import MaskStream
from service.redis_client import Scripts
from service.redis_keys import Keys
from service.sessions import SessionStore
from service.settings import Settings
from service.storage import Storage


@dataclass(frozen=True)
class Services:
    """Connections and stores of one API process."""

    settings: Settings
    redis: Redis
    keys: Keys
    scripts: Scripts
    access: AccessKeys
    store: SessionStore
    storage: Storage
    masks: MaskStream
    live: LiveInput
    prober: Prober
    tailer: Tailer
    exports: ExportFiles
    uploads: UploadSlots


def services_of(connection: HTTPConnection) -> Services:
    """The process's services; a FastAPI dependency too."""
    services: Services = connection.app.state.services
    return services


def owner_of(connection: HTTPConnection) -> str:
    """Who calls, as the access middleware found out; a FastAPI dependency too."""
    owner: str = connection.scope["state"]["owner"]
    return owner
