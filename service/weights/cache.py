"""The folder of fetched weights: what is in it, and the hashes recorded at the first fetch."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from engines.weights_dir import weights_dir
from service.errors import InvalidInput, NotFound, Unavailable
from service.weights.download import Progress, Wanted, check, download, file_sha256
from service.weights.published import PublishedWeights, published

_RECORDS = "checksums.json"


@dataclass(frozen=True)
class Stored:
    """A file in the cache. path: what an engine loads; published_sha256: of the file as published."""

    path: Path
    published_sha256: str


class WeightsCache:
    """Fetch, check and convert into one folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or weights_dir()

    def path_of(self, entry: PublishedWeights) -> Path:
        """Where an entry is kept once it is there."""
        return self.folder / (f"{entry.name}.safetensors" if entry.convertible else entry.file_name)

    def recorded_sha256(self, entry: PublishedWeights) -> str | None:
        """The hash it must have: the authors', else that of the first fetch."""
        return entry.sha256 or self._records().get(entry.name)

    def missing(self, entry: PublishedWeights) -> list[PublishedWeights]:
        """What else an entry needs beside it and is not here yet."""
        return [other for other in map(published, entry.also) if not self.path_of(other).is_file()]

    def fetch(
        self,
        entry: PublishedWeights,
        *,
        local_file: Path | None = None,
        accept_new: bool = False,
        progress: Progress | None = None,
    ) -> Stored:
        """Bring an entry into the folder, from the network or from `local_file`, check it and convert it.

        accept_new: take the file even though another hash was recorded. Raises Unavailable, InvalidInput, StorageFull.
        """
        expected = entry.sha256 if accept_new else self.recorded_sha256(entry)
        raw = self.folder / entry.file_name
        if local_file is not None:
            digest = self._take(entry, local_file, raw, expected)
        elif entry.url is None:
            raise Unavailable(f"{entry.name} has no direct address; get it from {entry.page} and use --from FILE")
        else:
            digest = download(Wanted(entry.url, raw, expected, entry.size_bytes), progress)
        path = self._keep(entry, raw)
        self._record(entry.name, digest)
        return Stored(path, digest)

    def _take(self, entry: PublishedWeights, local_file: Path, raw: Path, expected: str | None) -> str:
        if not local_file.is_file():
            raise NotFound(f"there is no file {local_file}")
        self.folder.mkdir(parents=True, exist_ok=True)
        copy = raw.with_name(raw.name + ".part")
        shutil.copyfile(local_file, copy)
        digest = file_sha256(copy)
        check(copy, digest, expected, entry.size_bytes)
        copy.replace(raw)
        return digest

    def _keep(self, entry: PublishedWeights, raw: Path) -> Path:
        if not entry.convertible:
            return raw
        from engines.errors import WeightsError
        from service.weights.convert import convert

        try:
            convert(raw, self.path_of(entry), entry)
        except WeightsError as error:
            raise InvalidInput(f"{entry.name} was fetched but cannot be used: {error}") from error
        finally:
            raw.unlink(missing_ok=True)
        return self.path_of(entry)

    def _records(self) -> dict[str, str]:
        path = self.folder / _RECORDS
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    def _record(self, name: str, digest: str) -> None:
        temporary = self.folder / f"{_RECORDS}.{os.getpid()}"
        temporary.write_text(json.dumps(self._records() | {name: digest}, indent=1, sort_keys=True))
        temporary.replace(self.folder / _RECORDS)
