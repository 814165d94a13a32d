"""Training: repeatable to the last bit, it learns, and it says when it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from equilip import data
from equilip.errors import ConfigError
from equilip.train import EpochMetrics, TrainConfig, fit, train
from equilip.train.batches import order
from equilip.train.models import Model, build, describe

TINY = TrainConfig(gamma=2.0, limit=200, width=20, epochs=3, batch=32, lr=2e-2)


def fresh(config: TrainConfig) -> tuple[data.Dataset, Model]:
    dataset = data.load(config.data, limit=config.limit)
    generator = torch.Generator().manual_seed(config.seed)
    return dataset, build(describe(config, dataset), standardisation=dataset.standardisation, generator=generator)


def test_learns() -> None:
    dataset, model = fresh(TINY)
    history = fit(model, dataset, TINY)
    assert [metrics.epoch for metrics in history] == [1, 2, 3]
    assert history[-1].loss < 0.8 * history[0].loss
    assert history[-1].test_error_percent < 60
    assert history[-1].max_residual <= 1e-4
    assert history[-1].unconverged == 0
    assert not model.training


def test_same_seed_same_weights_whatever_else_is_random() -> None:
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        dataset, model = fresh(TINY)
        fit(model, dataset, TINY)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_other_seed_other_weights() -> None:
    one, other = fresh(TINY)[1], fresh(replace(TINY, seed=1))[1]
    assert not torch.equal(one.state_dict()["U"], other.state_dict()["U"])


def test_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    rows = order(3, 5, 100)
    assert torch.equal(rows.sort().values, torch.arange(100))
    assert torch.equal(rows, order(3, 5, 100))
    assert not torch.equal(rows, order(3, 6, 100))
    assert not torch.equal(rows, order(4, 5, 100))


def test_loss_is_the_mean_over_the_epoch() -> None:
    # With a vanishing learning rate the parameters stand still, and the sum over batches is the whole.
    config = replace(TINY, lr=1e-30, epochs=1, dtype="float64")
    dataset, model = fresh(config)
    metrics = fit(model, dataset, config)[0]
    with torch.no_grad():
        logits = model(dataset.train_x.double())
    expected = torch.nn.functional.cross_entropy(logits, dataset.train_y)
    assert metrics.loss == pytest.approx(float(expected), rel=1e-6)
    wrong = (logits.argmax(1) != dataset.train_y).double().mean()
    assert metrics.train_error_percent == pytest.approx(100 * float(wrong))


def test_learning_rate_falls_as_scheduled() -> None:
    config = replace(TINY, schedule="step", step_epochs=1)
    dataset, model = fresh(config)
    rates = [metrics.lr for metrics in fit(model, dataset, config)]
    assert rates == pytest.approx([2e-2, 2e-3, 2e-4])


def test_every_epoch_starts_in_training_mode() -> None:
    dataset, model = fresh(TINY)
    modes = []
    solve = model.solve
    model.solve = lambda *given: modes.append(model.training) or solve(*given)
    fit(model, dataset, TINY)
    assert modes == 3 * ([True] * 7 + [False])


def test_a_loss_that_is_no_number_is_said() -> None:
    config = replace(TINY, model="feedforward", gamma=None, lr=1e30)
    dataset, model = fresh(config)
    with pytest.raises(ConfigError, match=r"the loss became .* lower the learning rate"):
        fit(model, dataset, config)


def test_metrics_are_written_as_they_come(tmp_path: Path) -> None:
    seen: list[EpochMetrics] = []

    def on_epoch(metrics: EpochMetrics) -> None:
        seen.append(metrics)
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == len(seen)

    path, _ = train(TINY, tmp_path / "run", on_epoch=on_epoch)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [EpochMetrics(**line) for line in lines] == seen


def test_nothing_is_written_for_a_run_that_cannot_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device 'nowhere' is not available"):
        train(replace(TINY, device="nowhere"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
