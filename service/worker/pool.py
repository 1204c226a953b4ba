"""Engines of one device: loaded when first asked for, the least recently used dropped when room is needed."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Collection

import structlog
import torch

from engines import registry
from engines.catalog import CATALOG
from engines.checkpoint import is_fetched
from engines.protocols import Engine
from service.settings import MIB, Settings

_CPU_SHARE = 0.6
_CUDA_SHARE = 0.85
_MAX_ENGINES = 4
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_log = structlog.get_logger()


def capacity_bytes(settings: Settings, device: torch.device) -> int:
    """Bytes that sessions may take of the device, all together."""
    if settings.device_memory_mib is not None:
        return settings.device_memory_mib * MIB
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * _CUDA_SHARE)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _CPU_SHARE)


class EnginePool:
    """Loaded engines by name."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self._settings = settings
        self._device = device
        self._engines: OrderedDict[str, Engine] = OrderedDict()

    @property
    def names(self) -> tuple[str, ...]:
        """Engines that this worker serves: those of the settings, else every one that it has weights for."""
        return self._settings.engines or tuple(
            name for name, info in CATALOG.items() if info.follows and (info.starter is not None or is_fetched(name))
        )

    def is_loaded(self, name: str) -> bool:
        """Whether get() would be quick."""
        return name in self._engines

    def get(self, name: str, *, in_use: Collection[str], before_load: Callable[[], None]) -> Engine:
        """The engine, loaded if need be; `before_load` is called before that starts. Raises EngineError."""
        if name not in self._engines:
            self._make_room(in_use)
            before_load()
            _log.info("loading engine", engine=name, device=str(self._device))
            self._engines[name] = self._load(name)
        self._engines.move_to_end(name)
        return self._engines[name]

    def _load(self, name: str) -> Engine:
        settings = self._settings
        paused = name == "fake" and settings.fake_step_s > 0
        return registry.create(
            name,
            weights={"step_s": torch.tensor(settings.fake_step_s)} if paused else "auto",
            device=self._device,
            dtype=_DTYPES.get(settings.dtype),
            compile=settings.compile,
            deterministic=settings.deterministic,
        )

    def _make_room(self, in_use: Collection[str]) -> None:
        idle = [name for name in self._engines if name not in in_use]
        while len(self._engines) >= _MAX_ENGINES and idle:
            del self._engines[idle.pop(0)]
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
