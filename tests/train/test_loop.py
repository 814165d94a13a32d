"""Training: repeatable to the last bit, it learns, and it says when it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from equilip import data
from equilip.errors import ConfigError, ConvergenceError
from equilip.train import EpochMetrics, TrainConfig, fit, load_form, load_run, metrics, train
from equilip.train.batches import order, split
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


def test_a_solve_that_fails_is_said() -> None:
    config = replace(TINY, tolerance=1e-12)
    dataset, model = fresh(config)
    with pytest.raises(ConvergenceError, match=r"epoch 1: .* if the loss was growing, lower the learning rate, now"):
        fit(model, dataset, config)


def test_weights_that_are_no_numbers_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, model = fresh(TINY)
    step = torch.optim.Adam.step

    def overflow(self: torch.optim.Adam) -> None:
        step(self)
        with torch.no_grad():
            model.b.fill_(torch.inf)

    monkeypatch.setattr(torch.optim.Adam, "step", overflow)
    with pytest.raises(ConfigError, match=r"the weights became infinite in epoch 1; lower the learning rate"):
        fit(model, dataset, TINY)


@pytest.mark.parametrize(
    "changes",
    [{}, {"lr": 1e30}, {"model": "nemon", "gamma": None}, {"model": "nemon", "gamma": None, "lr": 100.0},
     {"model": "lben-conv", "pool": 2}],
)  # fmt: skip
def test_a_training_that_diverges_says_so_and_what_to_do(changes: dict[str, object]) -> None:
    config = replace(TINY, **{"width": 6, "limit": 60, "lr": 1e9, "schedule": "constant", **changes})
    dataset, model = fresh(config)
    with pytest.raises(
        ConfigError, match=r"the training diverged in epoch 1: the weights grew to .*; lower the learning"
    ):
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


def test_early_stopping_keeps_the_best_epoch() -> None:
    config = replace(TINY, validation=0.3, patience=2, epochs=30, lr=0.3, schedule="constant")
    dataset, model = fresh(config)
    states: list[dict[str, torch.Tensor]] = []

    def on_epoch(_: EpochMetrics) -> None:
        states.append({name: tensor.clone() for name, tensor in model.state_dict().items()})

    history = fit(model, dataset, config, on_epoch)
    losses = [metrics.validation_loss for metrics in history]
    assert None not in losses
    best = losses.index(min(losses))
    assert len(history) == best + 1 + config.patience < config.epochs
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, states[best][name])


def test_what_is_held_out_is_not_trained_on() -> None:
    config = replace(TINY, validation=0.5)
    dataset, model = fresh(config)
    _, held = split(config.seed, len(dataset.train_y), 0.5)
    poisoned = dataset.train_x.clone()
    poisoned[held] = 0.5
    other = fresh(config)[1]
    fit(model, dataset, config)
    history = fit(other, replace(dataset, train_x=poisoned), config)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    assert history[-1].validation_error_percent > 50


def test_certified_accuracy_is_what_the_margins_say() -> None:
    config = replace(TINY, eps=(0.0, 0.05, 0.2))
    dataset, model = fresh(config)
    last = fit(model, dataset, config)[-1]
    with torch.no_grad():
        y = model(dataset.test_x)
    own = y.gather(1, dataset.test_y[:, None])
    lead = (own - y).scatter(1, dataset.test_y[:, None], torch.inf).amin(1)
    for eps in config.eps:
        share = 100 * float((lead > 2**0.5 * 2.0 / 0.3764 * eps).double().mean())
        assert last.certified_by_gamma_percent[f"{eps:g}"] == pytest.approx(share)
    assert last.certified_by_gamma_percent["0"] == pytest.approx(100 - last.test_error_percent)


def test_a_learned_bound_is_reported_and_kept(tmp_path: Path) -> None:
    path, model = train(replace(TINY, learn_gamma=True, feedthrough=True, dtype="float64"), tmp_path / "run")
    last = metrics.read(path)[-1]
    assert last.gamma == model.gamma != 2.0
    assert load_run(path)[1].gamma == model.gamma
    assert load_form(path).D.dense().any()


def test_shifts_change_what_is_seen() -> None:
    plain, moved = fresh(TINY), fresh(TINY)
    first = fit(plain[1], plain[0], TINY)[0]
    assert fit(moved[1], moved[0], replace(TINY, shift=2))[0].loss != first.loss


def test_losses_for_radii_want_a_bound() -> None:
    dataset, _ = fresh(TINY)
    other = build(describe(replace(TINY, gamma=None), dataset))
    with pytest.raises(ConfigError, match="need a network with a bound"):
        fit(other, dataset, replace(TINY, eps=(0.1,)))
