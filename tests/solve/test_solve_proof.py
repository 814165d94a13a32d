"""The proven error: an upper bound for any point whatever, infinite without a proof, and close to the truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solve_problems import (
    ACTIVATIONS,
    acyclic_matrix,
    bank,
    condition,
    contraction_matrix,
    distance,
    equilibria,
    lben_matrix,
    make,
    problem,
    tensor,
    truth,
    with_activation,
)

from equilip.activations import Activation, ReLU, Tanh
from equilip.form import Form, Standardisation, dense
from equilip.solve import ForwardBackward, PeacemanRachford, Prover, Settings, equilibrium

F64 = torch.float64
checked = settings(deadline=None, derandomize=True, max_examples=25)


def random_form(kind: str, n: int, seed: int, scale: float) -> tuple[Form, torch.Tensor]:
    rng = np.random.default_rng(seed)
    if kind == "lben":
        spread, skew, epsilon = rng.uniform(0, 2), rng.uniform(0, 4), 10 ** rng.uniform(-2, 0)
        W, lam = lben_matrix(rng, n, spread=spread, skew=skew, epsilon=epsilon)
        return make(W, lam=lam, seed=seed % 100, scale=scale, batch=3)
    W = contraction_matrix(rng, n) if kind == "contraction" else acyclic_matrix(rng, n)
    return make(W, seed=seed % 100, scale=scale, batch=3)


@checked
@given(
    kind=st.sampled_from(["lben", "contraction", "acyclic"]),
    n=st.integers(1, 8),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-100, 1e-8, 1.0, 1e8, 1e100]),
    away=st.sampled_from([0.0, 1e-15, 1e-9, 1e-3, 1.0, 1e3, 1e12]),
    sigma=st.sampled_from(ACTIVATIONS),
)
def test_no_point_is_further_away_than_its_error(
    kind: str, n: int, seed: int, scale: float, away: float, sigma: Activation
) -> None:
    """For garbage, for near misses and for the equilibrium itself, rounded to float64."""
    form, x = random_form(kind, n, seed, scale)
    form = with_activation(form, sigma)
    reference = equilibria(form, x)
    z = tensor(reference.astype(np.float64))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    z = z + away * (z.norm(dim=1, keepdim=True) + scale) * noise
    error = Prover(form).error(x, z).numpy()
    true = distance(z, reference)
    assert (true <= error).all()
    if kind == "lben":
        # As tight as the conditioning allows, until rounding takes over.
        terms = (1 + form.W.dense().norm()) * z.norm(dim=1) + form.U.dense().norm() * x.norm(dim=1) + form.b.norm()
        residual = (form.step(z, form.bias(x)) - z).norm(dim=1)
        assert (error <= 2 * condition(form) * (residual + 1e3 * 2.0**-53 * terms + 1e-290).numpy()).all()


@pytest.mark.parametrize("sigma", [ReLU(), Tanh()], ids=repr)
@pytest.mark.parametrize("name", ["lben of 10, stiff", "lben of 12, skewed", "contracting of 8", "monotone of 15"])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_the_error_holds_long_before_convergence(name: str, sigma: Activation, dtype: torch.dtype) -> None:
    own = problem(name)
    form, x = with_activation(own.form, sigma).to(dtype), own.x.to(dtype)
    reference = truth(name, sigma, dtype)
    errors = []
    for iterations in (1, 3, 10, 30):
        solution = equilibrium(form, x, Settings(PeacemanRachford(), max_iterations=iterations, raise_on_failure=False))
        true = distance(solution.z, reference)
        assert (true <= solution.error.numpy()).all()
        errors.append(float(solution.error.max()))
    assert errors[-1] < errors[0]


def test_the_error_is_small_where_the_solve_is_good() -> None:
    """Nothing absurd: a tight solve of a benign problem is proven good to almost as many digits."""
    for name in ("lben of 3", "lben of 40", "monotone of 15", "contracting of 8", "acyclic of 9", "gentle"):
        own = problem(name)
        solution = equilibrium(own.form, own.x, Settings(tolerance=1e-12))
        assert float((solution.error / solution.z.norm(dim=1)).max()) < 1e-8, name


@pytest.mark.parametrize("own", bank(), ids=lambda p: p.name)
def test_the_error_is_scale_free(own: object) -> None:
    """Doubling the problem doubles the bound (relu is homogeneous), to the last bit or two."""
    form, x = own.form, own.x  # type: ignore[attr-defined]
    z = torch.randn(len(x), form.hidden_size, generator=torch.Generator().manual_seed(1), dtype=F64)
    double = replace(form, b=2 * form.b)
    assert torch.allclose(2 * Prover(form).error(x, z), Prover(double).error(2 * x, 2 * z), rtol=1e-12)


@pytest.mark.parametrize(
    "W",
    [
        [[2.0]],
        [[1.0]],
        [[0.0, 3.0], [3.0, 0.0]],
        [[0.5, 2.0], [1.0, 0.0]],
    ],
)
def test_without_a_proof_the_error_is_infinite(W: list[list[float]]) -> None:
    form, x = make(np.array(W))
    z = torch.zeros(len(x), len(W), dtype=F64)
    assert Prover(form).error(x, z).tolist() == [math.inf] * len(x)
    assert not Prover(form).well_posed
    anyway = Settings(ForwardBackward(0.1), require_well_posed=False, raise_on_failure=False, max_iterations=50)
    solution = equilibrium(form, x, anyway)
    assert solution.error.tolist() == [math.inf] * len(x)


def test_wrong_multipliers_prove_nothing_wrong() -> None:
    """A hint that is no proof is replaced or dropped, never believed."""
    rng = np.random.default_rng(3)
    ill = tensor(2 * np.eye(3) + rng.standard_normal((3, 3)))
    _, x = make(np.zeros((3, 3)))
    for lam in (torch.ones(3), torch.full((3,), 1e8), torch.full((3,), 1e-300)):
        form = dense(
            ill, tensor(np.ones((3, 3))), torch.ones(3, dtype=F64), torch.eye(3, dtype=F64), torch.ones(3).double()
        )
        assert Prover(replace(form, lam=lam.double())).error(x, torch.zeros(len(x), 3, dtype=F64)).isinf().all()
    own = problem("lben of 12, skewed")
    reference = truth(own.name, ReLU(), F64)
    for lam in (torch.ones(12, dtype=F64), 1 / own.form.lam, torch.logspace(-9, 9, 12, dtype=F64)):  # type: ignore[operator]
        error = Prover(replace(own.form, lam=lam)).error(own.x, torch.zeros(len(own.x), 12, dtype=F64))
        assert (distance(torch.zeros(len(own.x), 12), reference) <= error.numpy()).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_what_is_not_finite_has_no_finite_error(value: float) -> None:
    for name in ("lben of 3", "acyclic of 9"):
        own = problem(name)
        z = torch.zeros(len(own.x), own.form.hidden_size, dtype=F64)
        z[1, 0] = value
        error = Prover(own.form).error(own.x, z)
        assert error[1] == math.inf or (value == 1e300 and error[1] > 1e299)
        assert bool(error[[0, 2]].isfinite().all())


def test_no_neurons_and_no_samples() -> None:
    own = problem("no neurons")
    assert Prover(own.form).error(own.x, torch.zeros(len(own.x), 0)).tolist() == pytest.approx([0.0] * len(own.x))
    empty = problem("no samples")
    assert Prover(empty.form).error(empty.x, torch.zeros(0, 5)).shape == (0,)


def test_one_neuron_on_the_edge() -> None:
    """z = relu(w z + b) has z = b / (1 - w), however near w is to 1."""
    for power in range(1, 50, 4):
        w = 1 - 2.0**-power
        form = dense(*(torch.tensor(v, dtype=F64) for v in ([[w]], [[1.0]], [0.0], [[1.0]], [0.0])))
        for at in (0.0, 1.0, 2.0**power * (1 + 2.0**-40), 3.0 * 2.0**power):
            error = Prover(form).error(torch.ones(1, 1, dtype=F64), torch.full((1, 1), at, dtype=F64))
            assert abs(at - 2.0**power) <= float(error)


def test_the_standardisation_counts() -> None:
    """A mean a million times the spread of the inputs: x - mean keeps few digits, and the bound holds."""
    rng = np.random.default_rng(8)
    form, _ = make(*lben_matrix(rng, 5)[:1], lam=None, seed=8)
    units = Standardisation(tensor(1e6 + rng.standard_normal(3)), tensor(np.exp(rng.standard_normal(3))))
    x = tensor(1e6 + rng.standard_normal((4, 3)))
    for dtype in (F64, torch.float32):
        own, inputs = replace(form, standardisation=units).to(dtype), x.to(dtype)
        solution = equilibrium(own, inputs)
        assert (distance(solution.z, equilibria(own, inputs)) <= solution.error.numpy()).all()


def test_the_error_is_computed_when_asked_for_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = Prover.error
    monkeypatch.setattr(Prover, "error", lambda self, x, z: calls.append(1) or original(self, x, z))
    own = problem("lben of 3")
    solution = equilibrium(own.form, own.x)
    assert not calls
    assert solution.error is solution.error
    assert len(calls) == 1
    assert not solution.error.requires_grad
