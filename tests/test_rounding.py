"""Floating-point facts: nothing indefinite is ever accepted, and little else is refused."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.rounding import (
    UNIT_ROUNDOFF,
    down,
    gamma,
    up,
    upper_sum,
    verified_positive_definite,
    well_posedness_margin,
)


def exactly_positive_definite(matrix: list[list[Fraction]]) -> bool:
    """Rational LDL': the slow truth."""
    a = [row[:] for row in matrix]
    n = len(a)
    for k in range(n):
        if a[k][k] <= 0:
            return False
        for i in range(k + 1, n):
            factor = a[i][k] / a[k][k]
            if factor:
                for j in range(k + 1, n):
                    a[i][j] -= factor * a[k][j]
    return True


def fractions(matrix: np.ndarray) -> list[list[Fraction]]:
    return [[Fraction(float(x)) for x in row] for row in matrix]


def near_singular(rng: np.random.Generator, n: int, relative: float, spread: float) -> np.ndarray:
    orthogonal = np.linalg.qr(rng.standard_normal((n, n)))[0]
    eigenvalues = np.concatenate([[relative], rng.uniform(0.1, 1.0, n - 1)])
    matrix = orthogonal * eigenvalues @ orthogonal.T
    scale = np.exp(rng.uniform(-spread, spread, n))
    matrix = scale[:, None] * matrix * scale[None, :]
    return (matrix + matrix.T) / 2


def test_gamma_is_an_upper_bound() -> None:
    u = Fraction(1, 2**53)
    for k in (0, 1, 2, 10, 1000, 10**6, 10**12):
        exact = k * u / (1 - k * u)
        assert Fraction(gamma(k)) >= exact
        assert gamma(k) <= float(exact) * (1 + 1e-14)
    assert gamma(2**53) == math.inf
    with pytest.raises(ValueError, match="-1"):
        gamma(-1)


def test_up_and_down_are_strict_for_numbers_and_arrays() -> None:
    assert down(1.0) < 1.0 < up(1.0)
    assert up(1.0) == 1.0 + 2 * UNIT_ROUNDOFF
    x = np.array([-1.0, 0.0, 3.5])
    assert (up(x) > x).all()
    assert (down(x) < x).all()


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1e100), min_size=1, max_size=40))
def test_upper_sum_is_an_upper_bound(values: list[float]) -> None:
    assert Fraction(float(upper_sum(np.array(values)))) >= sum(map(Fraction, values))


def test_near_singular_matrices_agree_with_exact_rationals() -> None:
    rng = np.random.default_rng(20261120)
    accepted = refused_wrongly = 0
    for trial in range(240):
        n = int(rng.integers(2, 11))
        relative = float(rng.choice([-1.0, 1.0])) * 10.0 ** rng.uniform(-17, -11)
        matrix = near_singular(rng, n, relative, spread=float(rng.choice([0.0, 3.0, 12.0])))
        truth = exactly_positive_definite(fractions(matrix))
        claimed = verified_positive_definite(matrix)
        assert truth or not claimed, f"unsound acceptance in trial {trial}"
        accepted += claimed
        refused_wrongly += truth and not claimed and relative > 1e-13
    assert accepted > 50
    assert refused_wrongly == 0


def test_exactly_singular_matrices_are_never_accepted() -> None:
    rng = np.random.default_rng(7)
    completed = 0
    for _ in range(300):
        n = int(rng.integers(2, 90))
        half = rng.integers(-999, 1000, (n, n - 1)).astype(np.float64)
        matrix = half @ half.T  # integers below 2**53: exact, and of rank n - 1
        assert not verified_positive_definite(matrix)
        # A factorisation that merely runs to its end would often say yes.
        try:
            np.linalg.cholesky(matrix)
            completed += 1
        except np.linalg.LinAlgError:
            pass
    assert completed > 100


@pytest.mark.parametrize("n", [2, 10, 100])
def test_the_backward_error_of_the_factorisation_is_accounted_for(n: int) -> None:
    # The smallest eigenvalue of 1 1' + d I is d. What a factorisation may hide is gamma(n + 1) times the trace.
    hidden = gamma(n + 1) * n
    assert not verified_positive_definite(np.ones((n, n)) + 0.9 * hidden * np.eye(n))
    assert verified_positive_definite(np.ones((n, n)) + 8.0 * hidden * np.eye(n))


