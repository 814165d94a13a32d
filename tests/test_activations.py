"""Activations: slopes against differences, proximal maps against their equation, refusals and descriptions."""

from __future__ import annotations

import json
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.activations import (
    ELU,
    REFUSED,
    Activation,
    Blockwise,
    HardTanh,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Slopes,
    Softplus,
    Tanh,
    activation,
    blocks,
    describe,
    from_module,
    join,
    refuse,
    restore,
    slope_bounds,
)
from equilip.errors import ActivationError, EquilipError, FormatError, InputError

PLAIN: list[Activation] = [
    ReLU(),
    LeakyReLU(),
    LeakyReLU(0.0),
    LeakyReLU(0.3),
    LeakyReLU(1.0),
    HardTanh(),
    HardTanh(-0.25, 6.0),
    Identity(),
    Tanh(),
    Sigmoid(),
    Softplus(),
    ELU(),
    ELU(0.3),
]
SMOOTH = [Tanh(), Sigmoid(), Softplus(), ELU(0.5)]
PROJECTIONS = [ReLU(), HardTanh(), HardTanh(-0.25, 6.0), Identity()]
ALPHAS = [1e-8, 1e-5, 1e-3, 0.07, 0.5, 1.0, 1.7, 30.0, 1e3, 1e6]
EXTREMES = [0.0, 1e-30, 1e-8, 1e-3, 0.3, 1.0, 5.0, 40.0, 800.0, 1e6, 1e18]

every = pytest.mark.parametrize("sigma", PLAIN, ids=repr)
smooth = pytest.mark.parametrize("sigma", SMOOTH, ids=repr)
checked = settings(deadline=None, derandomize=True, max_examples=25)


