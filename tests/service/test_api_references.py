"""References of every kind over real HTTP: how they are taken, shown, and refused with the field's name."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.settings import Settings
from tests.service.api_server import ApiServer, mask_png, running_api
from tests.service.videos import write_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 6).read_bytes()


@pytest.fixture(scope="module")
def api(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    settings = Settings(
        redis_url=redis_url,
        redis_prefix="test-api-references:",
        data_dir=tmp_path_factory.mktemp("data"),
        port=0,
        min_free_bytes=0,
        rate_limit_burst=10_000,
        max_objects=8,
    )
    with running_api(settings) as server:
        yield server


def picture(size: tuple[int, int] = (30, 40)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(out, format="JPEG")
    return out.getvalue()


def post(api: ApiServer, clip: bytes, entries: list[dict[str, Any]] | None = None, **more: Any) -> Any:
    files = [("video", ("v.mp4", clip, "video/mp4"))]
    named = more.pop("files", {})
    files += [(name, (name, data, "image/png")) for name, data in (named.items() if isinstance(named, dict) else named)]
    data = {"engine": "fake", **more}
    if entries is not None:
        data["references"] = json.dumps(entries)
    return api.http.post("/sessions", files=files, data=data)


def test_mixed_kinds_at_any_frame_are_listed_as_given(api: ApiServer, clip: bytes) -> None:
    entries = [
        {"object_id": 4, "kind": "box", "box": [5, 6, 20, 20], "frame_index": 3},
        {"object_id": 5, "kind": "text", "text": "the red bird", "frame_index": 3},
        {"object_id": 6, "kind": "point", "points": [[10, 10, 1], [40, 40, 0]], "frame_index": 4},
        {"object_id": 7, "kind": "mask", "mask": "mask_7", "frame_index": 5, "direction": "both"},
        {"object_id": 8, "kind": "exemplar", "exemplar": "exemplar_8", "exemplar_mask": "mask_8", "frame_index": 3},
    ]
    files = {"mask_7": mask_png((7,)), "exemplar_8": picture(), "mask_8": mask_png((1,), size=(30, 40))}
    answer = post(api, clip, entries, files=files)
    assert answer.status_code == 202, answer.text
    document = answer.json()
    partly, unserved = document["warnings"]
    assert partly == "text 'the red bird': text-rules does not know bird; the rest of the text was used"
    assert "no worker serves" in unserved
    assert document["progress"]["frames_total"] == 6  # frames 2, 1, 0 backwards, then 3, 4, 5
    listed = api.http.get(document["links"]["references"]).json()["references"]
    by_id = {tuple(item["object_ids"]): item for item in listed}
    assert {item["kind"] for item in listed} == {"box", "text", "point", "mask", "exemplar"}
    assert by_id[(4,)]["box"] == [5, 6, 20, 20] and by_id[(4,)]["direction"] == "both"
    assert by_id[(6,)]["direction"] == "forward" and by_id[(6,)]["points"] == [[10, 10, 1], [40, 40, 0]]
    assert by_id[(5,)]["label_map"] is None
    shown = api.http.get(by_id[(7,)]["label_map"])
    with Image.open(io.BytesIO(shown.content)) as image:
        assert image.mode == "P" and image.size == (80, 48)
        assert set(np.unique(np.array(image)).tolist()) == {0, 7}
    pending = api.http.get(f"{document['links']['references']}/{by_id[(5,)]['index']}.png")
    assert pending.status_code == 404 and "not been resolved" in pending.json()["detail"]
    assert api.http.get(f"{document['links']['references']}/9.png").status_code == 404
    api.http.delete(document["links"]["self"])


def test_no_reference_at_all_asks_the_worker_to_find_objects(api: ApiServer, clip: bytes) -> None:
    answer = post(api, clip, max_objects="2")
    assert answer.status_code == 202, answer.text
    (reference,) = answer.json()["references"]
    assert (reference["kind"], reference["object_ids"], reference["frame_index"]) == ("auto", [], 0)
    api.http.delete(answer.json()["links"]["self"])


def test_the_short_form_numbers_its_objects(api: ApiServer, clip: bytes) -> None:
    answer = post(api, clip, text=["the black one", "the smallest"], box="1,2,30,30", point="[9, 9]")
    assert answer.status_code == 202, answer.text
    kinds = [(item["kind"], item["object_ids"]) for item in answer.json()["references"]]
    assert kinds == [("text", [1]), ("text", [2]), ("box", [3]), ("point", [4])]
    api.http.delete(answer.json()["links"]["self"])


def test_several_exemplars_are_paired_in_the_order_they_came(api: ApiServer, clip: bytes) -> None:
    marked = [mask_png(size=(30, 40)), mask_png(size=(20, 50))]
    pictures = [picture((30, 40)), picture((20, 50))]
    parts = [("exemplar", pictures[0]), ("exemplar", pictures[1]), ("exemplar_mask", marked[0])]
    refused = post(api, clip, files=parts)
    assert refused.status_code == 422 and refused.json()["field"] == "exemplar_mask", refused.text
    answer = post(api, clip, files=[*parts, ("exemplar_mask", marked[1])])
    assert answer.status_code == 202, answer.text
    kinds = [(item["kind"], item["object_ids"]) for item in answer.json()["references"]]
    assert kinds == [("exemplar", [1]), ("exemplar", [2])]
    swapped = post(api, clip, files=[*parts[:2], ("exemplar_mask", marked[1]), ("exemplar_mask", marked[0])])
    assert swapped.status_code == 422 and "for an exemplar of 30x40" in swapped.json()["detail"]
    api.http.delete(answer.json()["links"]["self"])


BOX = {"object_id": 1, "kind": "box", "box": [1, 1, 20, 20]}
BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: arguments of post(), field of the problem, words of its detail
    "text over 77 tokens": ({"text": "red " * 90}, "text", "90 words"),
    "text without a known word": ({"text": "the swan"}, "text", "Engines that take free text: uniref"),
    "empty text": ({"text": "..."}, "text", "the text is empty"),
    "empty box": ({"box": "5,5,0,10"}, "box", "is empty"),
    "box outside": ({"box": "500,5,10,10"}, "box", "outside the 48x80"),
    "point outside": ({"point": "80,5"}, "point", "outside the 48x80"),
    "exemplar without mask": ({"files": {"exemplar": picture()}}, "exemplar_mask", "needs an `exemplar_mask`"),
    "exemplar mask without exemplar": ({"files": {"exemplar_mask": mask_png()}}, "exemplar", "without its"),
    "exemplar mask of another size": (
        {"files": {"exemplar": picture(), "exemplar_mask": mask_png()}},
        "exemplar_mask",
        "for an exemplar of 30x40",
    ),
    "exemplar that is no image": (
        {"files": {"exemplar": b"GIF89a", "exemplar_mask": mask_png()}},
        "exemplar",
        "JPEG, PNG or WebP",
    ),
    "listed exemplar without mask": (
        {
            "entries": [{"object_id": 1, "kind": "exemplar", "exemplar": "exemplar_1"}],
            "files": {"exemplar_1": picture()},
        },
        "exemplar_mask",
        "without a mask",
    ),
    "two contradicting references": (
        {"entries": [BOX, {"object_id": 1, "kind": "text", "text": "red"}]},
        "references[1]",
        "has a reference of kind box at frame 0 already",
    ),
    "a mask and a box of one object": ({"entries": [BOX], "files": {"mask": mask_png()}}, "references[0]", "in `mask`"),
    "a file that nothing names": (
        {"entries": [BOX], "files": {"mask_1": mask_png()}},
        "mask_1",
        "names the file part 'mask_1'; name it there, or call the part `mask`",
    ),
    "no objects to find": ({"max_objects": "0"}, "max_objects", "whole number from 1"),
    "an engine that does not follow": ({"engine": "spatial-embeddings"}, "engine", "does not follow them"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_references_are_refused_with_the_field(api: ApiServer, clip: bytes, name: str) -> None:
    arguments, field, words = BAD[name]
    before = api.stored_files()
    answer = post(api, clip, **arguments)
    document = answer.json()
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["field"] == field and words in document["detail"]
    assert api.stored_files() == before


def test_one_object_may_have_references_at_several_frames(api: ApiServer, clip: bytes) -> None:
    answer = post(api, clip, [BOX, {**BOX, "frame_index": 3}])
    assert answer.status_code == 202, answer.text
    api.http.delete(answer.json()["links"]["self"])
