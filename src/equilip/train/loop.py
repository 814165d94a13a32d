"""The training loop: data in memory, one optimiser, one line of metrics per epoch."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equilip import data, nn
from equilip.data import Dataset
from equilip.errors import ConfigError
from equilip.train import runs
from equilip.train.config import TrainConfig
from equilip.train.devices import device as device_of
from equilip.train.devices import dtype as dtype_of
from equilip.train.evaluation import count_wrong
from equilip.train.models import Model, build, describe
from equilip.train.schedules import learning_rate


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.jsonl.

    loss and train_error_percent are means over the epoch, while the parameters were moving; the rest is
    measured on the test data at its end. max_residual is relative, the largest of all samples. seconds is wall time.
    """

    epoch: int
    loss: float
    train_error_percent: float
    test_error_percent: float
    unconverged: int
    iterations: int
    max_residual: float
    lr: float
    seconds: float


Report = Callable[[EpochMetrics], None]


def fit(model: Model, dataset: Dataset, config: TrainConfig, on_epoch: Report | None = None) -> list[EpochMetrics]:
    """Train ``model`` in place on the training part of ``dataset`` and return the metrics of every epoch.

    The model moves to the device and dtype of the configuration, and ends in eval mode. The order of the
    samples in an epoch depends on the seed and on the number of the epoch only. ConfigError when the loss
    leaves the finite numbers.
    """
    device, dtype = device_of(config.device), dtype_of(config.dtype)
    model.to(device=device, dtype=dtype)
    if isinstance(model, nn.EquilibriumModule):
        model.settings = replace(model.settings, tolerance=config.tolerance)
    x, y = dataset.train_x.to(device, dtype), dataset.train_y.to(device)
    test_x, test_y = dataset.test_x.to(device, dtype), dataset.test_y.to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.lr, fused=device.type in ("cpu", "cuda"))
    history = []
    for epoch in range(config.epochs):
        start = time.perf_counter()
        lr = learning_rate(config, epoch)
        for group in optimiser.param_groups:
            group["lr"] = lr
        loss, wrong = _epoch(model, optimiser, x, y, _order(config.seed, epoch, len(y)).to(device), config.batch)
        if not math.isfinite(loss):
            raise ConfigError(f"the loss became {loss} in epoch {epoch + 1}; lower the learning rate, now {lr:g}")
        metrics = EpochMetrics(
            epoch=epoch + 1,
            loss=loss,
            train_error_percent=100.0 * wrong / len(y),
            **asdict(_test(model, test_x, test_y)),
            lr=lr,
            seconds=time.perf_counter() - start,
        )
        history.append(metrics)
        if on_epoch is not None:
            on_epoch(metrics)
    model.eval()
    return history


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = False,
    on_epoch: Report | None = None,
) -> tuple[Path, Model]:
    """Train what the configuration describes and write the run directory ``out``.

    Nothing is written before the data is loaded and the model built. ``progress`` shows a bar for downloads.
    Returns the directory and the trained model, on the device of the configuration.
    """
    device_of(config.device)
    dataset = data.load(config.data, data_dir, limit=config.limit, progress=progress)
    shape = describe(config, dataset)
    model = build(shape, standardisation=dataset.standardisation, generator=torch.Generator().manual_seed(config.seed))
    path = runs.prepare(out, overwrite=overwrite)
    runs.write_config(path, runs.RunConfig(model=shape, train=config))
    with (path / "metrics.jsonl").open("w", encoding="utf-8") as log:

        def write(metrics: EpochMetrics) -> None:
            log.write(json.dumps(asdict(metrics)) + "\n")
            log.flush()
            if on_epoch is not None:
                on_epoch(metrics)

        fit(model, dataset, config, write)
    runs.write_model(path, model)
    return path, model


def _order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of the samples in an epoch, (count,)."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]) >> 1)
    return torch.randperm(count, generator=generator)


def _epoch(
    model: Model, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor, order: Tensor, batch: int
) -> tuple[float, int]:
    """One pass; the mean loss and the number of wrong answers, read from the device once at the end."""
    model.train()
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    wrong = torch.zeros((), dtype=torch.int64, device=x.device)
    for rows in order.split(batch):
        labels = y.index_select(0, rows)
        logits = model(x.index_select(0, rows))
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        total += loss.detach() * len(rows)
        wrong += (logits.detach().argmax(1) != labels).sum()
    return float(total) / len(order), int(wrong)


@dataclass(frozen=True)
class _Tested:
    test_error_percent: float
    unconverged: int
    iterations: int
    max_residual: float


def _test(model: Model, x: Tensor, y: Tensor) -> _Tested:
    model.eval()
    with torch.no_grad():
        if isinstance(model, nn.FeedForward):
            wrong = int((model(x).argmax(1) != y).sum())
            return _Tested(100.0 * wrong / len(y), unconverged=0, iterations=0, max_residual=0.0)
        solution = model.solve(x, replace(model.settings, raise_on_failure=False))
    return _Tested(
        test_error_percent=100.0 * count_wrong(solution, y) / len(y),
        unconverged=int((~solution.converged).sum()),
        iterations=solution.iterations,
        max_residual=float(solution.residual.max()),
    )
