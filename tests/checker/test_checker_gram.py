"""Norms by Gram iteration in integers: never below the norm, hardly above it, whatever the numbers are like."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from equilip.checker import gram
from equilip.checker.exact import Budget, Exact
from equilip.checker.verdict import Refused


def exact(numbers: NDArray[np.floating]) -> Exact:
    return Exact.of(numbers, Budget())


def of_matrix(A: NDArray[np.floating]) -> float:
    return float(gram.norm_above(gram.matrix(exact(A)), Budget()))


def of_convolution(K: NDArray[np.floating], torus: tuple[int, int]) -> float:
    return float(gram.norm_above(gram.convolution(exact(K), torus, Budget()), Budget()))


def circular(K: NDArray[np.floating], torus: tuple[int, int]) -> NDArray[np.float64]:
    """The convolution as a matrix, from its definition."""
    m, c, k, l = K.shape  # noqa: E741
    h, w = torus
    A = np.zeros((m, h, w, c, h, w))
    for i, j, s, t in np.ndindex(h, w, k, l):
        A[:, i, j, :, (i + s) % h, (j + t) % w] += K[:, :, s, t]
    return A.reshape(m * h * w, c * h * w)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 30, 97])
@pytest.mark.parametrize("bits", [5, 20, 30])
def test_cosines_are_within_one_unit(count: int, bits: int) -> None:
    cosine, sine = gram.circle(count, bits)
    angle = 2 * math.pi * np.arange(count) / count
    assert np.abs(cosine - 2.0**bits * np.cos(angle)).max() < 0.51
    assert np.abs(sine - 2.0**bits * np.sin(angle)).max() < 0.51


def test_cosines_of_many_digits_follow_from_each_other() -> None:
    """Powers of the first root of unity, in integers of 58 bits, where float64 has no say."""
    bits, count = 58, 60
    cosine, sine = (part.tolist() for part in gram.circle(count, bits))
    real, imag = 1 << 200, 0
    for j in range(count):
        assert abs(real - (cosine[j] << 200 - bits)) <= (j + 2) << 200 - bits
        assert abs(imag - (sine[j] << 200 - bits)) <= (j + 2) << 200 - bits
        real, imag = (real * cosine[1] - imag * sine[1] >> bits), (real * sine[1] + imag * cosine[1] >> bits)
    assert abs(real - (1 << 200)) <= (count + 2) << 200 - bits


def test_matrices() -> None:
    rng = np.random.default_rng(0)
    for number in range(200):
        m, c = rng.integers(1, 12, 2)
        A = rng.normal(0, 1, (m, c)) * 10.0 ** rng.uniform(-8, 8)
        if number % 4 == 1:
            A = np.outer(A[:, 0], A[0])
        elif number % 4 == 2:
            A[rng.integers(m)] = 0.0
            A[:, rng.integers(c)] *= 1e-8
        elif number % 4 == 3:
            A = np.linalg.qr(rng.normal(0, 1, (m + c, c)))[0]
        norm = float(np.linalg.norm(A, 2))
        found = of_matrix(A.astype(np.float32 if number % 2 else np.float64))
        assert norm * (1 - 1e-7) <= found <= norm * (1 + 3e-6) + 1e-300, number


@pytest.mark.parametrize(("m", "c"), [(129, 200), (150, 140), (300, 130)])
def test_matrices_that_are_multiplied_in_tiles(m: int, c: int) -> None:
    rng = np.random.default_rng(m)
    A = rng.normal(0, 1, (m, c))
    integers = rng.integers(-(2**20), 2**20, (2, m, c))
    assert np.array_equal(gram.product(integers, integers), gram.product(integers, integers.copy()))
    for own in (A, np.linalg.qr(A)[0], A.astype(np.float32)):
        norm = float(np.linalg.norm(own.astype(np.float64), 2))
        assert norm * (1 - 1e-13) <= of_matrix(own) <= norm * (1 + 2e-5)


def test_convolutions() -> None:
    rng = np.random.default_rng(1)
    for number in range(120):
        m, c, k = (int(size) for size in rng.integers(1, 4, 3))
        torus = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
        K = rng.normal(0, 1, (m, c, k, k)) * 10.0 ** rng.uniform(-8, 8)
        if number % 3 == 1:
            K[rng.integers(m)] = 0.0
        if number % 3 == 2:
            K[:, :, 0, 0] *= 1e8
        norm = float(np.linalg.norm(circular(K, torus), 2))
        found = of_convolution(K, torus)
        assert norm * (1 - 1e-14) <= found <= norm * (1 + 3e-6), number


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_what_rounding_takes_is_added(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With numbers of a few bits rounding is the rule, and the bound is still one."""
    monkeypatch.setattr(gram, "width", lambda terms: bits)
    rng = np.random.default_rng(bits)
    for number in range(150):
        m, c = rng.integers(1, 5, 2)
        A = rng.normal(0, 1, (m, c)) if number % 3 else np.linalg.qr(rng.normal(0, 1, (m + c, c)))[0]
        assert of_matrix(A) >= np.linalg.norm(A, 2) * (1 - 1e-14)
        K = rng.normal(0, 1, (m, c, 2, 2))
        assert of_convolution(K, (3, 3)) >= np.linalg.norm(circular(K, (3, 3)), 2) * (1 - 1e-14)
        # The steps alone: integers, so that nothing but the steps rounds.
        real = rng.integers(-(2**bits), 2**bits + 1, (1, m, m))
        found = gram.norm_above(gram.Blocks(real, None, 0, 0), Budget())
        assert float(found) >= np.linalg.norm(real[0].astype(np.float64), 2) * (1 - 1e-14)


