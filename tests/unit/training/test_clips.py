"""Training data: what is read and skipped, and what the made-up clips promise."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engines.errors import TrainingDataError
from engines.training.clips import ClipConfig, ClipGenerator
from engines.training.layers2d import NOWHERE, TOKEN_STRIDE, Layer, paint
from engines.training.motion import MotionConfig, MotionPath, Placement, leave_and_return, random_path
from engines.training.pool import TrainingPool, fill_holes, load_pool
from tests.unit.training import made_up_data

CONFIG = ClipConfig(crop_px=65, frames=4, net_short_side=96)


def test_same_step_gives_the_same_batch_and_another_step_another() -> None:
    first, again = (ClipGenerator(made_up_data.pool(), CONFIG, seed=3).batch(7, 2) for _ in range(2))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.frames, ClipGenerator(made_up_data.pool(), CONFIG, seed=3).batch(8, 2).frames)


def test_every_clip_shows_its_objects_in_the_first_frame() -> None:
    generator = ClipGenerator(made_up_data.pool(), CONFIG)
    for step in range(8):
        batch = generator.batch(step, 4)
        assert batch.frames.shape == (4, 4, 3, 65, 65)
        assert 0 <= float(batch.frames.min()) and float(batch.frames.max()) <= 1
        for labels in batch.labels:
            shown = set(labels[0].unique().tolist()) - {0}
            assert shown == set(range(1, len(shown) + 1)), "ids are 1, 2, ... without gaps"
            assert 1 <= len(shown) <= CONFIG.max_objects
            assert set(labels.unique().tolist()) <= shown | {0}, "no id appears later than the first frame"


@pytest.mark.parametrize("config", [replace(CONFIG, real=1.0), replace(CONFIG, real=0.0, in_place=0, composite=0)])
def test_each_kind_of_clip_can_be_made_alone(config: ClipConfig) -> None:
    assert bool(ClipGenerator(made_up_data.pool(), config).batch(0, 2).labels.any())


def test_stills_alone_and_clips_alone_are_enough() -> None:
    whole = made_up_data.pool()
    for pool in (TrainingPool(whole.stills, ()), TrainingPool((), whole.clips)):
        assert bool(ClipGenerator(pool, CONFIG).batch(0, 2).labels[:, 0].any())
    with pytest.raises(TrainingDataError, match="neither clips nor stills"):
        ClipGenerator(TrainingPool((), ()), CONFIG)


def test_origin_follows_every_point_of_a_moving_layer() -> None:
    """Shift a picture by one token per frame: each token's origin is its right neighbour's of the frame before."""
    still = made_up_data.still(1)
    frames = 3
    zeros = np.zeros(frames)
    shift = np.stack([np.arange(frames) * TOKEN_STRIDE, zeros], axis=1).astype(np.float64)
    path = MotionPath(-shift, zeros, zeros, zeros)
    placement = Placement((64.0, 48.0), (32.0, 32.0), 1.0)
    layer = Layer(still.pixels[None].float() / 255, placement, path, labels=still.labels[None].float())
    scene = paint([layer], np.random.default_rng(0), frames, 65)
    for t in range(1, frames):
        torch.testing.assert_close(scene.origin[t, :, :-1], scene.origin[t - 1, :, 1:])
        torch.testing.assert_close(scene.pixels[t, :, :, :-16], scene.pixels[t - 1, :, :, 16:], atol=1e-4, rtol=0)
    unknown = paint([replace(layer, known_motion=False)], np.random.default_rng(0), frames, 65)
    assert bool((unknown.origin[..., 0] == NOWHERE).all())


def test_an_object_in_front_hides_what_is_behind() -> None:
    still, zeros = made_up_data.still(1), np.zeros(2)
    path = MotionPath(np.zeros((2, 2)), zeros, zeros, zeros)
    placement = Placement((60.0, 40.0), (32.0, 32.0), 1.0)
    pixels, alpha = still.pixels[None].float() / 255, (still.labels > 0).float()[None]
    back = Layer(pixels, placement, path, labels=torch.zeros(1, 96, 128))
    pair = [Layer(pixels, placement, path, alpha, None, object_id) for object_id in (1, 2)]
    scene = paint([back, *pair], np.random.default_rng(0), 2, 65)
    assert set(scene.labels.unique().tolist()) == {0, 2}
    assert set(scene.origin[..., 0].unique().tolist()) == {0.0, 2.0}


def test_leaving_objects_are_out_of_view_but_not_at_first() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        path = leave_and_return(rng, random_path(rng, 5, 0.5, MotionConfig()), 100)
        assert np.allclose(path.shift[0], 0)
        assert np.hypot(*path.shift.T).max() > 249


def test_steps_cover_the_configured_range_of_speeds() -> None:
    rng = np.random.default_rng(0)
    paths = [random_path(rng, 2, 1.0, MotionConfig(speed_px=(1, 60))) for _ in range(400)]
    lengths = np.array([np.hypot(*path.shift[1]) for path in paths])
    assert np.quantile(lengths, 0.05) < 2 and np.quantile(lengths, 0.95) > 40


def test_holes_are_filled_from_their_surroundings() -> None:
    pixels = torch.full((3, 40, 50), 0.25)
    hole = torch.zeros(40, 50, dtype=torch.bool)
    hole[10:30, 10:40] = True
    pixels[:, hole] = 1.0
    torch.testing.assert_close(fill_holes(pixels, hole), torch.full((3, 40, 50), 0.25))


def test_broken_material_is_named_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index, stem in enumerate(("good", "empty", "size", "broken", "alone")):
        made_up_data.write_still(tmp_path, stem, index)
    Image.new("L", (128, 96)).save(tmp_path / "masks" / "empty.png")
    Image.new("L", (12, 9), 1).save(tmp_path / "masks" / "size.png")
    (tmp_path / "images" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "masks" / "alone.png").unlink()
    made_up_data.write_clip(tmp_path / "clips" / "walk", 9)
    with caplog.at_level(logging.WARNING):
        pool = load_pool(tmp_path)
    assert [item.name for item in pool.stills] == ["good"]
    assert [item.name for item in pool.clips] == ["walk"]
    assert len(pool.skipped) == 4
    for stem in ("empty", "size", "broken", "alone"):
        assert stem in caplog.text


def test_a_broken_frame_is_left_out_and_a_broken_clip_is_named(tmp_path: Path) -> None:
    for name in ("walk", "void", "short"):
        made_up_data.write_clip(tmp_path / name, 9)
    (tmp_path / "walk" / "00002.jpg").write_bytes(b"no picture")
    damaged = tmp_path / "walk" / "Annotations" / "00003.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    for path in (tmp_path / "void" / "Annotations").iterdir():
        Image.new("L", (128, 96)).save(path)
    for number in range(4):
        (tmp_path / "short" / f"{number:05d}.jpg").unlink()
    pool = load_pool(tmp_path)
    assert [(clip.name, len(clip.labels)) for clip in pool.clips] == [("walk", 4)]
    reasons = "\n".join(pool.skipped)
    assert len(pool.skipped) == 4
    for reason in ("00002.jpg: not readable", "00003.png: not readable", "void: the masks of all", "short: 2 usable"):
        assert reason in reasons


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    made_up_data.write_still(tmp_path, "only", 0)
    Image.new("L", (128, 96)).save(tmp_path / "masks" / "only.png")
    with pytest.raises(TrainingDataError, match=r"no usable image .* 1 skipped.*the mask is empty"):
        load_pool(tmp_path)


def test_davis_tree_is_read_and_scaled_down(tmp_path: Path) -> None:
    made_up_data.write_clip(tmp_path / "flat", 9)
    for kind in ("JPEGImages", "Annotations"):
        (tmp_path / kind / "480p").mkdir(parents=True)
    (tmp_path / "flat" / "Annotations").rename(tmp_path / "Annotations" / "480p" / "walk")
    (tmp_path / "flat").rename(tmp_path / "JPEGImages" / "480p" / "walk")
    (read,) = load_pool(tmp_path, short_side=48).clips
    assert read.name == "walk"
    assert read.pixels.shape == (6, 3, 48, 64)


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    made_up_data.write_clip(tmp_path / "elsewhere" / "walk", 9)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "walk").symlink_to(tmp_path / "elsewhere" / "walk", target_is_directory=True)
    assert [clip.name for clip in load_pool(tmp_path / "data").clips] == ["walk"]
