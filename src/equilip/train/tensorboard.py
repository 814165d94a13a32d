"""The metrics of a training as TensorBoard reads them; needs the package tensorboard (``equilip[tensorboard]``)."""

from __future__ import annotations

import os
from dataclasses import asdict

from equilip.errors import ConfigError
from equilip.train.metrics import EpochMetrics


class Board:
    """Writes one event per number and epoch into a folder. ConfigError where the package is missing."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise ConfigError(
                "writing for TensorBoard needs the package tensorboard: pip install 'equilip[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(os.fspath(folder))

    def write(self, metrics: EpochMetrics) -> None:
        """One epoch."""
        values = {name: value for name, value in asdict(metrics).items() if isinstance(value, int | float)}
        for name in ("certified_by_gamma_percent", "certified_by_pairs_percent"):
            values |= {f"{name}/{eps}": share for eps, share in getattr(metrics, name).items()}
        for name, value in values.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, metrics.epoch)
        self._writer.flush()

    def close(self) -> None:
        """No more epochs will come."""
        self._writer.close()
