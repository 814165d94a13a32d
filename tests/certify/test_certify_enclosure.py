"""Every operation on enclosures holds the exact rational result for every matrix inside its operands."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.certify.enclosure import Enclosure, block, inverse

Rational = list[list[Fraction]]


def rational(matrix: np.ndarray) -> Rational:
    return [[Fraction(float(x)) for x in row] for row in matrix]


def inside(rng: np.random.Generator, enclosure: Enclosure) -> Rational:
    """Some exact matrix at the edge of an enclosure."""
    signs = rng.integers(-1, 2, enclosure.shape)
    return [
        [Fraction(float(m)) + int(s) * Fraction(float(r)) for m, s, r in zip(*rows, strict=True)]
        for rows in zip(enclosure.mid, signs, enclosure.rad, strict=True)
    ]


def times(a: Rational, b: Rational) -> Rational:
    return [
        [sum((x * y for x, y in zip(row, column, strict=True)), Fraction()) for column in zip(*b, strict=True)]
        for row in a
    ]


def holds(enclosure: Enclosure, exact: Rational) -> bool:
    return all(
        abs(Fraction(float(m)) - e) <= Fraction(float(r))
        for mids, rads, row in zip(enclosure.mid, enclosure.rad, exact, strict=True)
        for m, r, e in zip(mids, rads, row, strict=True)
    )


def some(rng: np.random.Generator, rows: int, columns: int, width: float) -> Enclosure:
    mid = rng.standard_normal((rows, columns)) * np.exp(rng.uniform(-8, 8, (rows, columns)))
    return Enclosure(mid, np.abs(mid) * width * rng.random((rows, columns)))


@settings(deadline=None, derandomize=True, max_examples=80)
@given(seed=st.integers(0, 2**32 - 1), width=st.sampled_from([0.0, 1e-15, 1e-3]))
def test_arithmetic_encloses_the_exact_result(seed: int, width: float) -> None:
    rng = np.random.default_rng(seed)
    a, b, c = some(rng, 3, 4, width), some(rng, 3, 4, width), some(rng, 4, 2, width)
    ea, eb, ec = inside(rng, a), inside(rng, b), inside(rng, c)
    pairs = [list(zip(x, y, strict=True)) for x, y in zip(ea, eb, strict=True)]
    assert holds(a + b, [[x + y for x, y in row] for row in pairs])
    assert holds(a - b, [[x - y for x, y in row] for row in pairs])
    assert holds(-a, [[-x for x in row] for row in ea])
    assert holds(a @ c, times(ea, ec))
    assert holds(a.T, [list(column) for column in zip(*ea, strict=True)])
    factor = rng.standard_normal(4)
    exact = [Fraction(float(f)) for f in factor]
    assert holds(a * factor, [[x * f for x, f in zip(row, exact, strict=True)] for row in ea])
    assert holds(a / factor, [[x / f for x, f in zip(row, exact, strict=True)] for row in ea])
    assert (a.size >= np.abs(a.mid) + a.rad).all()
    assert block([[a, b]]).shape == (3, 8)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5), width=st.sampled_from([0.0, 1e-14, 1e-4]))
def test_the_inverse_is_enclosed(seed: int, n: int, width: float) -> None:
    rng = np.random.default_rng(seed)
    mid = rng.standard_normal((n, n)) + 2 * np.eye(n)
    matrix = Enclosure(mid, np.abs(mid) * width)
    solved = inverse(matrix)
    if solved is None:
        assert np.linalg.cond(mid) * width > 1e-3
        return
    exact = inside(rng, matrix)
    product = times(exact, rational(np.eye(n)))
    for column in range(n):
        # The exact inverse's column solves exact x = e: eliminate in rationals.
        rows = [[*row, Fraction(int(i == column))] for i, row in enumerate(product)]
        for k in range(n):
            pivot = max(range(k, n), key=lambda i: abs(rows[i][k]))
            rows[k], rows[pivot] = rows[pivot], rows[k]
            rows[k] = [x / rows[k][k] for x in rows[k]]
            for i in range(n):
                if i != k:
                    rows[i] = [x - rows[i][k] * y for x, y in zip(rows[i], rows[k], strict=True)]
        assert holds(solved[:, column : column + 1], [[row[-1]] for row in rows])


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), np.array([[1.0, 1.0], [1.0, 1.0 + 2**-52]])])
def test_no_inverse_is_claimed_for_singular_matrices(matrix: np.ndarray) -> None:
    assert inverse(Enclosure(matrix, np.full((2, 2), 1e-15))) is None


def test_mirrored_is_symmetric_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    mirrored = some(rng, 5, 5, 1e-3).mirrored()
    assert np.array_equal(mirrored.mid, mirrored.mid.T)
    assert np.array_equal(mirrored.rad, mirrored.rad.T)
