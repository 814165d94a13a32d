"""The slopes that an ordinary network has by its layers: bounds for every pair of inputs, and what training makes."""

from __future__ import annotations

import math

import pytest
import torch

from equilip import certify, data, nn
from equilip.errors import ConfigError
from equilip.form import Standardisation
from equilip.train import TrainConfig, fit
from equilip.train.models import build, describe
from equilip.train.slopes import LayeredSlopes, slopes


def network(*hidden: int) -> nn.FeedForward:
    generator = torch.Generator().manual_seed(3)
    std = 0.5 + torch.rand(6, generator=generator, dtype=torch.float64)
    standardisation = Standardisation(torch.zeros(6, dtype=torch.float64), std)
    return nn.FeedForward(6, hidden, 4, standardisation=standardisation, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("hidden", [(), (9,), (9, 5)])
def test_no_pair_of_inputs_beats_the_bounds(hidden: tuple[int, ...]) -> None:
    model = network(*hidden)
    found = slopes(model)
    assert isinstance(found, LayeredSlopes)
    x = torch.randn(400, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).requires_grad_()
    jacobians = torch.stack([torch.autograd.grad(model(x)[:, k].sum(), x)[0] for k in range(4)], dim=1)
    with torch.no_grad():
        whole, pairs = float(found.whole()), found.pairs()
        steepest = float(torch.linalg.matrix_norm(jacobians, 2).max())
        assert 0.03 * whole < steepest <= whole * (1 + 1e-12)
        differences = torch.linalg.vector_norm(jacobians[:, :, None] - jacobians[:, None], dim=3).amax(0)
        assert bool((differences <= pairs * (1 + 1e-12)).all())
        assert not pairs.diagonal().any()
        assert float(pairs.max()) <= math.sqrt(2) * whole * (1 + 1e-12)


@pytest.mark.parametrize("hidden", [(), (9,), (9, 5)])
def test_the_whole_is_the_product_of_the_norms(hidden: tuple[int, ...]) -> None:
    model = network(*hidden)
    found = slopes(model)
    assert found is not None
    assert model.input is not None
    product = torch.stack([torch.linalg.matrix_norm(weight, 2) for weight in model.weights]).prod()
    expected = product / model.input.std.min()
    assert float(found.whole().detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    weights = list(model.weights)
    for own, exact in zip(
        torch.autograd.grad(found.whole(), weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(own, exact)
    if hidden:
        assert certify.lipschitz(model).value_raw < float(expected.detach())
        assert all(bool(part.any()) for part in torch.autograd.grad(found.pairs().sum(), weights))


def test_margin_training_lowers_the_slope_of_an_ordinary_network() -> None:
    dataset = data.load("digits", limit=400)

    def proved(config: TrainConfig) -> tuple[float, float]:
        model = build(
            describe(config, dataset),
            standardisation=dataset.standardisation,
            generator=torch.Generator().manual_seed(0),
        )
        last = fit(model, dataset, config)[-1]
        return certify.lipschitz(model).value_raw, last.certified_by_pairs_percent["0.3"]

    base = {"model": "feedforward", "width": 16, "epochs": 8, "batch": 32, "lr": 1e-2, "eps": (0.3,)}
    plain, plain_share = proved(TrainConfig(**base))
    margin, margin_share = proved(TrainConfig(**base, loss="lipschitz-margin", loss_eps=0.3))
    assert margin < 0.8 * plain
    assert margin_share > plain_share + 10


def test_a_network_without_layers_or_bound_is_still_refused() -> None:
    for model in ("lben", "monotone"):
        with pytest.raises(ConfigError, match="needs a bound"):
            TrainConfig(model=model, loss="lipschitz-margin", loss_eps=0.1)
