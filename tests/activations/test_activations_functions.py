"""Activations: slopes against differences, values against many digits, proximal maps against their equation."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from activation_kinds import (
    ALPHAS,
    PROJECTIONS,
    SMOOTH,
    away_from_kinks,
    checked,
    every,
    exact,
    points,
    smooth,
)
from hypothesis import given
from hypothesis import strategies as st

from equilip.activations import (
    Activation,
    Tanh,
)


@every
def test_slope_is_the_derivative(sigma: Activation) -> None:
    s = away_from_kinks(sigma, points(), 1e-3)
    s = s[s.abs() < 1e3]
    h = 1e-6 * s.abs().clamp(min=1.0)
    difference = (sigma.value(s + h) - sigma.value(s - h)) / (2 * h)
    assert torch.allclose(sigma.slope(s), difference, rtol=1e-6, atol=1e-8)
    tracked = s.clone().requires_grad_()
    (derivative,) = torch.autograd.grad(sigma.value(tracked).sum(), tracked)
    # In the tails autograd's 1 - tanh² and the like cancel to zero; ours does not.
    assert torch.allclose(sigma.slope(s), derivative, rtol=1e-12, atol=1e-15)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slopes_stay_in_the_interval_and_keep_their_type(sigma: Activation, dtype: torch.dtype) -> None:
    s = points(dtype)
    j, value = sigma.slope(s), sigma.value(s)
    lower, upper = sigma.interval
    assert 0 <= lower <= upper <= 1
    # A slope such as 0.3 is rounded to float32, and a product of rounded sigmoids may pass 1/4 by rounding.
    slack = 2 * torch.finfo(dtype).eps
    assert j.dtype == value.dtype == dtype
    assert j.shape == value.shape == s.shape
    assert bool((j >= lower - slack).all() and (j <= upper + slack).all())
    assert bool(value.isfinite().all())


@every
@checked
@given(a=st.floats(-1e3, 1e3), gap=st.floats(1e-3, 1e3))
def test_secants_stay_in_the_interval(sigma: Activation, a: float, gap: float) -> None:
    lower, upper = sigma.interval
    b = a + gap
    low, high = sigma.value(torch.tensor([a, b], dtype=torch.float64)).tolist()
    rounding = 1e-12 * (abs(a) + abs(b) + 1) / (b - a)
    assert lower - rounding <= (high - low) / (b - a) <= upper + rounding


@every
def test_the_interval_is_no_larger_than_it_has_to_be(sigma: Activation) -> None:
    s = torch.linspace(-60, 60, 4001, dtype=torch.float64)
    j = sigma.slope(s)
    lower, upper = sigma.interval
    assert float(j.min()) == pytest.approx(lower, abs=1e-9)
    assert float(j.max()) == pytest.approx(upper, abs=1e-9)


@every
def test_values_are_as_accurate_as_promised(sigma: Activation) -> None:
    s = points()
    values = sigma.value(s).tolist()
    # Proofs count the rounding of σ in units of the last place, and 1e-300 for what underflows.
    with mpmath.workdps(60):
        for own, at in zip(values, s.tolist(), strict=True):
            true = exact(sigma, at)
            ulps = max(sigma.rounding, 0.0) * 2.0**-52
            assert abs(mpmath.mpf(own) - true) <= ulps * abs(true) + mpmath.mpf(1e-300), (sigma, at)


# ---------------------------------------------------------------- proximal maps


def equation_error(sigma: Activation, v: float, alpha: float, own: float) -> mpmath.mpf:
    """How far own = prox(v) is from σ(t) with (1 - α) σ(t) + α t = v, found by bisection in 40 digits."""

    def excess(t: mpmath.mpf) -> mpmath.mpf:
        return (1 - mpmath.mpf(alpha)) * exact(sigma, t) + mpmath.mpf(alpha) * t - mpmath.mpf(v)

    # The slope of excess lies between 1 and α, which brackets its root from any point.
    start, at = mpmath.mpf(v), excess(mpmath.mpf(v))
    low, high = sorted([start - at, start - at / mpmath.mpf(alpha)])
    for _ in range(80):
        middle = (low + high) / 2
        if excess(middle) > 0:
            high = middle
        else:
            low = middle
    return abs(mpmath.mpf(own) - exact(sigma, (low + high) / 2))


@every
@pytest.mark.parametrize("alpha", [1e-3, 0.5, 30.0, 1e3])
def test_prox_solves_its_equation(sigma: Activation, alpha: float) -> None:
    v = torch.cat([points()[:12], points()[200:]])
    got = sigma.prox(v, alpha)
    with mpmath.workdps(40):
        for at, own in zip(v.tolist(), got.tolist(), strict=True):
            error = equation_error(sigma, at, alpha, own)
            assert error <= 2e-15 * max(alpha, 1 / alpha, 4.0) * max(abs(at), abs(own), 1e-300), (sigma, alpha, at)


@every
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prox_satisfies_its_equation_in_both_formats(sigma: Activation, alpha: float, dtype: torch.dtype) -> None:
    """The same without a reference: prox z = σ(t), so the t recovered from v and z has σ(t) = z."""
    v = points(dtype)
    z = sigma.prox(v, alpha)
    assert z.dtype == dtype
    assert bool(z.isfinite().all())
    t = (v.double() - (1 - alpha) * z.double()) / alpha
    unit = torch.finfo(dtype).eps
    # An error in z moves t by |1 - 1/α| times as much, and rounding v by 1/α.
    allowed = 8 * unit * (1 + abs(1 - 1 / alpha)) * (z.double().abs() + v.double().abs()) + 1e-40
    assert bool(((sigma.value(t) - z.double()).abs() <= allowed * (1 + 1 / alpha)).all())


@smooth
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prox_ends_soon(sigma: Activation, alpha: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Newton iteration, whatever the step: rounding at α far from 1 is no reason to go on."""
    original, calls = type(sigma).value, []

    def count(self: Activation, s: torch.Tensor) -> torch.Tensor:
        calls.append(s)
        return original(self, s)

    monkeypatch.setattr(type(sigma), "value", count)
    sweep = torch.logspace(-30, 18, 300, dtype=dtype)
    sigma.prox(torch.cat([sweep, -sweep, points(dtype)]), alpha)
    assert len(calls) <= 40


