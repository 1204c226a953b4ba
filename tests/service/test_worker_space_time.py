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


@pytest.mark.parametrize("name", ["stm-t", "afb-urr-t"])
async def test_sessions_side_by_side_get_the_masks_of_each_alone(
    scene: Scene, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(name, tmp_path / "weights")
    monkeypatch.setenv("MASKSTREAM_WEIGHTS_DIR", str(tmp_path / "weights"))
    memory = MemoryOptions(budget_tokens=12 * 12, memorize_every=1)  # 12 frames of 3 x 4 cells
    alone = await scene.submit(FRAMES, object_ids=(3, 7), engine=name, memory=memory)
    await anyio.to_thread.run_sync(lambda: scene.run_here(engines=(name,)))
    beside = await scene.submit(FRAMES, object_ids=(3, 7), engine=name, memory=memory)
    other = await scene.submit(FRAMES, object_ids=(5,), seed=1, engine=name, memory=memory)
    await anyio.to_thread.run_sync(lambda: scene.run_here(engines=(name,)))
    for session_id in (alone, beside, other):
        record = await scene.record(session_id)
        assert record.state is SessionState.COMPLETED and record.error is None
    want, got = [await scene.masks(each) for each in (alone, beside)]
    assert [e.seq for e in got] == list(range(FRAMES))
    assert [e.objects for e in got] == [e.objects for e in want]
    assert len({e.objects for e in got}) > FRAMES // 2, "the masks move"
    assert {o.object_id for e in await scene.masks(other) for o in e.objects} == {5}
