"""What each kind of claim needs proved: one function for each, in the table at the end.

A function gets the form and the claim's fields, and returns the claim only when it is proved.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from equilip.checker.definite import prove_positive_definite
from equilip.checker.exact import Budget, Exact
from equilip.checker.files import Form, Record, hexadecimal, record, sequence
from equilip.checker.verdict import Claim, Refused

Proof = Callable[[Form, Record, Budget], Claim]


def neuron_slopes(form: Form, fields: object) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The slopes [l, u] that a claim assumes for each neuron, after checking that they hold the true ones."""
    blocks = form.blocks
    slopes = record(fields, "slopes", {"lower", "upper"})
    lower, upper = (
        [hexadecimal(s, "a slope") for s in sequence(slopes[key], f"slopes.{key}", len(blocks), len(blocks))]
        for key in ("lower", "upper")
    )
    for (_, true_lower, true_upper), assumed_lower, assumed_upper in zip(blocks, lower, upper, strict=True):
        if not 0.0 <= assumed_lower <= true_lower <= true_upper <= assumed_upper <= 1.0:
            raise Refused("the slopes assumed do not hold those of the activation, or leave [0, 1]")
    sizes = np.array([size for size, _, _ in blocks], dtype=np.int64)
    return np.repeat(np.array(lower), sizes), np.repeat(np.array(upper), sizes)