@smooth
@pytest.mark.parametrize("alpha", [0.05, 0.5, 3.0, 50.0])
def test_sigma_is_not_its_own_prox(sigma: Activation, alpha: float) -> None:
    v = torch.linspace(-2, 2, 41, dtype=torch.float64)
    assert float((sigma.prox(v, alpha) - sigma.value(v)).abs().max()) > 1e-2
    assert torch.equal(sigma.prox(v, 1.0), sigma.value(v))


@pytest.mark.parametrize("sigma", PROJECTIONS, ids=repr)
@pytest.mark.parametrize("alpha", ALPHAS)
def test_projections_are_their_own_prox(sigma: Activation, alpha: float) -> None:
    v = points()
    assert torch.equal(sigma.prox(v, alpha), sigma.value(v))


@every
@checked
@given(
    alpha=st.floats(-3, 3).map(lambda e: 10.0**e),
    a=st.floats(-1e4, 1e4),
    b=st.floats(-1e4, 1e4),
)
def test_prox_is_monotone_and_nonexpansive(sigma: Activation, alpha: float, a: float, b: float) -> None:
    low, high = sigma.prox(torch.tensor([min(a, b), max(a, b)], dtype=torch.float64), alpha).tolist()
    rounding = 1e-12 * max(alpha, 1 / alpha) * (1 + abs(a) + abs(b))
    assert -rounding <= high - low <= abs(a - b) + rounding


@every
def test_prox_takes_a_step_for_every_neuron(sigma: Activation) -> None:
    v = torch.linspace(-3, 3, 12, dtype=torch.float64).reshape(4, 3)
    alpha = torch.tensor([0.2, 1.0, 7.0], dtype=torch.float64)
    columns = [sigma.prox(v[:, i], float(alpha[i])) for i in range(3)]
    assert torch.allclose(sigma.prox(v, alpha), torch.stack(columns, dim=1), rtol=1e-14, atol=0)


@every
@pytest.mark.parametrize("alpha", [0.03, 1.0, 4.0])
def test_reflection_is_twice_prox_minus_the_point(sigma: Activation, alpha: float) -> None:
    v = points()
    assert torch.allclose(sigma.reflection(alpha)(v), 2 * sigma.prox(v, alpha) - v, rtol=1e-15, atol=0)


