"""The one door to engines: a name in, weights on a device out. Imports a family only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

import torch

from engines.catalog import CATALOG, EngineInfo
from engines.checkpoint import Weights
from engines.errors import DeviceUnavailable, UnknownEngine, UnsupportedReference
from engines.protocols import Engine, Proposer


class Builder(Protocol):
    """Builds one engine of a family; the `build` of its package."""

    def __call__(
        self,
        name: str,
        *,
        weights: Weights,
        device: torch.device,
        dtype: torch.dtype,
        deterministic: bool,
        compile: bool,
    ) -> Engine:
        """Load `weights` into the network that `name` means. Raises WeightsError."""
        ...


_BUILDERS: dict[str, str] = {
    "fake": "engines.fake:build",
    "aot": "engines.aot.build:build",
    "stm": "engines.stm.engine:build",
    "afb_urr": "engines.afb_urr.engine:build",
    "feelvos": "engines.feelvos.engine:build",
    "uniref": "engines.uniref.engine:build",
}


_PROPOSERS: dict[str, str] = {
    "spatial_embeddings": "engines.spatial_embeddings.engine:build_proposer",
    "uniref": "engines.uniref.proposer:build_proposer",
}


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name means; "auto" is CUDA where there is one. Raises DeviceUnavailable."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise DeviceUnavailable(f"{device!r} is no device; there are auto, cpu, cuda, cuda:1, …") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(_missing_cuda(found))
    return found


def _missing_cuda(device: torch.device) -> str:
    count = torch.cuda.device_count()
    if count:
        return f"there is no {device}: CUDA shows {count} here, from cuda:0 to cuda:{count - 1}"
    return (
        "no CUDA device is visible: look at the driver, or the GPUs that the container is given; or take the device cpu"
    )


def create(
    name: str,
    *,
    weights: Weights = "starter",
    device: str | torch.device = "auto",
    dtype: torch.dtype | None = None,
    compile: bool = False,
    deterministic: bool | None = None,
) -> Engine:
    """Load an engine.

    weights: "starter" (shipped with this project), "auto" (published ones if `maskstream weights fetch` brought them,
    else the starter), the path of a checkpoint as it is published, a state dict, or "random" (untrained, for timings).
    dtype: None means float32 on CPU and bfloat16 on CUDA. deterministic: None means on CPU only.
    Raises UnknownEngine, UnsupportedReference, WeightsError.
    """
    info = CATALOG.get(name)
    if info is None:
        raise UnknownEngine(f"no engine is called {name!r}; there are: {', '.join(CATALOG)}")
    if not info.follows:
        raise UnsupportedReference(f"{name} finds objects but does not follow them; open it with create_proposer()")
    target = resolve_device(device)
    on_cpu = target.type == "cpu"
    module, _, function = _BUILDERS[info.family].partition(":")
    builder = cast(Builder, getattr(import_module(module), function))
    options: dict[str, Any] = {
        "dtype": dtype or (torch.float32 if on_cpu else torch.bfloat16),
        "deterministic": on_cpu if deterministic is None else deterministic,
    }
    return builder(name, weights=weights, device=target, compile=compile, **options)


def _proposes(info: EngineInfo) -> bool:
    """Networks that read free text have nothing to propose without one."""
    return info.family in _PROPOSERS and (info.family != "uniref" or bool(info.vocabulary))


def create_proposer(
    name: str = "spatial-embeddings", *, weights: Weights = "starter", device: str | torch.device = "auto"
) -> Proposer:
    """Load a network that finds objects in a frame by itself; weights and device as for create().

    Raises UnknownEngine, WeightsError.
    """
    info = CATALOG.get(name)
    if info is None or info.family not in _PROPOSERS:
        have = [each.name for each in CATALOG.values() if _proposes(each)]
        raise UnknownEngine(f"no proposer is called {name!r}; there are: {', '.join(have)}")
    module, _, function = _PROPOSERS[info.family].partition(":")
    proposer: Proposer = getattr(import_module(module), function)(name, weights=weights, device=resolve_device(device))
    return proposer
