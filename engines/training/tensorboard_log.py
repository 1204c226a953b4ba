"""The log of a run as TensorBoard events; log.csv is written either way. Imports only where TensorBoard is."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from engines.training.trainer import StepReport


class TensorBoardLog:
    """Scalars per step: loss, its parts, rate and seconds. A context manager; closing writes what is left."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def __call__(self, line: StepReport) -> None:
        """Write one step; a report for train()."""
        values = {"loss": line.loss, "rate": line.rate, "seconds": line.seconds}
        values |= {f"parts/{name}": value for name, value in line.parts.items()}
        for name, value in values.items():
            self._writer.add_scalar(name, value, line.step)
