"""Training against boxes: it certifies more than training on points, worst outputs are bounds, and it repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from equilip import certify, data, nn
from equilip.errors import ConfigError
from equilip.nn import NEMON
from equilip.solve import Settings
from equilip.train import TrainConfig, fit, load_run, train
from equilip.train.boxes import Ramp, paper_penalty, slope_penalty, spread
from equilip.train.models import Model, build, describe

TINY = TrainConfig(model="nemon", loss="boxes", loss_eps=0.05, limit=300, width=16, epochs=4, batch=32, lr=2e-2)


def fresh(config: TrainConfig) -> tuple[data.Dataset, Model]:
    dataset = data.load(config.data, limit=config.limit)
    generator = torch.Generator().manual_seed(config.seed)
    return dataset, build(describe(config, dataset), standardisation=dataset.standardisation, generator=generator)


@pytest.mark.parametrize("gate", [0.0, 0.1])
def test_it_certifies_more_than_training_on_points(gate: float) -> None:
    config = replace(TINY, gate=gate)
    dataset, model = fresh(config)
    history = fit(model, dataset, config)
    points = replace(config, loss="cross-entropy", loss_eps=0.0)
    dataset, other = fresh(points)
    fit(other, dataset, points)
    found = []
    for trained in (model, other):
        proved = certify.reachable(trained, *limits(dataset.test_x, 0.05)).leads(dataset.test_y)
        found.append(float((proved > 0).all(1).double().mean()))
    assert found[0] > found[1] + 0.05
    # What the training reports is what is proved, up to rounding and the tolerance.
    assert abs(history[-1].certified_by_boxes_percent["0.05"] - 100 * found[0]) <= 1.0


def limits(x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.flatten(1).double()
    return (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)


@pytest.mark.parametrize("gate", [0.0, 0.1])
def test_the_worst_outputs_are_bounds(gate: float) -> None:
    generator = torch.Generator().manual_seed(0)
    model = NEMON(6, 12, 4, gate=gate, dtype=torch.float64, generator=generator)
    x, label = torch.rand(10, 6, generator=generator, dtype=torch.float64), torch.arange(10) % 4
    found = spread(model, x, 0.1, (0.0, 1.0), points=True, tolerance=1e-12)
    worst = found.worst(label)
    gaps = worst - worst.gather(1, label[:, None])
    torch.testing.assert_close(found.y, model.eval().solve(x, Settings(tolerance=1e-12)).y, rtol=0, atol=1e-9)
    for _ in range(50):
        other = (x + 0.1 * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)).clamp(0, 1)
        y = model.solve(other, Settings(tolerance=1e-11)).y
        assert bool((y - y.gather(1, label[:, None]) <= gaps + 1e-9).all())


def test_a_continued_training_is_the_same() -> None:
    states = []
    for _ in range(2):
        dataset, model = fresh(replace(TINY, epochs=2))
        fit(model, dataset, replace(TINY, epochs=2))
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name


def test_a_run_is_read_back(tmp_path: Path) -> None:
    _, model = train(replace(TINY, epochs=1, gate=0.1, regulariser=0.01), tmp_path / "run")
    _, again = load_run(tmp_path / "run")
    assert isinstance(again, NEMON)
    x = torch.rand(3, 64)
    torch.testing.assert_close(again.eval()(x), model.eval()(x))


def test_ramps_grow_to_their_ends() -> None:
    ramp = Ramp(eps=0.1, kappa=0.5, end=0.4)
    assert ramp.at(0.0) == (0.0, 0.0)
    assert ramp.at(0.4) == ramp.at(1.0) == (0.1, 0.5)
    middle = ramp.at(0.2)
    assert 0 < middle[0] < 0.1
    assert 0 < middle[1] < 0.5


def test_penalties_bound_the_slope_that_is_proved() -> None:
    model = NEMON(5, 10, 3, m=0.3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = slope_penalty(model.recurrence(), model.U, model.C)
    proved = certify.lipschitz_linf(model, method="comparison").value
    assert float(own.detach()) == pytest.approx(proved, rel=1e-6)
    assert bool(own <= paper_penalty(model))
    for penalty in (own, paper_penalty(model)):
        gradients = torch.autograd.grad(penalty, (model.U, model.C))
        assert all(bool(g.isfinite().all()) and bool(g.any()) for g in gradients)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "lben", "gamma": 1.0}, "the loss boxes needs a network that boxes pass through"),
        ({"loss_eps": 0.0}, "give loss_eps"),
        ({"measure": 1.0}, "measure must be below 1"),
        ({"gate": 0.5}, "gate must be at least 0 and below 1/2"),
        ({"kappa": 1.5}, "kappa and ramp are shares"),
        ({"penalty": "papr"}, "unknown penalty"),
    ],
)
def test_what_cannot_work_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gate is a property of the model nemon"):
        TrainConfig(gate=0.1)


KINDS = {
    "nemon-conv": replace(TINY, model="nemon-conv", width=4, lr=1e-2, pool=2),
    "feedforward": replace(TINY, model="feedforward", depth=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_networks_are_trained_against_boxes(kind: str, tmp_path: Path) -> None:
    config = KINDS[kind]
    train(config, tmp_path / "run")
    dataset, (_, model) = data.load(config.data, limit=config.limit), load_run(tmp_path / "run")
    _, other = fresh(config)
    points = replace(config, loss="cross-entropy", loss_eps=0.0)
    fit(other, dataset, points)
    found = []
    for trained in (model, other):
        proved = certify.reachable(trained, *limits(dataset.test_x, 0.05)).leads(dataset.test_y)
        found.append(float((proved > 0).all(1).double().mean()))
    assert found[0] > found[1] + 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_their_boxes_are_those_that_are_proved(kind: str) -> None:
    config = replace(KINDS[kind], dtype="float64")
    dataset, model = fresh(config)
    assert isinstance(model, nn.NEMONConv | nn.FeedForward)
    x, label = dataset.test_x[:20].flatten(1).double(), dataset.test_y[:20]
    found = spread(model, x, 0.05, (0.0, 1.0), points=True, tolerance=1e-12)
    torch.testing.assert_close(found.y, model.eval()(x), rtol=1e-6, atol=1e-7)
    worst = found.worst(label)
    leads = worst.gather(1, label[:, None]) - worst
    proved = certify.reachable(model, *limits(x, 0.05)).leads(label)
    others = proved.isfinite()
    torch.testing.assert_close(leads[others], proved[others], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "nemon-conv", "regulariser": 0.1}, "penalties of the loss boxes are those of the model nemon"),
        ({"model": "nemon-conv", "gate": 0.1}, "gate is a property of the model nemon"),
        ({"model": "nemon", "stride": 2}, "stride is a property of the model nemon-conv"),
        ({"model": "nemon-conv", "stride": 0}, "stride must be at least 1"),
        ({"model": "nemon-conv", "kernel": 4}, "kernel must be 1, 3, 5 or 7"),
        ({"model": "feedforward", "measure": 0.5}, "measure is a property of the model nemon, nemon-conv"),
    ],
)
def test_what_convolutions_do_not_have(changes: dict[str, object], words: str) -> None:
    def trained() -> None:
        config = replace(TINY, **changes)  # type: ignore[arg-type]
        dataset, model = fresh(config)
        fit(model, dataset, config)

    with pytest.raises(ConfigError, match=words):
        trained()