def test_it_is_never_below_the_norm_known_exactly() -> None:
    """Integers with a norm that is a square root: the bound is compared in fractions."""
    for entries, square in (([[3, 4], [-4, 3]], 25), ([[1, 1], [1, 1]], 4), ([[2, 0], [0, 1]], 4), ([[1, 2, 2]], 9)):
        A = np.array(entries, dtype=np.float64)
        for scale in (1.0, 2.0**-300, 2.0**300, 1.0 + 2.0**-52, 1 / 3):
            found = gram.norm_above(gram.matrix(exact(A * scale)), Budget())
            biggest = Fraction(float(np.abs(A * scale).max())) / Fraction(float(np.abs(A).max()))
            assert found**2 >= square * biggest**2 * (1 - Fraction(1, 2**50))
            assert float(found) <= math.sqrt(square) * scale * (1 + 1e-6)


def test_zeros_and_one_number() -> None:
    assert of_matrix(np.zeros((3, 2))) == 0.0
    assert of_matrix(np.array([[-5.0]])) == 5.0
    assert of_convolution(np.zeros((2, 1, 3, 3)), (4, 4)) == 0.0
    assert of_convolution(np.array([[[[-2.0]]]]), (3, 3)) == pytest.approx(2.0, rel=1e-6)


def test_a_wrong_estimate_costs_time_and_not_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power iteration only says where further steps are worth while."""
    rng = np.random.default_rng(2)
    A, K = rng.normal(0, 1, (9, 5)), rng.normal(0, 1, (2, 3, 3, 3))
    norms = float(np.linalg.norm(A, 2)), float(np.linalg.norm(circular(K, (5, 4)), 2))
    for wrong in (0.0, 1e-3, 1e30):
        monkeypatch.setattr(gram, "estimate", lambda real, imag, wrong=wrong: wrong)
        for found, norm in zip((of_matrix(A), of_convolution(K, (5, 4))), norms, strict=True):
            assert found >= norm * (1 - 1e-14)
            assert wrong == 1e30 or found <= norm * (1 + 1e-6)


def test_work_is_bounded() -> None:
    A = exact(np.random.default_rng(3).normal(0, 1, (200, 200)))
    with pytest.raises(Refused, match="too long"):
        gram.norm_above(gram.matrix(A), Budget(10**6))
    with pytest.raises(Refused, match="too long"):
        gram.convolution(exact(np.ones((4, 4, 3, 3))), (128, 127), Budget(10**6))
    for kernel in (np.ones((70, 70, 1, 1)), np.ones((1, 1, 64, 64))):
        with pytest.raises(Refused, match="too many"):
            gram.convolution(exact(kernel), (128, 128), Budget(2**60))
