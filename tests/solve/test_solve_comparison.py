"""Bounds neuron by neuron from the comparison matrix: true of any point, infinite without a proof, and close."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from solve_problems import (
    ACTIVATIONS,
    acyclic_matrix,
    contraction_matrix,
    equilibria,
    lben_matrix,
    make,
    tensor,
    with_activation,
)

from equilip.activations import Activation, ReLU
from equilip.nn import NEMON
from equilip.rounding import comparison_slack
from equilip.solve import Prover
from equilip.solve.comparison import Comparison

F64 = torch.float64
checked = settings(deadline=None, derandomize=True, max_examples=30)


@checked
@given(
    acyclic=st.booleans(),
    n=st.integers(1, 8),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-100, 1e-8, 1.0, 1e8, 1e100]),
    away=st.sampled_from([0.0, 1e-15, 1e-9, 1e-3, 1.0, 1e3, 1e12]),
    sigma=st.sampled_from(ACTIVATIONS),
)
def test_no_neuron_is_further_away_than_its_error(
    acyclic: bool, n: int, seed: int, scale: float, away: float, sigma: Activation
) -> None:
    rng = np.random.default_rng(seed)
    W = acyclic_matrix(rng, n) if acyclic else contraction_matrix(rng, n)
    form, x = make(W, seed=seed % 100, scale=scale, batch=3)
    form = with_activation(form, sigma)
    reference = equilibria(form, x)
    z = tensor(reference.astype(np.float64))
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    z = z + away * (z.norm(dim=1, keepdim=True) + scale) * noise
    error = Prover(form).error_by_neuron(x, z).numpy()
    true = np.abs(z.numpy().astype(np.longdouble) - reference).astype(np.float64)
    assert (true <= error).all()
    assert np.isfinite(error).all()


@checked
@given(seed=st.integers(0, 10_000), n=st.integers(1, 7), near=st.sampled_from([1e-1, 1e-6, 1e-12, 0.0, -1e-12]))
def test_the_slack_is_a_lower_bound_in_exact_arithmetic(seed: int, n: int, near: float) -> None:
    """Also where the true slack is all but zero, which rounding must not turn into more."""
    rng = np.random.default_rng(seed)
    W, weight = rng.standard_normal((n, n)), rng.uniform(0.1, 10.0, n)
    slope = rng.choice([0.25, 1.0], n)
    size = np.abs(W)
    np.fill_diagonal(size, 0.0)
    # The diagonal that makes the slack nearly zero.
    np.fill_diagonal(W, (weight * (1 - near) / slope - size @ weight) / weight)
    slack = comparison_slack(W, weight, slope)
    for i in range(n):
        terms = [abs(Fraction(W[i, j])) * Fraction(weight[j]) for j in range(n) if j != i]
        own = Fraction(W[i, i]) * Fraction(weight[i])
        assert Fraction(float(slack[i])) <= Fraction(weight[i]) - Fraction(slope[i]) * (own + sum(terms))


@checked
@given(seed=st.integers(0, 10_000), n=st.integers(1, 6), close=st.sampled_from([0.5, 1e-4, 1e-10]))
def test_inverses_are_bounded_from_above(seed: int, n: int, close: float) -> None:
    """(I - uM)(bound) >= right in exact arithmetic, up to a measure of W that is all but 1."""
    rng = np.random.default_rng(seed)
    T = rng.standard_normal((n, n))
    W = T + np.diag(1 - close - np.abs(T).sum(1))
    comparison = Comparison.make(W, np.ones(n))
    if comparison is None:
        return
    right = np.abs(rng.standard_normal((2, n)))
    for row, bound in zip(right, comparison.bound(right), strict=True):
        for i in range(n):
            terms = [abs(Fraction(W[i, j])) * Fraction(float(bound[j])) for j in range(n) if j != i]
            left = (1 - Fraction(W[i, i])) * Fraction(float(bound[i])) - sum(terms)
            assert left >= Fraction(float(row[i]))


def test_what_does_not_contract_has_no_bound() -> None:
    W, lam = lben_matrix(np.random.default_rng(0), 20, skew=5.0)
    form, x = make(W, lam=lam)
    assert Comparison.of(form) is None
    assert bool(Prover(form).error_by_neuron(x, torch.zeros(4, 20, dtype=F64)).isinf().all())
    # At the very edge the solve may succeed and the proof must not.
    assert Comparison.make(np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones(2)) is None
    assert Comparison.make(np.array([[1.0]]), np.ones(1)) is None


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_solutions_carry_it(dtype: torch.dtype) -> None:
    model = NEMON(4, 30, 3, m=0.5, dtype=dtype, activation=ReLU(), generator=torch.Generator().manual_seed(0)).eval()
    x = torch.randn(6, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))
    solution = model.solve(x)
    form = model.form().detach()
    true = np.abs(solution.z.detach().double().numpy() - equilibria(form, x).astype(float)).max(1)
    found = solution.error_linf.numpy()
    assert (true <= found).all()
    # Within what the solve asked for, times the conditioning.
    limit = 1e-2 if dtype == torch.float32 else 1e-6
    assert (found <= limit * solution.z.detach().double().norm(dim=1).numpy()).all()
