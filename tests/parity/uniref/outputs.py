"""Reading stored reference outputs, whole or cut.

In a cut file the name of an array may end in `@axis.step`: only every step-th slice along that axis is kept.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Outputs:
    """One npz file of the released code's outputs."""

    def __init__(self, path: Path) -> None:
        self._arrays = dict(np.load(path))
        self._cut = {name.partition("@")[0]: name for name in self._arrays}

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self._arrays[name])

    def __contains__(self, name: str) -> bool:
        return name in self._cut

    def names(self, prefix: str) -> list[str]:
        """Names of the arrays that start so, without the cut."""
        return [name for name in self._cut if name.startswith(prefix)]

    def strings(self, name: str) -> list[str]:
        return [str(text) for text in self._arrays[name]]

    def mask(self, name: str, width: int) -> Tensor:
        """A bool mask that was stored with packed bits."""
        return torch.from_numpy(np.unpackbits(self._arrays[name], axis=-1)[..., :width].astype(bool))

    def check(self, name: str, actual: Tensor, *, atol: float = 1e-4, rtol: float = 1e-4) -> None:
        """Assert that `actual` is the stored array, to 0.01 where that was stored in half precision."""
        stored = self._cut[name]
        expected = torch.from_numpy(self._arrays[stored])
        if "@" in stored:
            axis, step = map(int, stored.partition("@")[2].split("."))
            actual = actual.index_select(axis, torch.arange(0, actual.shape[axis], step))
        if expected.dtype == torch.float16:
            atol = max(atol, 0.01)
        if not expected.is_floating_point():
            assert torch.equal(actual, expected), name
            return
        torch.testing.assert_close(actual.float(), expected.float(), atol=atol, rtol=rtol, msg=lambda m: f"{name}: {m}")


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union; 1 when both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0
