"""Soft mattes: from an engine's probabilities to grey videos."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

import av
import numpy as np
import pytest
import torch

from engines.types import Prediction
from service.exports import probability_zip
from service.masks import decode_level, encode_level, encode_objects
from service.schemas import MaskEvent
from service.worker.probabilities import small_probabilities
from tests.unit.test_exports import INFO, SIZE, label_maps


def test_cells_are_means_and_go_to_the_objects_by_ascending_id() -> None:
    rng = np.random.default_rng(2)
    probability = torch.from_numpy(rng.dirichlet(np.ones(3), (9, 14))).permute(2, 0, 1).float()
    found = small_probabilities(Prediction(np.zeros((9, 14), np.uint8), {7: 0.5, 2: 0.5}, {}, probability))
    assert list(found) == [2, 7] and found[2].shape == (3, 4)
    expected = probability[1, 4:8, 8:12].mean().item() * 255
    assert abs(float(found[2][1, 2]) - expected) <= 0.51
    assert abs(float(found[7][2, 3]) - probability[2, 8:, 12:].mean().item() * 255) <= 0.51, "the corner is smaller"
    assert small_probabilities(None) == small_probabilities(Prediction(np.zeros((9, 14), np.uint8), {}, {})) == {}


def test_objects_that_do_not_match_the_channels_are_a_defect() -> None:
    with pytest.raises(ValueError, match="longer"):
        small_probabilities(Prediction(np.zeros((4, 4), np.uint8), {1: 1.0}, {}, torch.full((3, 4, 4), 1 / 3)))


def soft_events() -> Iterator[MaskEvent]:
    """Object 1 has a ramp from left to right; object 9 has only its mask."""
    ramp = np.tile(np.linspace(0, 255, SIZE[1] // 4).astype(np.uint8), (SIZE[0] // 4, 1))
    for index, label_map in enumerate(label_maps()):
        objects = [{**item, "score": 0.8} for item in encode_objects(label_map, [1, 9])]
        objects[0]["probability"] = encode_level(ramp)
        yield MaskEvent.model_validate({"seq": index, "frame_index": index, "size": SIZE, "objects": objects})


def test_each_object_has_a_video_as_bright_as_it_is_probable() -> None:
    with zipfile.ZipFile(io.BytesIO(b"".join(probability_zip(INFO, soft_events, 24.0)))) as archive:
        assert archive.testzip() is None and archive.namelist() == ["001.mp4", "009.mp4"]
        soft, hard = (pictures(archive.read(name)) for name in archive.namelist())
    assert len(soft) == len(hard) == 3
    columns = soft[1].mean(axis=0)
    assert columns[0] < 20 and columns[-1] > 235 and np.all(np.diff(columns) > -6)
    assert np.mean((hard[2] > 127) == (label_maps()[2] == 9)) > 0.97
    assert hard[1].max() < 20, "object 9 is not in the middle frame"


def pictures(data: bytes) -> list[np.ndarray]:
    with av.open(io.BytesIO(data), "r") as container:
        return [frame.to_ndarray(format="gray").astype(float) for frame in container.decode(video=0)]


def test_levels_survive_the_message_and_are_left_out_where_there_are_none() -> None:
    level = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(decode_level(encode_level(level)), level)
    first = next(soft_events()).model_dump_json()
    assert first.count('"probability"') == 1
