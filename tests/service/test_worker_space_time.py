"""STM and AFB-URR through a real worker: sessions that share its steps get the masks that each gets alone."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from safetensors.torch import save_file

from engines.afb_urr.config import VARIANTS as AFB_VARIANTS
from engines.afb_urr.model import AfbUrrNetwork
from engines.space_time.network import MemoryNetwork
from engines.stm.config import VARIANTS as STM_VARIANTS
from engines.stm.model import StmNetwork
from service.schemas import MemoryOptions, SessionState
from tests.parity.weights import fill
from tests.service.scene import Scene

pytestmark = pytest.mark.anyio
FRAMES = 12


def write_weights(name: str, folder: Path) -> None:
    """Made-up weights that give clear masks, where `weights fetch` would put published ones."""
    net: MemoryNetwork = StmNetwork(STM_VARIANTS[name]) if name.startswith("stm") else AfbUrrNetwork(AFB_VARIANTS[name])
    state = net.state_dict()
    constants = {key: value for key, value in state.items() if key.endswith((".mean", ".std"))}
    drawn = {key: value.shape for key, value in state.items() if key not in constants}
    gains = {"Decoder.pred2": 30.0, "decoder.pred2": 100.0}
    folder.mkdir(exist_ok=True)
    save_file(fill(drawn, gains) | constants, folder / f"{name}.safetensors")


@pytest.fixture(params=["stm-t", "afb-urr-t"])
def name(request: pytest.FixtureRequest, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An engine whose weights every worker of the scene finds."""
    engine = str(request.param)
    write_weights(engine, tmp_path / "weights")
    scene.environment["MASKSTREAM_WEIGHTS_DIR"] = str(tmp_path / "weights")
    monkeypatch.setenv("MASKSTREAM_WEIGHTS_DIR", str(tmp_path / "weights"))
    return engine


MEMORY = MemoryOptions(budget_tokens=12 * 12, memorize_every=1)  # 12 frames of 3 x 4 cells


async def test_sessions_side_by_side_get_the_masks_of_each_alone(scene: Scene, name: str) -> None:
    alone = await scene.submit(FRAMES, object_ids=(3, 7), engine=name, memory=MEMORY)
    await anyio.to_thread.run_sync(lambda: scene.run_here(engines=(name,)))
    beside = await scene.submit(FRAMES, object_ids=(3, 7), engine=name, memory=MEMORY)
    other = await scene.submit(FRAMES, object_ids=(5,), seed=1, engine=name, memory=MEMORY)
    await anyio.to_thread.run_sync(lambda: scene.run_here(engines=(name,)))
    for session_id in (alone, beside, other):
        record = await scene.record(session_id)
        assert record.state is SessionState.COMPLETED and record.error is None
    want, got = [await scene.masks(each) for each in (alone, beside)]
    assert [e.seq for e in got] == list(range(FRAMES))
    assert [e.objects for e in got] == [e.objects for e in want]
    assert len({e.objects for e in got}) > FRAMES // 2, "the masks move"
    assert {o.object_id for e in await scene.masks(other) for o in e.objects} == {5}


async def test_a_killed_workers_sessions_end_as_if_undisturbed(scene: Scene, name: str) -> None:
    frames = 24

    async def submit_both() -> list[str]:
        two = await scene.submit(frames, object_ids=(3, 7), engine=name, memory=MEMORY)
        return [two, await scene.submit(frames, object_ids=(5,), seed=1, engine=name, memory=MEMORY)]

    undisturbed = await submit_both()
    await anyio.to_thread.run_sync(lambda: scene.run_here(engines=(name,)))
    killed = await submit_both()
    worker = scene.start_worker(engines=(name,))
    for session_id in killed:
        await scene.until(session_id, lambda r: r.next_seq > 3 and r.snapshot is not None)
    await scene.kill(worker)
    at = [(await scene.record(session_id)).next_seq for session_id in killed]
    assert all(3 < seq < frames for seq in at), f"both were under way, at {at}"
    scene.start_worker(engines=(name,))
    for before, after in zip(undisturbed, killed, strict=True):
        record = await scene.finished(after)
        assert record.state is SessionState.COMPLETED and record.error is None
        assert record.epoch == 3, "a claim, a sweep, another claim"
        want, got = await scene.masks(before), await scene.masks(after)
        assert [(e.seq, e.frame_index) for e in got] == [(seq, seq) for seq in range(frames)]
        assert [e.objects for e in got] == [e.objects for e in want]
