"""Learning rates as functions of the epoch."""

from __future__ import annotations

from equilip.train.config import TrainConfig


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """The learning rate of an epoch, the first being 0."""
    if config.schedule == "step":
        return config.lr * 0.1 ** (epoch // config.step_epochs)
    return config.lr
