"""Networks of 1-Lipschitz layers train like all others, and what they promise holds in their runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip import certify, checker
from equilip.activations import ReLU, Tanh
from equilip.errors import ConfigError
from equilip.form import Standardisation
from equilip.nn import Stack
from equilip.solve import equilibrium
from equilip.train import TrainConfig, load_form, load_run, train
from equilip.train.config import STACKS
from equilip.train.slopes import slopes
from equilip.train.stacks import stack


@pytest.mark.parametrize("kind", STACKS)
def test_a_run_keeps_its_promise(kind: str, tmp_path: Path) -> None:
    config = TrainConfig(model=kind, gamma=2.0, limit=200, width=12, epochs=3, batch=32, lr=2e-2, eps=(0.1,))
    path, model = train(config, tmp_path / kind)
    assert isinstance(model, Stack)
    found, again = load_run(path)
    assert found.model.hidden == (12,)
    form, x = load_form(path), torch.rand(20, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), again(x))
    assert torch.allclose(equilibrium(form, x).y, model(x), atol=1e-4)
    bound = certify.lipschitz(form)
    assert bound.value <= 2.0 * (1 + 1e-6)
    bound.save(path / "certificate.json")
    assert checker.check(path / "certificate.json").valid


@pytest.mark.parametrize("kind", ["cpl", "sandwich", "aol"])
def test_several_layers_and_a_bound_that_is_learnt(kind: str, tmp_path: Path) -> None:
    config = TrainConfig(
        model=kind, gamma=1.0, learn_gamma=True, depth=3, limit=100, width=7, epochs=2, batch=25, lr=1e-2,
        activation="tanh", loss="lipschitz-margin", loss_eps=0.1, dtype="float64",
    )  # fmt: skip
    path, model = train(config, tmp_path / "run")
    assert isinstance(model, Stack)
    assert model.gamma != pytest.approx(1.0, abs=1e-4)
    assert load_form(path).hidden_size == 21
    assert load_run(path)[1].gamma == model.gamma


@settings(max_examples=15, deadline=None, derandomize=True)
@given(kind=st.sampled_from(STACKS), seed=st.integers(0, 999), scale=st.sampled_from([0.1, 1.0, 10.0]))
def test_no_slope_is_above_what_losses_train_against(kind: str, seed: int, scale: float) -> None:
    standardisation = Standardisation(torch.zeros(4).double(), torch.tensor([0.5, 1.0, 2.0, 3.0]).double())
    model = stack(
        kind, 4, (5, 5), 3, 0.8, learn_gamma=False, activation=Tanh() if seed % 2 else ReLU(),
        standardisation=standardisation, dtype=torch.float64, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
        own = slopes(model)
        assert own is not None
        pairs, whole = own.pairs(), float(own.whole())
    assert whole == pytest.approx(1.6)
    assert (pairs <= math.sqrt(2) * whole * (1 + 1e-12)).all()
    for x in torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)):
        J = torch.autograd.functional.jacobian(lambda v: model(v[None])[0], x)
        assert float(torch.linalg.matrix_norm(J, 2)) <= whole * (1 + 1e-9)
        assert ((J[:, None] - J).norm(dim=2) <= pairs * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model": "cpl"}, "give gamma"),
        ({"model": "lben", "gamma": 1.0, "depth": 2}, "depth is a property"),
        ({"model": "aol", "gamma": 1.0, "feedthrough": True}, "feedthrough is a property of the model lben"),
        ({"model": "sandwich", "gamma": 1.0, "depth": 0}, "depth must be at least 1"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TrainConfig(**values)
