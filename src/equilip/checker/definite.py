"""The proof that a symmetric matrix is positive definite (mathematics 10.1, in exact arithmetic)."""

from __future__ import annotations

import numpy as np

from equilip.checker.exact import Exact
from equilip.checker.verdict import Refused

DIGITS = 20  #: binary digits after the point of the proposed factor


def prove_positive_definite(matrix: Exact) -> None:
    """Return only if the symmetric ``matrix`` is positive definite; raise ``Refused`` otherwise.

    For any square X: if R = X A Xᵀ is strictly diagonally dominant with a positive diagonal, R is positive
    definite (Gershgorin). Then X is nonsingular, for Xᵀv = 0 gives vᵀRv = 0, hence v = 0; and so
    A = X⁻¹ R X⁻ᵀ is positive definite. All of R is computed exactly. X is only a proposal: an inverse
    Cholesky factor in floating point, rounded. A bad one can make the proof fail, never succeed wrongly.
    """
    budget, diagonal = matrix.budget, np.diagonal(matrix.integers)
    if not (matrix.integers == matrix.integers.T).all():
        raise Refused("the matrix is not symmetric")  # would be a mistake of this program
    if not (diagonal > 0).all():
        raise Refused("not positive definite: a diagonal entry is not positive")
    # Scale rows and columns by powers of two, A -> S A S, until the diagonal entries are within a factor of
    # four: exact, a congruence, and it makes the floating-point proposal good where scales differ widely.
    half = np.array([int(entry).bit_length() // 2 for entry in diagonal], dtype=object)
    up = half.max() - half
    scaled = Exact(matrix.shifted(up[:, None] + up[None, :]), 0, budget)
    top = int(np.diagonal(scaled.integers).max()).bit_length()
    if scaled.bits > top:  # |a_ij| >= 2**top > both a_ii and a_jj
        raise Refused("not positive definite: a two by two minor is not positive")
    try:
        factor = np.linalg.cholesky(np.ldexp((scaled.integers << 64 >> top).astype(np.float64), -64))
        proposal = np.rint(np.ldexp(np.tril(np.linalg.inv(factor)), DIGITS))
    except np.linalg.LinAlgError:
        raise Refused("not positive definite, or too nearly singular to tell") from None
    if not (np.abs(proposal) < 2.0**62).all():  # also where it is NaN
        raise Refused("too nearly singular to be proved positive definite")
    X = Exact(proposal.astype(np.int64).astype(object), 0, budget)
    R = (X @ scaled @ X.T).integers
    # A row is dominant if its diagonal entry exceeds the sum of the other entries' absolute values.
    if not (2 * np.diagonal(R) > np.abs(R).sum(axis=1)).all():
        raise Refused("too nearly singular to be proved positive definite")
