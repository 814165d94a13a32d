"""A training from its configuration to its run directory, in one go or after an interruption."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from equilip import data
from equilip.data import Dataset
from equilip.errors import ConfigError, ProofError
from equilip.train import checkpoint, metrics, runs
from equilip.train.checkpoint import Checkpoint
from equilip.train.config import TrainConfig
from equilip.train.devices import device as device_of
from equilip.train.loop import check, fit
from equilip.train.metrics import EpochMetrics, Report
from equilip.train.models import Model, ModelConfig, build, describe


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
    After every epoch the directory holds a checkpoint, from which :func:`resume` continues.
    Returns the directory and the trained model, on the device of the configuration.

    Raises ConfigError and DataError for what cannot be trained, ConvergenceError for a training that goes astray, and
    ProofError when the trained numbers do not keep what the model promises: the run is complete then, and kept.
    """
    device_of(config.device)
    dataset = data.load(config.data, data_dir, limit=config.limit, progress=progress)
    check(config, dataset)
    shape = describe(config, dataset)
    model = _fresh(shape, config, dataset)
    path = runs.prepare(out, overwrite=overwrite)
    runs.write_config(path, runs.RunConfig(model=shape, train=config))
    return path, _finish(path, config, dataset, model, None, on_epoch)


def resume(
    run: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
    on_epoch: Report | None = None,
) -> tuple[Path, Model]:
    """Continue the training of a run directory from its last completed epoch, and finish it.

    On the same machine with the same versions the weights become those of an uninterrupted training, to the
    last bit. A run that is complete is returned as it is. ``on_epoch`` sees the epochs that are still to come.

    Raises ConfigError when it is no run or was not trained, DataError when the data is not what the training
    has seen so far, FormatError when the checkpoint is damaged, and at the end what :func:`train` does.
    """
    path = Path(run)
    found = runs.load_config(path)
    config = found.train
    if config is None:
        raise ConfigError(f"{path} holds an imported network: there is no training to continue")
    start = checkpoint.read(path)
    if start is None and (path / "model.safetensors").is_file():
        return path, runs.load_run(path)[1]
    device_of(config.device)
    dataset = data.load(config.data, data_dir, limit=config.limit, progress=progress)
    model = _fresh(found.model, config, dataset)
    runs.remove_temporaries(path)
    return path, _finish(path, config, dataset, model, start, on_epoch)


def _fresh(shape: ModelConfig, config: TrainConfig, dataset: Dataset) -> Model:
    generator = torch.Generator().manual_seed(config.seed)
    return build(shape, standardisation=dataset.standardisation, generator=generator)


def _finish(
    path: Path,
    config: TrainConfig,
    dataset: Dataset,
    model: Model,
    start: Checkpoint | None,
    on_epoch: Report | None,
) -> Model:
    digest = checkpoint.digest(dataset)
    if start is not None and start.data != digest:
        raise ConfigError(
            f"{path} was trained on other data until now ({config.data} has changed); put that data back, or train anew"
        )
    # The checkpoint is the record; this file follows it, so no line is lost, doubled or cut in two.
    metrics.rewrite(path, () if start is None else start.history)

    def keep(state: Checkpoint) -> None:
        checkpoint.write(path, replace(state, data=digest))

    def report(latest: EpochMetrics) -> None:
        metrics.append(path, latest)
        if on_epoch is not None:
            on_epoch(latest)

    fit(model, dataset, config, report, start=start, keep=keep)
    # Written before anything is proved: hours of training are never lost for want of a proof.
    runs.write_model(path, model)
    try:
        runs.realise(model)
    except ProofError as error:
        checkpoint.remove(path)
        raise ProofError(
            f"{error}, and train again into another directory; this network is complete and kept in {path}, "
            "and lacks nothing but that proof"
        ) from error
    checkpoint.remove(path)
    return model