@every
@pytest.mark.parametrize("alpha", [0.05, 1.0, 40.0])
def test_prox_derivatives(sigma: Activation, alpha: float) -> None:
    """First and second derivatives in v and in α; a few points, none at a kink."""
    v = torch.tensor([-3.1, -0.6, 0.55, 7.3], dtype=torch.float64, requires_grad=True)
    step = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sigma.prox, (v, step), atol=1e-7, rtol=1e-6)
    assert torch.autograd.gradgradcheck(sigma.prox, (v, step), atol=1e-6, rtol=1e-5)
    assert torch.autograd.gradgradcheck(lambda x: sigma.prox(x, alpha), (v,), atol=1e-6, rtol=1e-5)


# torch's forward mode warns of what it uses itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@every
@pytest.mark.parametrize("alpha", [0.05, 1.0, 40.0])
def test_prox_has_a_derivative_in_forward_mode(sigma: Activation, alpha: float) -> None:
    v = torch.tensor([-3.1, -0.6, 0.55, 7.3], dtype=torch.float64)
    _, forward = torch.func.jvp(lambda x: sigma.prox(x, alpha), (v,), (torch.ones_like(v),))
    tracked = v.clone().requires_grad_()
    (reverse,) = torch.autograd.grad(sigma.prox(tracked, alpha).sum(), tracked)
    assert torch.allclose(forward, reverse, rtol=1e-12)
    step = torch.tensor(alpha, dtype=torch.float64)
    assert torch.autograd.gradcheck(sigma.prox, (tracked, step.requires_grad_()), check_forward_ad=True, rtol=1e-5)


@smooth
@pytest.mark.parametrize("alpha", [0.05, 2.5])
def test_third_derivative_of_prox(sigma: Activation, alpha: float) -> None:
    """Against differences of the second derivative."""

    def second(v: torch.Tensor) -> torch.Tensor:
        v = v.detach().requires_grad_()
        first = torch.autograd.grad(sigma.prox(v, alpha).sum(), v, create_graph=True)[0]
        return torch.autograd.grad(first.sum(), v, create_graph=True)[0]

    v = torch.tensor([-2.0, -0.6, 0.4, 1.3], dtype=torch.float64)
    tracked = v.clone().requires_grad_()
    first = torch.autograd.grad(sigma.prox(tracked, alpha).sum(), tracked, create_graph=True)[0]
    twice = torch.autograd.grad(first.sum(), tracked, create_graph=True)[0]
    if not twice.requires_grad:
        pytest.skip("the second derivative is constant")
    third = torch.autograd.grad(twice.sum(), tracked)[0]
    difference = (second(v + 1e-5) - second(v - 1e-5)).detach() / 2e-5
    assert torch.allclose(third, difference, rtol=1e-5, atol=1e-5)


def test_prox_of_empty_and_infinite_tensors_ends() -> None:
    for sigma in SMOOTH:
        assert sigma.prox(torch.zeros(0, 3), 0.5).shape == (0, 3)
        out = sigma.prox(torch.tensor([math.inf, -math.inf, math.nan, 1.0], dtype=torch.float64), 0.5)
        assert math.isfinite(float(out[3]))


def test_sigma_in_place_of_prox_gives_a_wrong_fixed_point() -> None:
    """Why the proximal map is there (mathematics 1.7): the published iteration is wrong for tanh."""
    W = torch.tensor([[-1.0, 0.8, 0.0], [-0.5, -2.0, 0.7], [0.3, 0.0, 0.4]], dtype=torch.float64)
    bias = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    sigma, alpha = Tanh(), 0.2

    def limit(resolve) -> torch.Tensor:
        z = torch.zeros(3, dtype=torch.float64)
        for _ in range(400):
            z = resolve(z - alpha * (z - W @ z - bias))
        return z

    def residual(z: torch.Tensor) -> float:
        return float((z - sigma.value(W @ z + bias)).norm())

    assert residual(limit(lambda v: sigma.prox(v, alpha))) < 1e-14
    assert residual(limit(sigma.value)) > 0.1
