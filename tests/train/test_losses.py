"""Losses: each is what its definition says, and promises of slope are kept by every pair of inputs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from equilip import data, nn
from equilip.train import TrainConfig, fit
from equilip.train.losses import Certified, CrossEntropy, LipschitzMargin, Loss, Margin, loss
from equilip.train.models import build, describe
from equilip.train.slopes import BoundedSlopes, Slopes, slopes

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.randn(20, 4, dtype=torch.float64, generator=GENERATOR)
LABEL = torch.randint(0, 4, (20,), generator=GENERATOR)


def network(**more: object) -> nn.LBEN:
    standardisation = data.standardisation("digits")
    standardisation = type(standardisation)(standardisation.mean[:6], standardisation.std[:6])
    generator = torch.Generator().manual_seed(1)
    return nn.LBEN(
        6, 9, 4, 1.5, epsilon=0.05, standardisation=standardisation, dtype=torch.float64, generator=generator, **more
    )


@pytest.fixture
def bounded() -> Slopes:
    found = slopes(network())
    assert found is not None
    return found


def test_cross_entropy_by_hand() -> None:
    expected = (Y.exp().sum(1).log() - Y[torch.arange(20), LABEL]).mean()
    assert float(CrossEntropy()(Y, LABEL, None)) == pytest.approx(float(expected))
    cold = CrossEntropy(1e-3)(Y, LABEL, None)
    assert float(cold) == pytest.approx(float((Y.amax(1) - Y[torch.arange(20), LABEL]).mean()), abs=1e-2)


def test_margin_by_hand() -> None:
    total = 0.0
    for y, label in zip(Y.tolist(), LABEL.tolist(), strict=True):
        best = max(value for index, value in enumerate(y) if index != label)
        total += max(0.0, 0.7 - (y[label] - best))
    assert float(Margin(0.7)(Y, LABEL, None)) == pytest.approx(total / 20)


def test_lipschitz_margin_is_a_handicap_for_the_label(bounded: Slopes) -> None:
    raw = 1.5 / 0.3764
    handicapped = Y.clone()
    handicapped[torch.arange(20), LABEL] -= math.sqrt(2) * raw * 0.3
    expected = 0.5 * torch.nn.functional.cross_entropy(handicapped / 0.5, LABEL)
    assert float(LipschitzMargin(0.3, 0.5)(Y, LABEL, bounded)) == pytest.approx(float(expected), rel=1e-6)


def test_certified_is_what_the_radius_lacks(bounded: Slopes) -> None:
    eps, lacking = 0.1, []
    with torch.no_grad():
        pairs = bounded.pairs()
        for y, label in zip(Y, LABEL.tolist(), strict=True):
            radius = min(float((y[label] - y[j]) / pairs[label, j]) for j in range(4) if j != label)
            lacking.append(max(0.0, eps - radius))
        assert float(Certified(eps, 1e-6)(Y, LABEL, bounded)) == pytest.approx(sum(lacking) / 20, abs=1e-5)
        assert float(Certified(eps, 0.1)(7 * Y, LABEL, bounded)) != float(Certified(eps, 0.1)(Y, LABEL, bounded))


@pytest.mark.parametrize("made", [CrossEntropy(0.5), Margin(0.7), LipschitzMargin(0.2, 0.5), Certified(0.2, 0.5)])
def test_gradients(made: Loss) -> None:
    model = network(learn_gamma=True)
    found = slopes(model)
    y = Y.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda y: made(y, LABEL, found), (y,))
    if isinstance(made, LipschitzMargin):
        made(Y, LABEL, found).backward()
        assert model.log_gamma is not None
        assert model.log_gamma.grad is not None
        assert model.log_gamma.grad > 0, "a larger bound certifies less"


@pytest.mark.parametrize("feedthrough", [False, True])
def test_pair_bounds_hold_and_are_within_the_whole(feedthrough: bool) -> None:
    found = slopes(network(feedthrough=feedthrough))
    assert found is not None
    with torch.no_grad():
        pairs, whole = found.pairs(), float(found.whole())
        assert float(pairs.max()) <= math.sqrt(2) * whole * (1 + 1e-12)
        assert torch.allclose(pairs, pairs.mT)
        assert not pairs.diagonal().any()
        x = torch.rand(400, 6, dtype=torch.float64, generator=GENERATOR)
        other = x + 1e-2 * torch.randn(400, 6, dtype=torch.float64, generator=GENERATOR)
        change = found.model(x) - found.model(other)
        for i in range(4):
            for j in range(4):
                slope = ((change[:, i] - change[:, j]).abs() / (x - other).norm(dim=1)).max()
                assert float(slope) <= float(pairs[i, j]) + 1e-9


def test_without_slack_the_whole_bound_remains() -> None:
    model = nn.LBEN(6, 9, 4, 1.0, epsilon=1e-12)
    with torch.no_grad():
        model.V.zero_()
        model.C *= 100
        model.U *= 100
        pairs = BoundedSlopes(model).pairs()
    assert torch.equal(pairs, math.sqrt(2) * (torch.ones(4, 4) - torch.eye(4)))


@pytest.mark.parametrize("feedthrough", [False, True])
def test_pair_bounds_are_never_below_what_is_proved(feedthrough: bool) -> None:
    from equilip import certify

    model = network(feedthrough=feedthrough)
    found = slopes(model)
    assert found is not None
    whole = certify.lipschitz(model, method="scale")
    proved = torch.from_numpy(certify.rows(model, whole).pairs_raw)
    with torch.no_grad():
        pairs = found.pairs()
    # Proofs use the same multipliers, and search where the closed form estimates.
    assert float((proved - pairs).max()) < 1e-6
    assert float(pairs.max()) < 0.99 * math.sqrt(2) * float(found.whole())


def test_only_networks_with_a_bound_have_slopes() -> None:
    assert slopes(nn.LBEN(3, 4, 2)) is None
    assert slopes(nn.MonotoneNetwork(3, 4, 2)) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, CrossEntropy(1.0)),
        ({"temperature": 0.5}, CrossEntropy(0.5)),
        ({"loss": "margin", "margin": 2.0}, Margin(2.0)),
        ({"loss": "lipschitz-margin", "loss_eps": 0.3, "gamma": 1.0}, LipschitzMargin(0.3, 1.0)),
        ({"loss": "certified", "loss_eps": 0.3, "gamma": 1.0, "temperature": 0.2}, Certified(0.3, 0.2)),
    ],
)
def test_the_configuration_names_the_loss(changes: dict, expected: Loss) -> None:
    assert loss(TrainConfig(**changes)) == expected


def test_training_for_radii_certifies_more() -> None:
    base = TrainConfig(
        gamma=0.5, epsilon=0.05, limit=400, width=24, epochs=10, batch=32, lr=1e-2, schedule="one-cycle", eps=(1.0,)
    )
    dataset = data.load("digits", limit=base.limit)

    def certified(config: TrainConfig) -> tuple[float, float]:
        generator = torch.Generator().manual_seed(0)
        model = build(describe(config, dataset), standardisation=dataset.standardisation, generator=generator)
        last = fit(model, dataset, config)[-1]
        return last.certified_by_gamma_percent["1"], last.certified_by_pairs_percent["1"]

    plain = certified(base)
    margin = certified(replace(base, loss="lipschitz-margin", loss_eps=1.0, temperature=0.3))
    pairs = certified(replace(base, loss="certified", loss_eps=1.5, temperature=0.1))
    assert margin[0] > plain[0] + 3
    assert pairs[1] > margin[1] + 1
    assert pairs[1] > pairs[0]