def test_the_perturbation_is_accounted_for() -> None:
    rng = np.random.default_rng(1)
    accepted = 0
    for _ in range(200):
        n = int(rng.integers(1, 7))
        matrix = near_singular(rng, n, 10.0 ** rng.uniform(-9, -5), spread=2.0)
        radius = np.abs(matrix) * 10.0 ** rng.uniform(-10, -5) + 10.0 ** rng.uniform(-14, -9)
        radius = np.maximum(radius, radius.T)
        if not verified_positive_definite(matrix, radius):
            continue
        accepted += 1
        eigenvector = np.linalg.eigh(matrix)[1][:, 0]
        worst = -np.outer(np.sign(eigenvector), np.sign(eigenvector))
        for signs in (worst, np.sign(rng.standard_normal((n, n))), -np.eye(n)):
            signs = np.triu(signs) + np.triu(signs, 1).T
            moved = [
                [Fraction(float(matrix[i, j])) + Fraction(float(radius[i, j] * signs[i, j])) for j in range(n)]
                for i in range(n)
            ]
            assert exactly_positive_definite(moved)
    assert accepted > 40


@pytest.mark.parametrize("n", [50, 200])
def test_large_matrices_with_room_are_accepted(n: int) -> None:
    matrix = near_singular(np.random.default_rng(n), n, 1e-9, spread=5.0)
    assert verified_positive_definite(matrix)
    assert not verified_positive_definite(near_singular(np.random.default_rng(n), n, -1e-9, spread=5.0))


def test_unusable_matrices_are_refused() -> None:
    assert verified_positive_definite(np.zeros((0, 0)))
    assert verified_positive_definite(np.array([[5e-324]]))  # scaling by powers of two is exact
    assert verified_positive_definite(np.array([[1e-300]]))
    assert verified_positive_definite(np.array([[1e300]]))
    assert not verified_positive_definite(np.array([[0.0]]))
    assert not verified_positive_definite(np.array([[1.0, 1.0], [1.0, 1.0]]))
    assert not verified_positive_definite(np.array([[1.0, np.nan], [np.nan, 1.0]]))
    assert not verified_positive_definite(np.array([[np.inf]]))
    assert not verified_positive_definite(np.eye(2), np.full((2, 2), np.inf))
    assert not verified_positive_definite(np.array([[1e-300, 1e300], [1e300, 1e-300]]))
    with pytest.raises(ValueError, match="symmetric"):
        verified_positive_definite(np.array([[1.0, 0.5], [0.25, 1.0]]))
    with pytest.raises(ValueError, match="float32"):
        verified_positive_definite(np.eye(2, dtype=np.float32))  # type: ignore[arg-type]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    n=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1e-8, 0.1, 1.0, 3.0, 1e6]),
    spread=st.sampled_from([0.0, 2.0, 20.0]),
)
def test_well_posedness_margin_holds_exactly(n: int, seed: int, scale: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    lam = np.exp(rng.uniform(-spread, spread, n))
    V = rng.standard_normal((n, n))
    skew = rng.standard_normal((n, n))
    W = np.eye(n) - scale * (V.T @ V + 0.1 * np.eye(n) + skew - skew.T) / lam[:, None]
    margin = well_posedness_margin(W, lam)
    wf, lf, mf = fractions(W), [Fraction(float(x)) for x in lam], Fraction(margin)
    matrix = [
        [(2 * lf[i] * (1 - mf) if i == j else 0) - lf[i] * wf[i][j] - lf[j] * wf[j][i] for j in range(n)]
        for i in range(n)
    ]
    if margin == 0.0:
        # Only where rounding W itself may have left no margin.
        assert scale * math.exp(-spread) < 1e-5 or scale * math.exp(spread) > 1e12
        return
    assert exactly_positive_definite(matrix)
    root = np.sqrt(lam)
    weighted = root[:, None] * W / root[None, :]
    true = 1.0 - np.linalg.eigvalsh((weighted + weighted.T) / 2)[-1]
    assert margin <= true + 1e-10 * max(1.0, np.linalg.norm(weighted, 2))
    assert margin >= 0.4 * true - 1e-10 * max(1.0, np.linalg.norm(weighted, 2))
    if np.linalg.norm(weighted, 2) < 1e3:
        assert margin == pytest.approx(true, rel=1e-6, abs=1e-9)


def test_no_margin_is_claimed_where_there_is_none() -> None:
    assert well_posedness_margin(np.eye(3), np.ones(3)) == 0.0
    assert well_posedness_margin(2 * np.eye(3), np.ones(3)) == 0.0
    assert well_posedness_margin(np.zeros((2, 2)), np.array([1.0, 0.0])) == 0.0
    assert well_posedness_margin(np.zeros((2, 2)), np.array([1.0, np.nan])) == 0.0
    assert well_posedness_margin(np.full((2, 2), np.inf), np.ones(2)) == 0.0
    assert well_posedness_margin(np.zeros((2, 2)), np.ones(2)) == pytest.approx(1.0)
    assert well_posedness_margin(np.array([[0.0, 1e200], [0.0, 0.0]]), np.array([1e200, 1.0])) == 0.0
    with pytest.raises(ValueError, match="2 multipliers"):
        well_posedness_margin(np.zeros((3, 3)), np.ones(2))