def points(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Ordinary and extreme arguments of both signs, and the kinks."""
    generator = torch.Generator().manual_seed(0)
    ordinary = 3 * torch.randn(200, generator=generator, dtype=torch.float64)
    extreme = torch.tensor(EXTREMES, dtype=torch.float64)
    return torch.cat([ordinary, extreme, -extreme, torch.tensor([-0.25, 6.0, -1.0])]).to(dtype)


def kinks(sigma: Activation) -> list[float]:
    if isinstance(sigma, HardTanh):
        return [sigma.lower, sigma.upper]
    return [0.0]


def away_from_kinks(sigma: Activation, s: torch.Tensor, distance: float) -> torch.Tensor:
    near = torch.stack([(s - kink).abs() < distance for kink in kinks(sigma)]).any(dim=0)
    return s[~near]


def exact(sigma: Activation, s: float) -> mpmath.mpf:
    """σ(s) in 60 digits."""
    x = mpmath.mpf(s)
    match sigma:
        case ReLU():
            return max(x, mpmath.mpf(0))
        case LeakyReLU():
            return x if x > 0 else sigma.negative_slope * x
        case HardTanh():
            return min(max(x, mpmath.mpf(sigma.lower)), mpmath.mpf(sigma.upper))
        case Tanh():
            return mpmath.tanh(x)
        case Sigmoid():
            return 1 / (1 + mpmath.exp(-x))
        case Softplus():
            return mpmath.log1p(mpmath.exp(x)) if x < 100 else x + mpmath.log1p(mpmath.exp(-x))
        case ELU():
            return x if x > 0 else sigma.alpha * mpmath.expm1(x)
    return x


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


# ---------------------------------------------------------------- slopes of the adjoint


def test_slopes_are_linear_with_given_slopes() -> None:
    j = torch.tensor([[0.0, 0.25, 1.0], [1e-300, 0.5, 0.0]], dtype=torch.float64)
    s = torch.tensor([[3.0, -2.0, 1e9], [-1e200, 4.0, -5.0]], dtype=torch.float64)
    sigma = Slopes(j)
    assert torch.equal(sigma.value(s), j * s)
    assert torch.equal(sigma.slope(s), j)
    for alpha in (1e-3, 0.4, 1.0, 1e3):
        z = sigma.prox(s, alpha)
        assert bool(z.isfinite().all())
        assert bool((z[j == 0] == 0).all())
        # (1 - α) j t + α t = v and z = j t.
        t = s / ((1 - alpha) * j + alpha)
        assert torch.allclose(z, j * t, rtol=1e-14, atol=0)
        assert torch.allclose(sigma.reflection(alpha)(s), 2 * z - s, rtol=1e-14, atol=1e-300)


def test_gradients_of_slopes_are_free_of_nan_at_inactive_neurons() -> None:
    j = torch.tensor([[0.0, 1.0, 0.3]], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([[1.0, 2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    for alpha in (0.01, 1.0, 50.0):
        grads = torch.autograd.grad(Slopes(j).prox(v, alpha).sum(), (j, v))
        assert all(bool(g.isfinite().all()) for g in grads)
    inner = torch.tensor([[0.1, 0.9, 0.3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda a, b: Slopes(a).prox(b, 3.0), (inner, v))


def test_slopes_follow_rows_and_formats() -> None:
    j = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(Slopes(j).rows(torch.tensor([3, 1])).j, j[[3, 1]])
    assert torch.equal(Slopes(j).rows(slice(1, 3)).j, j[1:3])
    assert Slopes(j).to(torch.float32).j.dtype == torch.float32


# ---------------------------------------------------------------- several activations in one layer


def mixed() -> Blockwise:
    return Blockwise(((Tanh(), 2), (ReLU(), 1), (LeakyReLU(0.2), 3)))


def test_blockwise_acts_as_its_parts() -> None:
    sigma, s = mixed(), torch.randn(4, 6, dtype=torch.float64)
    groups = ((Tanh(), slice(0, 2)), (ReLU(), slice(2, 3)), (LeakyReLU(0.2), slice(3, 6)))
    alpha = torch.linspace(0.1, 5, 6, dtype=torch.float64)
    for own, group in groups:
        assert torch.equal(sigma.value(s)[:, group], own.value(s[:, group]))
        assert torch.equal(sigma.slope(s)[:, group], own.slope(s[:, group]))
        assert torch.equal(sigma.prox(s, 0.3)[:, group], own.prox(s[:, group], 0.3))
        assert torch.equal(sigma.prox(s, alpha)[:, group], own.prox(s[:, group], alpha[group]))
        assert torch.allclose(sigma.reflection(0.3)(s)[:, group], own.reflection(0.3)(s[:, group]), rtol=1e-14)
    assert sigma.interval == (0.0, 1.0)
    assert sigma.rounding == 4.0


def test_blocks_cover_every_neuron_or_are_refused() -> None:
    assert blocks(mixed(), 6) == mixed().blocks
    assert blocks(ReLU(), 4) == ((ReLU(), 4),)
    with pytest.raises(InputError, match="cover 6 neurons, not 5"):
        blocks(mixed(), 5)


def test_join_merges_equal_neighbours_and_flattens() -> None:
    assert join([(ReLU(), 2), (ReLU(), 3)]) == ReLU()
    assert join([(ReLU(), 2), (Tanh(), 0), (ReLU(), 3)]) == ReLU()
    assert join([(mixed(), 6), (LeakyReLU(0.2), 1)]) == Blockwise(((Tanh(), 2), (ReLU(), 1), (LeakyReLU(0.2), 4)))
    assert join([(LeakyReLU(0.2), 1), (LeakyReLU(0.3), 1)]) == Blockwise(((LeakyReLU(0.2), 1), (LeakyReLU(0.3), 1)))


@pytest.mark.parametrize("parts", [[(ReLU(), 0)], [(ReLU(), 0), (Tanh(), 0)], []])
def test_no_neurons_are_still_an_activation(parts: list[tuple[Activation, int]]) -> None:
    """Affine maps have no neurons, and everything still works on them."""
    sigma = join(parts)
    empty = torch.zeros(4, 0)
    assert sigma.value(empty).shape == sigma.slope(empty).shape == sigma.prox(empty, 0.5).shape == (4, 0)
    lower, upper = sigma.interval
    assert 0 <= lower <= upper <= 1
    assert sigma.rounding >= 0
    assert join([(sigma, 0), (Tanh(), 2)]) == Tanh()


def test_slope_bounds_are_those_of_every_neuron() -> None:
    sigma = Blockwise(((Sigmoid(), 1), (LeakyReLU(0.2), 2), (Identity(), 1)))
    lower, upper = slope_bounds(sigma, 4)
    assert lower.tolist() == [0.0, 0.2, 0.2, 1.0]
    assert upper.tolist() == [0.25, 1.0, 1.0, 1.0]
    assert lower.dtype == torch.float64


# ---------------------------------------------------------------- names, modules, descriptions


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu", torch.nn.GELU()),
        ("silu", torch.nn.SiLU()),
        ("mish", torch.nn.Mish()),
        ("selu", torch.nn.SELU()),
        ("hardswish", torch.nn.Hardswish()),
    ],
)
def test_what_no_guarantee_covers_is_refused_with_its_slopes(name: str, function: torch.nn.Module) -> None:
    s = torch.linspace(-12, 12, 400_001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(function(s).sum(), s)
    lower, upper = REFUSED[name]
    # The numbers in the message are the true extremes, rounded outwards or at most in the last digit shown.
    assert lower == pytest.approx(float(slope.min()), abs=2e-5)
    assert upper == pytest.approx(float(slope.max()), abs=2e-5)
    for attempt in (
        lambda: activation(name),
        lambda: activation(name.upper()),
        lambda: from_module(function),
    ):
        with pytest.raises(ActivationError) as caught:
            attempt()
        assert f"[{lower:g}, {upper:g}]" in str(caught.value)
        assert "relu" in str(caught.value)
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, EquilipError)
    assert isinstance(caught.value, ValueError)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ActivationError, match=r"unknown activation 'swish2'.*relu.*tanh"):
        activation("swish2")
    assert isinstance(refuse("GroupSort"), ActivationError)
    with pytest.raises(InputError, match="bogus"):
        activation("relu", bogus=1.0)


@pytest.mark.parametrize("slope", [-0.1, 1.5, math.nan, -math.inf])
def test_leaky_relu_outside_the_unit_interval(slope: float) -> None:
    with pytest.raises(ActivationError, match="negative slope"):
        LeakyReLU(slope)


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.5, math.nan])
def test_elu_outside_the_unit_interval(alpha: float) -> None:
    with pytest.raises(ActivationError, match="alpha"):
        ELU(alpha)


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, -1.0), (math.nan, 1.0)])
def test_hardtanh_with_no_interval(bounds: tuple[float, float]) -> None:
    with pytest.raises(ActivationError, match="lower < upper"):
        HardTanh(*bounds)


@pytest.mark.parametrize(
    ("module", "sigma"),
    [
        (torch.nn.ReLU(), ReLU()),
        (torch.nn.ReLU(inplace=True), ReLU()),
        (torch.nn.LeakyReLU(0.2), LeakyReLU(0.2)),
        (torch.nn.ReLU6(), HardTanh(0.0, 6.0)),
        (torch.nn.Hardtanh(-2.0, 0.5), HardTanh(-2.0, 0.5)),
        (torch.nn.ELU(0.7), ELU(0.7)),
        (torch.nn.Tanh(), Tanh()),
        (torch.nn.Sigmoid(), Sigmoid()),
        (torch.nn.Softplus(), Softplus()),
        (torch.nn.Identity(), Identity()),
    ],
    ids=repr,
)
def test_modules_of_torch(module: torch.nn.Module, sigma: Activation) -> None:
    assert from_module(module) == sigma
    # Not beyond 20, where torch's softplus is the identity by decree.
    s = torch.linspace(-20, 20, 101, dtype=torch.float64)
    assert torch.allclose(sigma.value(s), module(s.clone()), rtol=1e-15, atol=1e-300)


@pytest.mark.parametrize(
    "module",
    [torch.nn.LeakyReLU(2.0), torch.nn.ELU(3.0), torch.nn.Softsign(), torch.nn.Linear(2, 2), torch.nn.PReLU()],
    ids=repr,
)
def test_modules_that_stand_for_no_activation(module: torch.nn.Module) -> None:
    with pytest.raises(ActivationError):
        from_module(module)


@pytest.mark.parametrize("sigma", [*PLAIN, mixed(), LeakyReLU(0.1 + 2**-50), HardTanh(-1e-300, 3.7e222)], ids=repr)
def test_descriptions_restore_the_very_numbers(sigma: Activation) -> None:
    described = json.loads(json.dumps(describe(sigma, 6)))
    assert sum(block["size"] for block in described) == 6
    assert restore(described) == sigma


@pytest.mark.parametrize(
    "description",
    [
        None,
        7,
        ["relu"],
        [{}],
        [{"kind": "relu"}],
        [{"size": 3}],
        [{"kind": "gelu", "size": 3}],
        [{"kind": "relu", "size": "three"}],
        [{"kind": "relu", "size": None}],
        [{"kind": "relu", "size": -3}],
        [{"kind": "relu", "size": 2.5}],
        [{"kind": "relu", "size": 1e999}],
        [{"kind": "leaky_relu", "size": 3, "negative_slope": 0.5}],
        [{"kind": "leaky_relu", "size": 3, "negative_slope": "0x1p5"}],
        [{"kind": "leaky_relu", "size": 3, "negative_slope": "0x1p99999"}],
        [{"kind": "leaky_relu", "size": 3, "slope": "0x1p-3"}],
        [{"kind": ["relu"], "size": 3}],
        [{"kind": "relu", "size": 10}, {"kind": "tanh", "size": -5}],
    ],
    ids=repr,
)
def test_descriptions_without_sense_are_refused(description: object) -> None:
    with pytest.raises(FormatError):
        restore(description)  # type: ignore[arg-type]
