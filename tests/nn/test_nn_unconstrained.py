"""A free W: trained like the others, with the samples that have no equilibrium counted, and kept out of the loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from equilip import nn
from equilip.data import Dataset
from equilip.errors import ConvergenceError, IllPosedError
from equilip.solve import Settings
from equilip.train import TrainConfig, evaluate, fit, load_run, metrics, train
from equilip.train.models import build, describe


def tripled() -> nn.Unconstrained:
    """z = relu(3z + s): z = 0 where s <= 0, and nothing at all where s > 0."""
    model = nn.Unconstrained(1, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.W.copy_(3 * torch.eye(3))
        model.U.fill_(1.0)
        model.b.zero_()
    return model


def signs(count: int) -> Dataset:
    x = torch.linspace(-1, 1, count)[:, None]
    label = (x[:, 0] > 0).long()
    return Dataset("signs", x, label, x[:4], label[:4], classes=2, shape=(1, 1, 1))


@pytest.mark.parametrize("training", [True, False])
def test_it_says_for_which_inputs_there_is_no_equilibrium(training: bool) -> None:
    model = tripled().train(training)
    x = torch.tensor([[-1.0], [1.0], [-0.5], [0.25]], dtype=torch.float64)
    assert model.solve(x).converged.tolist() == [True, False, True, False]
    assert model.guarantee() is None
    with pytest.raises(IllPosedError):
        model.solve(x, Settings())


def test_where_there_is_one_its_gradients_are_those_of_the_equilibrium() -> None:
    model = nn.Unconstrained(3, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    model.settings = replace(model.settings, tolerance=1e-13)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    solution = model.solve(x)
    assert bool(solution.converged.all())
    exact = torch.zeros_like(solution.z)
    for _ in range(300):
        exact = torch.relu(exact @ model.W.mT + x @ model.U.mT + model.b)
    torch.testing.assert_close(solution.z, exact, rtol=0, atol=1e-11)
    parameters = list(model.parameters())
    own = torch.autograd.grad(solution.y.square().sum(), parameters)
    unrolled = torch.autograd.grad((exact @ model.C.mT + model.c).square().sum(), parameters)
    for one, other in zip(own, unrolled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_samples_without_equilibrium_are_counted_and_teach_nothing() -> None:
    dataset = signs(20)
    config = TrainConfig(data="npz:signs", model="unconstrained", width=3, epochs=1, batch=20, dtype="float64")
    model = tripled()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (epoch,) = fit(model, dataset, config)
    assert epoch.train_unconverged == 10
    # The ten that are solved have z = 0 and are of class 0; the others count as wrong.
    assert epoch.train_error_percent >= 50.0
    assert epoch.unconverged == 0
    for name in ("W", "U", "b", "C"):
        # At z = 0 no neuron is active, so only c can learn; what the others would teach must not be there.
        assert torch.equal(model.state_dict()[name], before[name]), name
    assert float((model.c.detach() - before["c"]).abs().min()) > 0


def test_a_batch_without_any_equilibrium_ends_the_training() -> None:
    dataset = replace(signs(20), train_x=signs(20).train_x.abs() + 1)
    config = TrainConfig(data="npz:signs", model="unconstrained", width=3, epochs=1, batch=20, dtype="float64")
    with pytest.raises(ConvergenceError, match="no sample of a batch has an equilibrium"):
        fit(tripled(), dataset, config)


def test_a_run_of_one(tmp_path: Path) -> None:
    config = TrainConfig(model="unconstrained", limit=300, width=16, epochs=2, batch=32, lr=1e-2)
    path, model = train(config, tmp_path / "run")
    read, again = load_run(path)
    assert read.model.kind == "unconstrained"
    assert isinstance(again, nn.Unconstrained)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    history = metrics.read(path)
    assert history[-1].loss < history[0].loss
    assert all(epoch.train_unconverged == 0 for epoch in history)
    assert json.loads((path / "metrics.jsonl").read_text().splitlines()[0])["train_unconverged"] == 0
    from equilip import data

    dataset = data.load("digits", limit=300)
    found = evaluate(
        again.form().detach().to(torch.float64),
        dataset.test_x,
        dataset.test_y,
        Settings(require_well_posed=False, raise_on_failure=False),
    )
    assert found.test_error_percent == pytest.approx(history[-1].test_error_percent, abs=1.0)


def test_the_same_seed_gives_the_same_network() -> None:
    config = TrainConfig(model="unconstrained", width=6)
    from equilip import data

    dataset = data.load("digits", limit=50)
    one, other = (
        build(describe(config, dataset), generator=torch.Generator().manual_seed(5)).state_dict() for _ in range(2)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