def gram_above(form: Form, raw: bool, budget: Budget) -> Exact:
    """K with K - V S⁻² Vᵀ positive semidefinite, V = [U; D]; S = diag(std) in raw units, else the identity.

    Dyadic numbers T_j >= 1/std_j² stand in for 1/std_j², which is none: V (T - S⁻²) Vᵀ is positive
    semidefinite. T is less than 2⁻⁶⁰ above, relatively, and equal where std_j is a power of two.
    """
    p = form.U.shape[1]
    scale = None
    if raw and form.std is not None:
        std = Exact.of(form.std[None, :], budget)
        places = 2 * std.bits + 60
        above = -(-(1 << places) // (std.integers * std.integers))  # rounded up
        scale = Exact(above, -places - 2 * std.exponent, budget)
    total = None
    for start in range(0, p, 1024):  # not all inputs at once: integers take more memory than floats
        part = slice(start, start + 1024)
        V = Exact.of(np.vstack([form.U[:, part], form.D[:, part]]), budget)
        weighted = V if scale is None else V * Exact(scale.integers[:, part], scale.exponent, budget)
        product = weighted @ V.T
        total = product if total is None else total + product
    assert total is not None  # p is at least 1
    return total


def lipschitz_l2(form: Form, fields: Record, budget: Budget) -> Claim:
    """For every input there is exactly one equilibrium, and ‖y(x) - y(x')‖₂ <= bound ‖x - x'‖₂.

    Differences between two inputs are called z, s = W z + U ξ, ξ and η = -(C z + D ξ), which is minus the
    output's. Slopes in [l, u] mean (z - l s)(z - u s) <= 0 in each neuron (mathematics 0). Define

        F(z, ξ, η) = 2 Σ λ (z - l s)(z - u s) + ρ ‖S ξ‖² + ‖η‖² + 2 ηᵀ(C z + D ξ),   ρ = bound², λ > 0,

    a quadratic form in three free vectors; S ξ is ξ, or the difference of raw inputs. If F is positive definite:

    - The bound holds: for the differences above the sum is <= 0, so 0 <= F <= ρ ‖S ξ‖² - ‖C z + D ξ‖².
    - One equilibrium: with ξ = η = 0, F is the z-block P of mathematics 9.3, so P is positive definite, which
      gives existence and uniqueness (1.1, 9.3). Nothing further is to be proved for "well_posed".

    F is proved positive definite by a lower bound whose ξ-block is ρ S². Write θ = 2 l u λ for the coefficient
    of s²; for any matrix Γ and w = Γ [z; η], θ s² >= θ (2 w s - w²). With this, h = [z; η], V = [U; D],

        F >= hᵀ H h + 2 (J h)ᵀ V ξ + ρ ‖S ξ‖²,     J = diag(-λ (l + u), I) + θ Γ   (rows of θ Γ for η: zero),
        H = diag(2 λ, I) + [0 Cᵀ; C 0] - (λ (l + u) W + its transpose) + (Γᵀ θ W + its transpose) - Γᵀ θ Γ,

    and eliminating ξ leaves ρ H - Jᵀ (V S⁻² Vᵀ) J, of size n + q however many the inputs; ``gram_above`` may
    stand in for V S⁻² Vᵀ because that only lowers it. Γ is a proposal: the w that is s at the minimising ξ
    loses nothing. With l = 0, θ is zero and so is every term with Γ: this is the matrix of mathematics 10.2.
    """
    names = {"kind", "norm", "units", "bound", "slopes", "multipliers", "well_posed"}
    record(fields, "the claim", names)
    if fields["units"] not in ("standardised", "raw"):
        raise Refused("the claim's units are neither standardised nor raw")
    if fields["well_posed"] is not True:
        raise Refused("the claim does not say that the network is well posed")
    n, q = form.W.shape[0], form.C.shape[0]
    bound = hexadecimal(fields["bound"], "bound")
    entries = sequence(fields["multipliers"], "multipliers", n, n)
    multipliers = np.array([hexadecimal(entry, "a multiplier") for entry in entries])
    if bound <= 0.0 or not (multipliers > 0.0).all():
        raise Refused("the bound and every multiplier must be positive")
    lower, upper = neuron_slopes(form, fields["slopes"])

    def exact(floats: NDArray[np.floating]) -> Exact:
        return Exact.of(floats, budget)

    def column(neurons: NDArray[np.float64], outputs: float = 0.0) -> Exact:
        return exact(np.append(neurons, np.full(q, outputs))[:, None])

    def padded(block: NDArray[np.floating]) -> Exact:
        return exact(np.pad(block, ((0, n + q - block.shape[0]), (0, n + q - block.shape[1]))))

    identity, outputs = exact(np.eye(n + q)), column(np.zeros(n), 1.0)
    rho = exact(np.array([[bound]])) * exact(np.array([[bound]]))
    lam, low, high = column(multipliers), column(lower), column(upper)
    slope, theta = lam * (low + high), (lam + lam) * low * high
    W, K = padded(form.W), gram_above(form, fields["units"] == "raw", budget)
    corner = np.zeros((n + q, n + q))
    corner[n:, :n] = form.C
    H = identity * (lam + lam + outputs) + exact(corner) + exact(corner.T) - slope * W - (slope * W).T
    J = outputs - slope  # diag(-λ (l + u), I), as a column
    if not theta.bits:
        proved = rho * H - J * K * J.T
    else:
        gamma = padded(propose_gamma(n, *(part.floats() for part in (rho, slope, theta, W, K))))
        weighted = theta * gamma
        cross = weighted.T @ W
        H = H + cross + cross.T - gamma.T @ weighted
        full = identity * J + weighted
        proved = rho * H - full.T @ K @ full
    prove_positive_definite(proved)
    return Claim("lipschitz", "l2", str(fields["units"]), bound)


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


#: Kind and norm of a claim -> its proof.
PROOFS: dict[tuple[str, str], Proof] = {("lipschitz", "l2"): lipschitz_l2}


def prove(form: Form, claim: object, budget: Budget) -> Claim:
    """The claim, proved for this form; ``Refused`` if it is malformed, unknown, or cannot be proved."""
    if not isinstance(claim, dict):
        raise Refused("it is not an object")
    kind, norm = claim.get("kind"), claim.get("norm")
    proof = PROOFS.get((kind, norm)) if isinstance(kind, str) and isinstance(norm, str) else None
    if proof is None:
        raise Refused(f"nothing is known of claims of kind {kind!a:.80} and norm {norm!a:.80}")
    return proof(form, claim, budget)


def prove_all(form: Form, claims: list[object]) -> tuple[Claim, ...]:
    """All claims, proved with one budget of work between them; ``Refused`` names the first that is not."""
    budget, proved = Budget(), []
    for number, claim in enumerate(claims, 1):
        try:
            proved.append(prove(form, claim, budget))
        except Refused as refusal:
            raise Refused(f"claim {number}: {refusal}") from None
    return tuple(proved)
