"""The largest slope: exact where it can be known, attained by its pair, and never above what is proved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from attack_networks import dense_newton, equilibrium_form, linear, randn, standardised, steepest_pattern
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip import interop, nn
from equilip.activations import Activation, LeakyReLU, ReLU, Sigmoid, Tanh
from equilip.attack import LargestSlope, Target, largest_slope
from equilip.attack.jacobian import Linearised
from equilip.attack.patterns import Extremes, State, climb
from equilip.certify import lipschitz
from equilip.errors import InputError
from equilip.form import Form

REFERENCE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "lben"

#: kind, gamma, the largest slope that its authors found, and the bound that was proved; lmt is for raw inputs.
PUBLISHED = {
    "mnist_fc_lip0.5_w80.params": ("lben-fc", 0.5, 0.458, 0.48206),
    "mnist_fc_lip1.0_w80.params": ("lben-fc", 1.0, 0.865, 0.91582),
    "mnist_fc_lip5.0_w80.params": ("lben-fc", 5.0, 2.912, 3.12257),
    "mnist_mon_w80.params": ("mondeq-fc", None, 7.752, 8.75240),
    "mnist_ode_w80.params": ("lben-ode-fc", None, 9.800, 11.76374),
    "mnist_lmt_c10_w80.mat": ("lmt-fc", None, 32.42, 33.96050),
    "mnist_lmt_c100_w80.mat": ("lmt-fc", None, 24.87, 25.50244),
    "cifar_fc_lip1.0_w80.params": ("lben-fc", 1.0, 0.745, 0.7926),
}


def attained(form: Form, found: LargestSlope) -> None:
    """The pairs give the values, with a solver that shares nothing with the library's."""
    for pair, value, raw in ((found.pair, found.value, False), (found.pair_raw, found.value_raw, True)):
        y = dense_newton(form.to(torch.float64), pair)
        ends = pair if raw else form.to(torch.float64).standardise(pair)
        assert float((y[0] - y[1]).norm() / (ends[0] - ends[1]).norm()) == pytest.approx(value, rel=1e-5)


def test_a_linear_network_has_one_slope() -> None:
    form = linear(4)
    exact = float(torch.linalg.matrix_norm(form.D.dense(), 2))
    found = largest_slope(form)
    assert found.value == pytest.approx(exact, rel=1e-9)
    assert found.value <= exact
    assert found.value_raw == found.value
    assert found.form_sha256 == form.sha256


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("through", [False, True])
def test_the_steepest_of_all_patterns_is_found(seed: int, through: bool) -> None:
    # More inputs than neurons, so that every pattern occurs at some input.
    form = equilibrium_form(7, 9, 3, seed, through=through)
    exact = steepest_pattern(form)
    found = largest_slope(form, starts=16)
    assert found.value == pytest.approx(exact, rel=1e-6)
    attained(form, found)


@settings(deadline=None, derandomize=True, max_examples=6)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 12),
    p=st.integers(1, 6),
    q=st.integers(1, 4),
    single=st.booleans(),
    uniform=st.booleans(),
    sigma=st.sampled_from((ReLU(), LeakyReLU(0.2), Tanh(), Sigmoid())),
)
def test_no_slope_beats_a_proved_bound(
    seed: int, n: int, p: int, q: int, single: bool, uniform: bool, sigma: Activation
) -> None:
    form = standardised(equilibrium_form(n, p, q, seed, activation=sigma), seed, uniform=uniform)
    form = form.to(torch.float32) if single else form
    bound = lipschitz(form)
    found = largest_slope(Target.of(form, multipliers=bound.multipliers), starts=8, rounds=2, seed=seed)
    assert 0 < found.value <= bound.value
    assert 0 < found.value_raw <= bound.value_raw
    assert not found.contradicts(bound)
    assert found.contradicts(replace(bound, value=found.value * 0.999))
    assert found.contradicts(replace(bound, value_raw=found.value_raw * 0.999))


def test_smooth_networks_are_climbed_too() -> None:
    form = replace(equilibrium_form(6, 8, 3, 3, activation=Tanh()), lam=None)
    found = largest_slope(form, starts=16)
    # Slopes of tanh reach 1 at one point only, where all neurons can be at once.
    assert found.value >= 0.97 * float(Linearised.of(form, raw=False).steepest(torch.ones(1, 6).double())[0])


def test_deep_networks_where_patterns_need_not_occur() -> None:
    model = nn.FeedForward(6, (8, 8), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bound = lipschitz(model)
    points = 5 * randn(1, 2000, 6)
    J = torch.func.vmap(torch.func.jacrev(lambda v: model(v[None])[0]))(points)
    sampled = float(torch.linalg.matrix_norm(J.detach(), 2).max())
    found = largest_slope(model, points)
    assert 0.98 * sampled <= found.value <= bound.value


def test_slopes_repeat_and_do_not_touch_the_model() -> None:
    model = nn.LBEN(6, 8, 3, 2.0, generator=torch.Generator().manual_seed(0)).train()
    x = randn(2, 20, 6).float()
    one, two = (largest_slope(model, x, starts=8, seed=4) for _ in range(2))
    assert one.value == two.value
    assert torch.equal(one.pair, two.pair)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_updates_are_exact() -> None:
    form = equilibrium_form(9, 11, 4, 5, through=True)
    linearised = Linearised.of(form, raw=False)
    extremes = Extremes.of(form.activation, 9)
    slopes = (torch.rand(6, 9, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    state = State.of(linearised, slopes.clone())
    rows, neuron = torch.arange(6), torch.tensor([0, 3, 3, 5, 8, 1])
    other = 1 - slopes[rows, neuron]
    before, gains = state.squared_norms(1 - slopes)
    state.move(rows, neuron, other)
    fresh = State.of(linearised, state.slopes)
    for name in ("K", "H", "P"):
        assert torch.allclose(getattr(state, name), getattr(fresh, name), rtol=1e-9, atol=1e-11)
    after, _ = fresh.squared_norms(1 - fresh.slopes)
    assert torch.allclose(before.sqrt(), linearised.steepest(slopes)[0])
    assert (gains[rows, neuron] <= after * (1 + 1e-9)).all()
    final, norms = climb(linearised, slopes, extremes, 100)
    assert (norms >= before.sqrt()).all()
    assert torch.allclose(norms, linearised.steepest(final)[0])


def test_unusable_arguments_are_named() -> None:
    with pytest.raises(InputError, match="at least one start"):
        largest_slope(linear(2), starts=0)
    with pytest.raises(InputError, match="NaN"):
        largest_slope(linear(2), torch.full((2, 6), torch.nan))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name: str) -> None:
    kind, gamma, theirs, proved = PUBLISHED[name]
    if not (REFERENCE / name).exists():
        pytest.skip(f"the published weights {REFERENCE / name} are not here")
    model = interop.load(REFERENCE / name, kind, gamma=gamma)
    found = largest_slope(model, starts=16, rounds=4)
    assert theirs < found.value < proved
    assert found.seconds < 30
