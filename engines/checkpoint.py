"""Weights from a file, a state dict or the shipped starters into a network. Knows no architecture.

load_checkpoint() reads, unwraps and hashes; fit() loads strictly and says what a file looks like when it does not fit.
"""

from __future__ import annotations

import hashlib
import logging
import math
import pickle
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engines.errors import WeightsError
from engines.weights_dir import weights_dir

STARTER_DIR = Path(__file__).parent / "starter"
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_NAMED_AT_MOST = 5
_UNTRAINED = "random"
_log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]

Weights = str | Path | Mapping[str, Tensor]
"""What an engine is loaded from: a name that load_checkpoint() knows, the path of a file, or a state dict."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and what was said about them.

    metadata: of a safetensors file; starters carry net_short_side, memorize_every and licence. sha256: of the file's
    bytes, or of names and values for a state dict. origin: for messages.
    """

    tensors: Mapping[str, Tensor]
    sha256: str
    origin: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    def integer(self, name: str, default: int) -> int:
        """A whole number of the metadata. Raises WeightsError when it is none."""
        try:
            return int(self.metadata.get(name, default))
        except ValueError:
            raise WeightsError(f"{self.origin}: metadata {name!r} is {self.metadata[name]!r}, not a number") from None

    def number(self, name: str, default: float) -> float:
        """A number of the metadata. Raises WeightsError when it is none, or not finite."""
        try:
            value = float(self.metadata.get(name, default))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise WeightsError(f"{self.origin}: metadata {name!r} is {self.metadata[name]!r}, not a number")
        return value


def load_checkpoint(weights: Weights, name: str) -> Checkpoint:
    """Read weights for the engine `name`.

    weights: "auto" (fetched published weights, else the starter), "starter", the path of a .safetensors or .pth file
    as it is published, a state dict, or "random": the network as it was built, untrained, for timings.
    Raises WeightsError for a missing, truncated or unsafe file.
    """
    if isinstance(weights, Mapping):
        tensors = _unwrap(dict(weights), "the given state dict")
        return Checkpoint(tensors, _hash_tensors(tensors), "the given state dict")
    if weights == _UNTRAINED:
        return Checkpoint({}, _UNTRAINED, "random weights")
    path = _find(weights, name)
    if not path.is_file():
        raise WeightsError(f"there is no weights file {path}; see `maskstream weights list` for where to get one")
    checkpoint = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if weights in ("auto", "starter"):
        _log.info("weights of %s: %s, licence: %s", name, path, checkpoint.metadata.get("licence", "see LICENSE.md"))
    return checkpoint


def _find(weights: str | Path, name: str) -> Path:
    if weights == "auto" and is_fetched(name):
        return _fetched(name)
    return starter_path(name) if weights in ("auto", "starter") else Path(weights)


def _fetched(name: str) -> Path:
    return weights_dir() / f"{name}.safetensors"


def is_fetched(name: str) -> bool:
    """Whether `maskstream weights fetch` brought the engine's published weights."""
    return _fetched(name).is_file()


def starter_path(name: str) -> Path:
    """The starter file of an engine. Raises WeightsError that names the engines which have one."""
    path = STARTER_DIR / f"{name}.safetensors"
    if not path.is_file():
        have = sorted(file.stem for file in STARTER_DIR.glob("*.safetensors"))
        raise WeightsError(
            f"no starter weights are shipped for {name!r}; engines that have some: {', '.join(have) or 'none'}. "
            f"Fetch the published ones with `maskstream weights fetch {name}`, or give the path of a checkpoint"
        )
    return path


def shapes_of(net: nn.Module) -> Shapes:
    """Name and shape of everything a network loads."""
    return {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}


def fit(
    net: nn.Module,
    checkpoint: Checkpoint,
    name: str,
    *,
    variants: Callable[[], Mapping[str, Shapes]] | None = None,
    optional: Collection[str] = (),
) -> None:
    """Load every tensor into `net`, strictly, converting the dtype.

    variants: made only when the weights do not fit, to say which one the file looks like. optional: names that a file
    may lack or carry in vain; counters of tracked batches always may.
    Raises WeightsError with the first wrong names.
    """
    if checkpoint.sha256 == _UNTRAINED:
        return
    tensors = {key: value for key, value in checkpoint.tensors.items() if not key.endswith("num_batches_tracked")}
    expected = {key: shape for key, shape in shapes_of(net).items() if not key.endswith("num_batches_tracked")}
    wrong = _differences(expected, tensors, optional)
    if wrong:
        guess = _looks_like(tensors, variants() if variants else {})
        more = f" and {len(wrong) - _NAMED_AT_MOST} more" if len(wrong) > _NAMED_AT_MOST else ""
        raise WeightsError(
            f"{checkpoint.origin} does not fit {name}: {'; '.join(wrong[:_NAMED_AT_MOST])}{more}. {guess}".strip()
        )
    net.load_state_dict({key: tensors[key] for key in expected if key in tensors}, strict=False)


def _differences(expected: Shapes, tensors: Mapping[str, Tensor], optional: Collection[str]) -> list[str]:
    missing = [f"{key} is missing" for key in expected if key not in tensors and key not in optional]
    shapes = [
        f"{key} has shape {tuple(tensors[key].shape)}, not {shape}"
        for key, shape in expected.items()
        if key in tensors and tuple(tensors[key].shape) != shape
    ]
    unknown = [f"{key} is unknown" for key in tensors if key not in expected and key not in optional]
    return missing + shapes + unknown


def _looks_like(tensors: Mapping[str, Tensor], variants: Mapping[str, Shapes]) -> str:
    found = {(key, tuple(value.shape)) for key, value in tensors.items()}
    distance = {
        name: len(found ^ {item for item in shapes.items() if not item[0].endswith("num_batches_tracked")})
        for name, shapes in variants.items()
    }
    if not distance:
        return ""
    best = min(distance, key=lambda name: distance[name])
    if distance[best] == 0:
        return f"It looks like {best}: ask for that engine"
    if distance[best] < len(found) // 2:
        return f"The closest is {best}, with {distance[best]} differences: is the file complete?"
    return "It looks like none of this family's variants"


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read: {error}. Is it truncated? Fetch it again") from error
    return Checkpoint(_unwrap(tensors, str(path)), _hash_file(path), str(path), metadata)


def _read_torch(path: Path) -> Checkpoint:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's own message recommends to load without protection, so it stays in the cause.
        raise WeightsError(
            f"{path} was not opened: it is no checkpoint of PyTorch, or holds more than plain weights, which could run "
            "code. Fetch it again, or save the weights alone: torch.save(model.state_dict(), …), or as .safetensors"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} cannot be read: {error}. Is it truncated? Fetch it again") from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, not weights by name")
    return Checkpoint(_unwrap(loaded, str(path)), _hash_file(path), str(path))


def _unwrap(loaded: Mapping[str, object], origin: str) -> dict[str, Tensor]:
    """The weights themselves: below a wrapping entry if there is one, without data-parallel prefixes."""
    for wrapper in _WRAPPERS:
        inner = loaded.get(wrapper)
        if isinstance(inner, Mapping):
            loaded = inner
            break
    tensors = {str(key): value for key, value in loaded.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{origin} holds no tensors (entries: {', '.join(map(str, list(loaded)[:5])) or 'none'})")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        flat = tensors[key].detach().to("cpu").contiguous().flatten()
        digest.update(f"{key}:{flat.dtype}:{tuple(tensors[key].shape)}".encode())
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
