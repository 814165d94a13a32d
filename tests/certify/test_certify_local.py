"""Local bounds: true for every pair of points in the ball, and never above the global bound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from certify_networks import KINDS, lben, make, random_form, some_activation, tensor, worst_slope
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip import activations
from equilip.certify import lipschitz, lipschitz_local
from equilip.certify.local import Localiser, slope_range
from equilip.errors import InputError
from equilip.form import Standardisation
from equilip.solve import Settings, equilibrium


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 8),
    activation=st.integers(0, 4),
    radius=st.sampled_from([1e-3, 0.1, 1.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_pair_in_the_ball_beats_a_local_bound(kind: str, n: int, activation: int, radius: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = 4
    form = replace(
        random_form(rng, kind, n, p, 3),
        activation=some_activation(activation),
        b=tensor(rng.standard_normal(n)),
        standardisation=Standardisation(tensor(rng.standard_normal(p)), tensor(np.exp(rng.standard_normal(p)))),
    )
    bound = lipschitz(form)
    form = replace(form, lam=tensor(bound.multipliers))
    center = tensor(rng.standard_normal(p))
    local = lipschitz_local(form, center, radius)
    assert local.value_raw <= bound.value_raw * (1 + 1e-5)
    points = torch.from_numpy(rng.standard_normal((400, p)))
    points = center + radius * points / points.norm(dim=1, keepdim=True) * tensor(rng.random((400, 1)) ** 0.3)
    points[1::2] = points[::2] + 1e-4 * radius * (points[1::2] - points[::2])
    solution = equilibrium(form, points, Settings(tolerance=1e-13, raise_on_failure=False, require_well_posed=False))
    steps = (points[1::2] - points[::2]).norm(dim=1)
    error = 1e-9 * (1 + solution.y.norm(dim=1).max())
    slopes = ((solution.y[1::2] - solution.y[::2]).norm(dim=1) - error) / steps
    inside = (points - center).norm(dim=1).view(-1, 2).amax(dim=1) <= radius
    assert float(slopes[inside].max()) <= local.value_raw


@pytest.mark.parametrize(
    "own",
    [
        activations.ReLU(),
        activations.LeakyReLU(0.3),
        activations.HardTanh(-0.5, 2.0),
        activations.Identity(),
        activations.Tanh(),
        activations.Sigmoid(),
        activations.Softplus(),
        activations.ELU(0.7),
    ],
)
def test_slope_ranges_hold_every_secant(own: activations.Activation) -> None:
    rng = np.random.default_rng(0)
    middle, width = 4 * rng.standard_normal(300), 10.0 ** rng.uniform(-6, 1, 300)
    low, high = middle - width, middle + width
    least, most = slope_range(own, low, high)
    assert (least <= most).all()
    assert (least >= own.interval[0]).all()
    for _ in range(50):
        a, b = np.sort(low + (high - low) * rng.random((2, 300)), axis=0)
        values = own.value(tensor(np.stack([a, b]))).numpy()
        doubt = 1e-14 * (1 + np.abs(values).max(axis=0))
        assert (values[1] - values[0] <= most * (b - a) + doubt).all()
        assert (values[1] - values[0] >= least * (b - a) - doubt).all()
    tiny = slope_range(own, middle, middle)
    assert (tiny[1] - tiny[0] <= 1e-9).mean() > 0.9


def test_a_tiny_ball_gives_the_slope_at_its_center() -> None:
    form = lben(np.random.default_rng(1), 12, 5, 3)
    bound = lipschitz(form)
    center = torch.randn(1, 5, generator=torch.manual_seed(3), dtype=torch.float64)
    local = lipschitz_local(form, center, 1e-7, bound=bound)
    assert local.fixed == 12
    x = center.clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda u: equilibrium(form, u, Settings(tolerance=1e-12)).y[0], x)[
        :, 0
    ]
    assert local.value_raw == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=1e-5)
    assert local.value_raw < 0.9 * bound.value_raw


def test_arguments_come_with_their_error() -> None:
    form = lben(np.random.default_rng(2), 9, 5, 3).to(torch.float32)
    localiser = Localiser(form, lipschitz(form))
    x = torch.randn(20, 5, generator=torch.manual_seed(0))
    s, doubt = localiser.arguments(x)
    exact = form.to(torch.float64)
    z = equilibrium(exact, x.double(), Settings(tolerance=1e-13)).z
    true = exact.W.plus(z, exact.bias(x.double())).numpy()
    assert (np.abs(s - true) <= doubt + 1e-11).all()
    assert doubt.max() < 1e-5


def test_bad_balls_are_refused() -> None:
    form = lben(np.random.default_rng(3), 3, 2, 2)
    x = torch.zeros(1, 2, dtype=torch.float64)
    for radius in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="radius"):
            lipschitz_local(form, x, radius)
    with pytest.raises(InputError, match="2 centers"):
        lipschitz_local(form, torch.zeros(2, 2, dtype=torch.float64), 1.0)


def test_a_slope_is_fixed_just_as_far_as_the_ball_allows() -> None:
    # s = x for each neuron, which is 1 at the center: relu's slope is fixed up to radius 1, and not beyond.
    eye = np.eye(1)
    form = make(0 * eye, eye, eye)
    localiser = Localiser(form, lipschitz(form))
    s, doubt = localiser.arguments(torch.ones(1, 1, dtype=torch.float64))
    assert [float(t[0]) for t in localiser.slopes(s[0], doubt[0], 0.9999)] == [1.0, 1.0]
    assert [float(t[0]) for t in localiser.slopes(s[0], doubt[0], 1.0001)] == [0.0, 1.0]
    s, doubt = localiser.arguments(-torch.ones(1, 1, dtype=torch.float64))
    assert [float(t[0]) for t in localiser.slopes(s[0], doubt[0], 0.9999)] == [0.0, 0.0]
    assert [float(t[0]) for t in localiser.slopes(s[0], doubt[0], 1.0001)] == [0.0, 1.0]


def test_no_argument_moves_faster_than_proved() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        form = replace(
            random_form(rng, KINDS[seed % len(KINDS)], 6, 4, 2),
            standardisation=Standardisation(tensor(np.zeros(4)), tensor(np.exp(rng.standard_normal(4)))),
        )
        localiser = Localiser(form, lipschitz(form))
        W, U = form.W.dense(), form.U.dense()
        for i in range(6):
            argument = make(W.numpy(), U.numpy(), W[i : i + 1].numpy(), U[i : i + 1].numpy())
            fastest = worst_slope(replace(argument, standardisation=form.standardisation), raw=True)
            assert fastest <= localiser.speed[i]
            assert localiser.speed[i] <= 20 * fastest
