"""Upper bounds on the norms of matrices and convolutions, by Gram iteration in 64-bit integers (mathematics 6).

With G = AAᴴ, ‖A‖² = ‖G‖, and G may take A's place: whatever bounds the norm in the end (the Frobenius norm, or the
largest sum of absolute values of a row or column) is worth more after every step. G is divided by a power of two and
rounded before it is squared again, so that no product overflows; what that can take from its norm is added on the way
back.

A convolution on a torus is one small complex matrix at each frequency. Their entries are sums of taps times cosines,
which are computed from integers too; how far the rounded ones can be off is added to the norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from equilip.checker.exact import Budget, Exact
from equilip.checker.verdict import Refused

Integers64 = NDArray[np.int64]

STEPS = 24
FINE = 40  #: binary places of the bounds on the way back
CLOSE = 2.0**-21  #: relative distance to a lower estimate at which no further step is worth while
TILE = 64  #: rows of a matrix that are multiplied at a time
MAX_TABLE = 2**24  #: entries of a table of cosines
MAX_BLOCKS = 2**25  #: entries of all matrices together
PRECISION = 100  #: binary places of the sines and cosines before they are rounded


@dataclass(frozen=True, eq=False)
class Blocks:
    """Matrices A (F, m, c), each within ``doubt`` * 2**exponent in norm of (real + i imag) * 2**exponent.

    ``imag`` is None where they are real. Entries are small enough for :func:`squared`.
    """

    real: Integers64
    imag: Integers64 | None
    exponent: int
    doubt: int


def width(terms: int) -> int:
    """Bits that entries may have for sums of that many products of two of them to stay below 2**62."""
    return (61 - terms.bit_length()) // 2


def rounded(exact: Exact, bits: int) -> tuple[Integers64, int]:
    """Integers of at most 2**bits, and e: each times 2**e is within half of 2**e of the exact number, or equal to it.

    It is equal where e is at most the exact numbers' own exponent.
    """
    drop = exact.bits - bits
    nearest = exact.integers << -drop if drop <= 0 else exact.integers + (1 << drop - 1) >> drop
    return nearest.astype(np.int64), exact.exponent + drop


def matrix(exact: Exact) -> Blocks:
    """One real matrix (m, c), as a block."""
    m, c = exact.integers.shape
    own, exponent = rounded(exact, width(max(m, c)))
    return Blocks(own[None], None, exponent, 0 if exponent <= exact.exponent else math.isqrt(m * c) // 2 + 1)


def convolution(kernel: Exact, torus: tuple[int, int], budget: Budget) -> Blocks:
    """The matrices of the circular convolution with ``kernel`` (m, c, k, l) at the frequencies of a torus.

    A frequency and its opposite have the same norm, so half of them are left out. At the frequency (f, g) the entry is
    Σ kernel[m, c, s, t] exp(2πi (f s / N + g t / M)); where the kernel begins changes none of the norms.
    """
    if not kernel.bits:
        return Blocks(np.zeros((1, 1, 1), dtype=np.int64), None, 0, 0)
    (m, c, k, l), (tall, wide) = kernel.integers.shape, torus  # noqa: E741
    taps, frequencies = k * l, (tall // 2 + 1) * wide
    if frequencies * taps > MAX_TABLE or frequencies * m * c > MAX_BLOCKS:
        raise Refused("a convolution of too many frequencies, taps or channels")
    budget.spend(6 * frequencies * taps * m * c)
    # Taps and cosines have 2 * bits bits each and are multiplied in halves; products of two lower halves are dropped.
    bits = (60 - taps.bit_length()) // 2
    own, exponent = rounded(kernel, 2 * bits)
    around = math.lcm(tall, wide)
    budget.spend(2**10 * around)
    rows = np.outer(np.arange(tall // 2 + 1), np.arange(k)) % tall * (around // tall)
    columns = np.outer(np.arange(wide), np.arange(l)) % wide * (around // wide)
    angle = ((rows[:, None, :, None] + columns[None, :, None, :]) % around).reshape(frequencies, taps)
    flat, mask = own.reshape(m * c, taps), (1 << bits) - 1

    def total(waves: Integers64) -> Integers64:
        high = np.einsum("ft,et->fe", waves >> bits, flat >> bits)
        cross = np.einsum("ft,et->fe", waves >> bits, flat & mask) + np.einsum("ft,et->fe", waves & mask, flat >> bits)
        return (high + (cross >> bits)).reshape(frequencies, m, c)

    real, imag = (total(part[angle]) for part in circle(around, 2 * bits))
    # In units of the taps, each product is off by 1/2 for its tap, 1 for its cosine and 1 for the halves dropped, and
    # the sum by 1 for those that were shifted; real and imaginary parts both.
    doubt = math.isqrt(2 * m * c) * (3 * taps + 2) + 3 * taps + 2
    largest = max(int(np.abs(real).max()), int(np.abs(imag).max()))
    drop = max(0, largest.bit_length() - width(2 * max(m, c)))
    half = (1 << drop) >> 1
    return Blocks(real + half >> drop, imag + half >> drop, exponent + drop, (doubt >> drop) + 2 + math.isqrt(m * c))


def circle(count: int, bits: int) -> tuple[Integers64, Integers64]:
    """2**bits times cos and sin of 2πj/count for j = 0 .. count - 1, each within 1."""
    # Machin: π = 16 arctan(1/5) - 4 arctan(1/239), rounded below the places that are kept.
    places = PRECISION + 20
    turn = 2 * (16 * arctangent(5, places) - 4 * arctangent(239, places))
    found = np.zeros((2, count), dtype=np.int64)
    for j in range(count):
        angle = turn * j // count
        sums, term = [0, 0], 1 << places
        for order in range(1, 200):
            # The terms θ^n / n! go to cos, sin, -cos, -sin in turn.
            sums[(order - 1) % 2] += term if (order - 1) % 4 < 2 else -term
            term = (term * angle >> places) // order
            if not term:
                break
        found[:, j] = [(part >> places - bits - 1) + 1 >> 1 for part in sums]
    return found[0], found[1]


def arctangent(inverse: int, places: int) -> int:
    """2**places times arctan(1 / inverse), within a few units."""
    power = (1 << places) // inverse
    total, order = power, 1
    while power:
        power //= -inverse * inverse
        order += 2
        total += power // order
    return total


def norm_above(blocks: Blocks, budget: Budget) -> Fraction:
    """A number that no norm of the blocks exceeds, within about 1e-6 of the largest where the steps suffice."""
    real, imag = blocks.real, blocks.imag
    if real.shape[1] > real.shape[2]:
        real = np.ascontiguousarray(real.transpose(0, 2, 1))
        imag = None if imag is None else np.ascontiguousarray(imag.transpose(0, 2, 1))
    # What rounding every part of a Gram matrix (m, m) by 1/2 can take from its norm, times 2**FINE: m/2, or m/√2.
    lost = math.isqrt(real.shape[1] ** 2 << 2 * FINE - (2 if imag is None else 1)) + 1
    budget.spend(200 * real.size)
    enough = int(estimate(real, imag) * (1 + CLOSE) * 2**FINE)
    drops = np.zeros((0, len(real)), dtype=np.int64)
    above, history = 0, [[0] * len(real)] * 2
    for step in range(STEPS + 1):
        sizes = zip(squares(real, imag), row_sums(real, imag), drops.T.tolist(), strict=True)
        uppers = [back(min(math.isqrt(s << 2 * FINE) + 1, most << FINE), drop, lost) for s, most, drop in sizes]
        # Two steps that gain nothing are the last: what is left is what rounding takes.
        left = [
            block
            for block, upper in enumerate(uppers)
            if upper > enough and step < STEPS and (step < 2 or upper < history[-2][block] * (1 - CLOSE))
        ]
        above = max([above, *(upper for block, upper in enumerate(uppers) if block not in set(left))])
        if not left:
            break
        history = [[past[block] for block in left] for past in (history[-1], uppers)]
        real, imag, dropped = squared(real[left], None if imag is None else imag[left], budget)
        drops = np.vstack([drops[:, left], dropped])
    return Fraction(above + (blocks.doubt << FINE)) * Fraction(2) ** (blocks.exponent - FINE)


def estimate(real: Integers64, imag: Integers64 | None) -> float:
    """About the largest norm, by power iteration in floating point: it only decides which blocks take further steps."""
    A = real.astype(np.float64) if imag is None else real + 1j * imag
    v = np.random.default_rng(0).normal(size=(len(A), A.shape[2], 1)) + 0.0j
    size = np.zeros(1)
    for _ in range(50):
        v = v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300)
        image = A @ v
        size = np.linalg.norm(image, axis=1)
        v = A.conj().transpose(0, 2, 1) @ image
    largest = float(size.max())
    return largest if math.isfinite(largest) else 0.0


def squared(
    real: Integers64, imag: Integers64 | None, budget: Budget
) -> tuple[Integers64, Integers64 | None, Integers64]:
    """AAᴴ divided by a power of two and rounded, and which: (F, m, m) twice, (F,)."""
    blocks, m, c = real.shape
    budget.spend((1 if imag is None else 4) * blocks * m * m * c)
    first, second = product(real, real), None
    if imag is not None:
        first, cross = first + product(imag, imag), product(imag, real)
        second = cross - cross.transpose(0, 2, 1)
    largest = np.abs(first).max(axis=(1, 2))
    if second is not None:
        largest = np.maximum(largest, np.abs(second).max(axis=(1, 2)))
    bits = width(2 * m)
    drop = np.array([max(0, int(size).bit_length() - bits) for size in largest], dtype=np.int64)
    half = ((1 << drop) >> 1)[:, None, None]
    shift = drop[:, None, None]
    return first + half >> shift, None if second is None else second + half >> shift, drop


def product(left: Integers64, right: Integers64) -> Integers64:
    """A Bᵀ of every two blocks, (F, m, c) each; of A Aᵀ the lower half only, by tiles that stay near the processor."""
    if left is not right or left.shape[1] <= 2 * TILE:
        return np.einsum("fik,fjk->fij", left, right)
    blocks, m, _ = left.shape
    result = np.empty((blocks, m, m), dtype=np.int64)
    for i in range(0, m, TILE):
        for j in range(0, i + 1, TILE):
            tile = np.einsum("fik,fjk->fij", left[:, i : i + TILE], left[:, j : j + TILE])
            result[:, i : i + TILE, j : j + TILE] = tile
            result[:, j : j + TILE, i : i + TILE] = tile.transpose(0, 2, 1)
    return result


def squares(real: Integers64, imag: Integers64 | None) -> list[int]:
    """Sums of the squares of the entries of every block."""
    totals = [0] * len(real)
    for part in (real,) if imag is None else (real, imag):
        # Squares are below 2**61: their halves are added up apart, so that no sum overflows.
        square = part * part
        high, low = (square >> 31).sum(axis=(1, 2)), (square & (1 << 31) - 1).sum(axis=(1, 2))
        totals = [total + (int(a) << 31) + int(b) for total, a, b in zip(totals, high, low, strict=True)]
    return totals


def row_sums(real: Integers64, imag: Integers64 | None) -> list[int]:
    """The largest sum of absolute values over a row or a column of every block: no norm is larger."""
    size = np.abs(real) if imag is None else np.abs(real) + np.abs(imag)
    return [int(most) for most in np.maximum(size.sum(axis=1).max(axis=1), size.sum(axis=2).max(axis=1))]


def back(bound: int, drops: list[int], lost: int) -> int:
    """A bound on ‖A‖ from one on what the steps made of it, all times 2**FINE: ‖A‖² <= 2**drop (‖next‖ + lost)."""
    for drop in reversed(drops):
        bound = math.isqrt(bound + lost << drop + FINE) + 1
    return bound
