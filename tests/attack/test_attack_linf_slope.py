"""The ℓ∞ slope search: what it finds is there, is never above a proof, and is the largest where that is known."""

from __future__ import annotations

import pytest
import torch

from equilip.activations import Activation, ReLU, Sigmoid, Tanh
from equilip.attack import largest_slope_linf
from equilip.certify import lipschitz_linf
from equilip.errors import InputError
from equilip.form import Form, Standardisation, affine
from equilip.nn import LBEN, NEMON, FeedForward, LBENConv
from equilip.solve import Settings, equilibrium

F64 = torch.float64
STD = Standardisation(torch.linspace(-1, 1, 5).double(), torch.linspace(0.2, 2.0, 5).double())


def form(kind: str, seed: int) -> Form:
    generator = torch.Generator().manual_seed(seed)
    sigma: Activation = (ReLU(), Sigmoid(), Tanh())[seed % 3]
    model = {
        "nemon": lambda: NEMON(5, 9, 3, m=0.8, activation=sigma, standardisation=STD, dtype=F64, generator=generator),
        "gated": lambda: NEMON(5, 9, 3, gate=0.1, dtype=F64, generator=generator),
        "lben": lambda: LBEN(5, 9, 3, gamma=2.0, activation=sigma, dtype=F64, generator=generator, feedthrough=True),
        "feedforward": lambda: FeedForward(5, (7, 6), 3, activation=sigma, dtype=F64, generator=generator),
    }[kind]()
    return model.form().detach()


@pytest.mark.parametrize("kind", ["nemon", "gated", "lben", "feedforward"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_is_there_and_below_what_is_proved(kind: str, seed: int) -> None:
    own = form(kind, seed)
    found, bound = largest_slope_linf(own, starts=8, rounds=4), lipschitz_linf(own)
    assert found.norm == "linf"
    assert not found.contradicts(bound)
    for value, pair, std in ((found.value, found.pair, True), (found.value_raw, found.pair_raw, False)):
        y = equilibrium(own, pair, Settings(tolerance=1e-13)).y
        apart = pair[0] - pair[1]
        if std and own.standardisation is not None:
            apart = apart / own.standardisation.std
        true = float((y[0] - y[1]).abs().amax() / apart.abs().amax())
        assert 0 < value <= true * (1 + 1e-9)
    assert bound.value <= 3 * found.value


def test_of_an_affine_map_it_finds_the_norm() -> None:
    A = torch.randn(3, 6, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = largest_slope_linf(affine(A, torch.zeros(3, dtype=F64)), starts=2, rounds=0)
    assert found.value == pytest.approx(float(A.abs().sum(1).max()), rel=1e-9)


def test_convolutional_networks_are_searched_too() -> None:
    model = LBENConv((1, 5, 5), 2, 3, gamma=1.0, generator=torch.Generator().manual_seed(0))
    found = largest_slope_linf(model, torch.rand(4, 25), starts=4, rounds=1)
    assert 0 < found.value <= 5.0  # at most the root of the number of inputs times the l2 slope


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="at least one start"):
        largest_slope_linf(form("lben", 0), starts=0)
