"""The table of published checkpoints. Facts only; nothing is fetched here."""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import NotFound

_DRIVE = "https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"
_AOT_PAGE = "https://github.com/yoxu515/aot-benchmark"


@dataclass(frozen=True)
class PublishedWeights:
    """One checkpoint as its authors publish it.

    engine: the engine that loads it. url: of the file itself, or None where it must be fetched by hand from `page`.
    score: as published, on the benchmark it names. sha256, size_bytes: None where the authors give none; they are
    recorded at the first fetch. convertible: weights, kept as safetensors; others are kept as they are.
    also: names of entries that it needs beside it.
    """

    name: str
    engine: str
    page: str
    licence: str
    score: str
    url: str | None
    file_name: str
    sha256: str | None = None
    size_bytes: int | None = None
    convertible: bool = True
    also: tuple[str, ...] = ()


def _aot(engine: str, drive_id: str, score: float) -> PublishedWeights:
    return PublishedWeights(
        engine,
        engine,
        _AOT_PAGE,
        "BSD-3-Clause",
        f"YouTube-VOS 2018 mean {score}",
        _DRIVE.format(drive_id),
        f"{engine}.pth",
    )


def _uniref(name: str, engine: str, drive_id: str, score: str) -> PublishedWeights:
    page = "https://github.com/FoundationVision/UniRef"
    file = f"{name}.pth"
    return PublishedWeights(name, engine, page, "MIT", score, _DRIVE.format(drive_id), file, also=(VOCABULARY.name,))


def _feelvos(name: str, archive: str, score: str) -> PublishedWeights:
    return PublishedWeights(
        name,
        "feelvos",
        "https://github.com/tensorflow/models/tree/master/research/feelvos",
        "Apache-2.0 (code)",
        score,
        f"http://download.tensorflow.org/models/{archive}",
        archive,
    )


VOCABULARY = PublishedWeights(
    "bert-vocabulary",
    "uniref",
    "https://huggingface.co/google-bert/bert-base-uncased",
    "Apache-2.0",
    "no weights: the words of texts for uniref and uniref-l",
    "https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt",
    "vocab.txt",
    convertible=False,
)

PUBLISHED: tuple[PublishedWeights, ...] = (
    _aot("deaot-t", "1ThWIZQS03cYWx1EKNN8MIMnJS5eRowzr", 82.0),
    _aot("deaot-s", "1YwIAV5tBtn5spSFxKLBQBEQGwPHyQlHi", 84.0),
    _aot("deaot-b", "1BHxsonnvJXylqHlZ1zJHHc-ymKyq-CFf", 84.6),
    _aot("deaot-l", "18elNz_wi9JyVBcIUYKhRdL08MA-FqHD5", 84.8),
    _aot("r50-deaot-l", "1QoChMkTVxdYZ_eBlZhK2acq9KMQZccPJ", 86.0),
    _aot("swinb-deaot-l", "1g4E-F0RPOx9Nd6J7tU9AE1TjsouL4oZq", 86.2),
    _aot("aot-t", "1owPmwV4owd_ll6GuilzklqTyAd0ZvbCu", 80.2),
    _aot("aot-s", "1beU5E6Mdnr_pPrgjWvdWurKAIwJSz1xf", 82.9),
    _aot("aot-b", "1hH-GOn4GAxHkV8ARcQzsUy8Ax6ndot-A", 84.0),
    _aot("aot-l", "1L1N2hkSPqrwGgnW9GyFHuG59_EYYfTG4", 84.1),
    _aot("r50-aot-l", "1qJDYn3Ibpquu4ffYoQmVjg1YCbr2JQep", 84.6),
    _aot("swinb-aot-l", "192jCGQZdnuTsvX-CVra-KVZl2q1ZR0vW", 84.7),
    PublishedWeights(
        "stm",
        "stm",
        "https://github.com/seoungwugoh/STM",
        "CC BY-NC-SA 4.0",
        "not stated for this file",
        "https://www.dropbox.com/s/mtfxdr93xc3q55i/STM_weights.pth?dl=1",
        "stm.pth",
    ),
    PublishedWeights(
        "afb-urr",
        "afb-urr",
        "https://huggingface.co/xmlyqing00/AFB-URR",
        "academic use",
        "J&F 83.3 on its long videos",
        None,
        "afb-urr.pth",
    ),
    _feelvos("feelvos", "feelvos_davis17_and_youtubevos_trained.tar.gz", "DAVIS 2017 val J&F 71.5"),
    _feelvos("feelvos-davis", "feelvos_davis17_trained.tar.gz", "not stated for this file"),
    PublishedWeights(
        "spatial-embeddings",
        "spatial-embeddings",
        "https://github.com/davyneven/SpatialEmbeddings",
        "CC BY-NC 4.0",
        "Cityscapes val, car: 56.4 AP",
        _DRIVE.format("1BXxhYeg78mrkMNOReQWhBEcTu18_kFA0"),
        "spatial-embeddings.pth",
    ),
    _uniref("uniref", "uniref", "190SV9GU6Pd9FMZQnRrCbgw8lqDYF9_-I", "DAVIS 2017 val J&F 81.5"),
    _uniref("uniref-l", "uniref-l", "1ggkoEo1n2b-3sZDVVw3qFg1kyJQPc1jT", "not stated here"),
    _uniref("uniref-image", "uniref", "1RNerEk7nrbFBI9dY5HIK7ErmqKLN40_g", "RefCOCO 75.6, FSS-1000 79.1"),
    _uniref("uniref-l-image", "uniref-l", "1dhCRuSDkw7IjxoUZo1EHDPU_608QHcx_", "not stated here"),
    VOCABULARY,
)


def published(name: str) -> PublishedWeights:
    """The entry of that name. Raises NotFound that lists the names."""
    for entry in PUBLISHED:
        if entry.name == name:
            return entry
    names = ", ".join(entry.name for entry in PUBLISHED)
    raise NotFound(f"no published weights are called {name!r}; there are: {names}")
