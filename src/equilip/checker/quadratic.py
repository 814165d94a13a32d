"""The quadratic form on which every claim about slopes rests, proved positive definite in exact arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from equilip.checker.definite import prove_positive_definite
from equilip.checker.exact import Budget, Exact, Floats
from equilip.checker.verdict import Refused


def squares_above(scale: Floats, budget: Budget) -> Exact:
    """Dyadic numbers T_j >= 1/scale_j², (1, p): less than 2⁻⁶⁰ above, relatively; equal for powers of two."""
    exact = Exact.of(scale[None, :], budget)
    places = 2 * exact.bits + 60
    above = -(-(1 << places) // (exact.integers * exact.integers))  # rounded up
    return Exact(above, -places - 2 * exact.exponent, budget)


def gram_above(U: Floats, D: Floats, scale: Floats | None, budget: Budget) -> Exact:
    """K with K - V S⁻² Vᵀ positive semidefinite, V = [U; D], S = diag(scale), the identity where None.

    1/scale_j² need not be dyadic: T_j above it stands in, and V (T - S⁻²) Vᵀ is positive semidefinite.
    """
    above = None if scale is None else squares_above(scale, budget)
    total = None
    for start in range(0, U.shape[1], 1024):  # not all inputs at once: integers take more memory than floats
        part = slice(start, start + 1024)
        V = Exact.of(np.vstack([U[:, part], D[:, part]]), budget)
        weighted = V if above is None else V * Exact(above.integers[:, part], above.exponent, budget)
        product = weighted @ V.T
        total = product if total is None else total + product
    assert total is not None  # there is at least one input
    return total


def prove_form(
    W: Floats,
    C: Floats,
    K: Exact,
    rho: Exact,
    multipliers: NDArray[np.float64],
    slopes: tuple[NDArray[np.float64], NDArray[np.float64]],
    budget: Budget,
) -> None:
    """Return only if F below is proved positive definite; raise ``Refused`` otherwise.

    Differences between two inputs are called z, s = W z + U ξ, ξ and η = -(C z + D ξ), which is minus the
    output's. Slopes in [l, u] mean (z - l s)(z - u s) <= 0 in each neuron (mathematics 0). Define

        F(z, ξ, η) = 2 Σ λ (z - l s)(z - u s) + ρ ‖S ξ‖² + ‖η‖² + 2 ηᵀ(C z + D ξ),   λ > 0,

    a quadratic form in three free vectors. If F is positive definite:

    - For the differences above the sum is <= 0, so 0 <= F <= ρ ‖S ξ‖² - ‖C z + D ξ‖²: a bound on the slope.
    - One equilibrium: with ξ = η = 0, F is the z-block P of mathematics 9.3, so P is positive definite, which
      gives existence and uniqueness (1.1, 9.3). Nothing further is to be proved for "well_posed".

    F is proved positive definite by a lower bound whose ξ-block is ρ S². Write θ = 2 l u λ for the coefficient
    of s²; for any matrix Γ and w = Γ [z; η], θ s² >= θ (2 w s - w²). With this, h = [z; η], V = [U; D],

        F >= hᵀ H h + 2 (J h)ᵀ V ξ + ρ ‖S ξ‖²,     J = diag(-λ (l + u), I) + θ Γ   (rows of θ Γ for η: zero),
        H = diag(2 λ, I) + [0 Cᵀ; C 0] - (λ (l + u) W + its transpose) + (Γᵀ θ W + its transpose) - Γᵀ θ Γ,

    and eliminating ξ leaves ρ H - Jᵀ (V S⁻² Vᵀ) J, of size n + q however many the inputs; K of ``gram_above`` may
    stand in for V S⁻² Vᵀ because that only lowers it. Γ is a proposal: the w that is s at the minimising ξ
    loses nothing. With l = 0, θ is zero and so is every term with Γ: this is the matrix of mathematics 10.2.
    """
    n, q = W.shape[0], C.shape[0]
    lower, upper = slopes

    def exact(floats: NDArray[np.floating]) -> Exact:
        return Exact.of(floats, budget)

    def column(neurons: NDArray[np.float64], outputs: float = 0.0) -> Exact:
        return exact(np.append(neurons, np.full(q, outputs))[:, None])

    def padded(block: NDArray[np.floating]) -> Exact:
        return exact(np.pad(block, ((0, n + q - block.shape[0]), (0, n + q - block.shape[1]))))

    identity, outputs = exact(np.eye(n + q)), column(np.zeros(n), 1.0)
    lam, low, high = column(multipliers), column(lower), column(upper)
    slope, theta = lam * (low + high), (lam + lam) * low * high
    hidden = padded(W)
    corner = np.zeros((n + q, n + q))
    corner[n:, :n] = C
    H = identity * (lam + lam + outputs) + exact(corner) + exact(corner.T) - slope * hidden - (slope * hidden).T
    J = outputs - slope  # diag(-λ (l + u), I), as a column
    if not theta.bits:
        proved = rho * H - J * K * J.T
    else:
        gamma = padded(propose_gamma(n, *(part.floats() for part in (rho, slope, theta, hidden, K))))
        weighted = theta * gamma
        cross = weighted.T @ hidden
        H = H + cross + cross.T - gamma.T @ weighted
        full = identity * J + weighted
        proved = rho * H - full.T @ K @ full
    prove_positive_definite(proved)


def propose_gamma(n: int, *parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Γ with Γ [z; η] = W z + U ξ at the ξ that minimises F, in floating point; nothing rests on it.

    The minimum is at (ρ S² + UᵀθU) ξ = Uᵀ(λ (l + u) - θ W) z - Dᵀη, and U (ρ S² + UᵀθU)⁻¹ Vᵀ is
    (ρ I + K₁₁ θ)⁻¹ [K₁₁ K₁₂] with K = V S⁻² Vᵀ. Thirty digits of each column are kept: the loss is quadratic.
    """
    rho, slope, theta, W, K = parts
    W, K11, K12 = W[:n, :n], K[:n, :n], K[:n, n:]
    right = np.hstack([K11 @ (np.diag(slope[:n, 0]) - theta[:n] * W), -K12])
    try:
        gamma = np.linalg.solve(rho * np.eye(n) + K11 * theta[:n, 0], right)
    except np.linalg.LinAlgError:
        raise Refused("no proposal was found for neurons whose slopes are bounded from below") from None
    gamma[:, :n] += W
    if not np.isfinite(gamma).all():
        raise Refused("the range of magnitudes of the numbers is too large")
    power = np.frexp(np.abs(gamma).max(axis=0))[1] - 30
    return np.ldexp(np.rint(np.ldexp(gamma, -power)), power)
