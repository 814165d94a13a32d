"""Exact arithmetic against fractions, and the proof of positive definiteness against rational LDLᵀ."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from checker_rational import fractions, positive_definite
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from equilip.checker.definite import prove_positive_definite
from equilip.checker.exact import Budget, Exact
from equilip.checker.verdict import Refused

reals = st.floats(-1e30, 1e30, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-30)


def as_fractions(matrix: Exact) -> list[list[Fraction]]:
    return [[Fraction(int(x)) * Fraction(2) ** matrix.exponent for x in row] for row in matrix.integers]


@given(hnp.arrays(np.float64, (3, 4), elements=reals), hnp.arrays(np.float64, (4, 2), elements=reals))
@settings(max_examples=150, deadline=None)
def test_every_operation_is_exact(x: np.ndarray, y: np.ndarray) -> None:
    a, b, c = (Exact.of(part, Budget()) for part in (x, y, x[::-1]))
    fa, fb, fc = fractions(x), fractions(y), fractions(x[::-1])
    assert as_fractions(a) == fa
    assert as_fractions(a - c) == [[s - t for s, t in zip(*rows, strict=True)] for rows in zip(fa, fc, strict=True)]
    assert as_fractions(a * c) == [[s * t for s, t in zip(*rows, strict=True)] for rows in zip(fa, fc, strict=True)]
    columns = list(zip(*fb, strict=True))
    assert as_fractions(a @ b) == [[sum(s * t for s, t in zip(row, col, strict=True)) for col in columns] for row in fa]
    assert a.T.integers.tolist() == [list(column) for column in zip(*a.integers.tolist(), strict=True)]


def test_products_do_not_overflow_at_the_largest_limbs() -> None:
    for inner in (1, 2, 3, 1023, 1024):
        width = (62 - inner.bit_length()) // 2
        for value in (2**width - 1, -(2**width), -(2 ** (3 * width)), 2 ** (3 * width) - 1):
            row = Exact(np.full((1, inner), value, dtype=object), 0, Budget())
            assert (row @ row.T).integers[0, 0] == inner * value**2


def test_extreme_floats_are_exact() -> None:
    tiny = np.array([[5e-324, -2.2250738585072014e-308, 0.0]])
    assert as_fractions(Exact.of(tiny, Budget())) == fractions(tiny)
    huge = np.array([[1.7976931348623157e308, -1e300, 0.0]])
    assert as_fractions(Exact.of(huge, Budget())) == fractions(huge)
    single = np.array([[1e-45, 3.4028235e38, -1.5]], dtype=np.float32)
    assert as_fractions(Exact.of(single, Budget())) == fractions(single)


def test_hostile_magnitudes_are_refused_before_they_are_built() -> None:
    with pytest.raises(Refused, match="range of magnitudes"):
        Exact.of(np.array([1e-308, 1e308]), Budget())
    large, small = (Exact.of(np.array([[x]]), Budget()) for x in (1e300, 1e-300))
    for _ in range(4):
        large, small = large * large, small * small
    with pytest.raises(Refused, match="range of magnitudes"):
        large + small


def test_work_is_refused_before_it_is_done() -> None:
    matrix = Exact.of(np.ones((50, 50)), Budget(50**2 * 200))
    matrix @ matrix
    with pytest.raises(Refused, match="too long"):
        matrix @ matrix


def proved(matrix: np.ndarray) -> bool:
    try:
        prove_positive_definite(Exact.of(matrix, Budget()))
    except Refused:
        return False
    return True


@pytest.mark.parametrize("seed", range(4))
def test_positive_definiteness_agrees_with_rational_ldl_near_singularity(seed: int) -> None:
    """100 matrices per seed, smallest eigenvalues from -1e-8 to 1e-8 of the largest, some scaled wildly."""
    rng = np.random.default_rng([3, seed])
    sound = accepted = true = 0
    for _ in range(100):
        n = int(rng.integers(1, 12))
        Q, _ = np.linalg.qr(rng.normal(size=(n, n)))
        smallest = float(rng.choice([-1, 1])) * 10.0 ** -rng.uniform(8, 17)
        matrix = (Q * np.append(smallest, rng.uniform(0.01, 1, n - 1))) @ Q.T
        scales = 2.0 ** rng.integers(-20, 20, n) if rng.random() < 0.5 else np.ones(n)
        matrix = (matrix + matrix.T) / 2 * scales[:, None] * scales
        truth, verdict = positive_definite(fractions(matrix)), proved(matrix)
        sound += not verdict or truth
        true, accepted = true + truth, accepted + verdict
    assert sound == 100
    assert accepted >= 0.8 * true  # the proof is worth something: it fails only next to singularity


def test_exactly_singular_matrices_are_refused() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        n = int(rng.integers(2, 9))
        factor = rng.integers(-8, 9, (n, n - 1)).astype(np.float64)
        singular = factor @ factor.T
        assert not positive_definite(fractions(singular))
        assert not proved(singular)
        assert proved(singular + np.eye(n))


def test_a_false_proposal_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever floating point proposes, an indefinite matrix is not proved and no exception escapes."""
    rng = np.random.default_rng(5)
    indefinite = np.array([[1.0, 0.9, 0.9], [0.9, 1.0, -0.9], [0.9, -0.9, 1.0]])
    identity = np.eye(3)
    proposals = [rng.normal(size=(3, 3)) for _ in range(200)]
    proposals += [np.zeros((3, 3)), np.full((3, 3), np.nan), np.full((3, 3), np.inf), 1e300 * identity, -identity]
    for proposal in proposals:
        monkeypatch.setattr(np.linalg, "cholesky", lambda matrix: matrix)
        monkeypatch.setattr(np.linalg, "inv", lambda factor, proposal=proposal: proposal)
        assert not proved(indefinite)
    monkeypatch.setattr(np.linalg, "inv", lambda factor: identity)
    assert proved(identity)
    off_diagonal = np.ones((3, 3)) - identity
    assert proved(identity - 0.49 * off_diagonal)
    assert not proved(identity - 0.5 * off_diagonal)  # singular, and the sums of its rows are zero
    assert not proved(identity - 0.51 * off_diagonal)
