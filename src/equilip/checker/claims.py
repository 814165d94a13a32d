"""What each kind of claim needs proved: one function for each, in the table at the end.

A function gets the form and the claim's fields, and returns the claim only when it is proved.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from equilip.checker.exact import Budget, Exact, Floats
from equilip.checker.files import Form, Record, hexadecimal, record, sequence
from equilip.checker.quadratic import gram_above, prove_form, squares_above
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


def positive(entries: object, what: str, count: int) -> NDArray[np.float64]:
    """``count`` positive floats."""
    numbers = [hexadecimal(entry, f"an entry of {what}") for entry in sequence(entries, what, count, count)]
    if not all(number > 0.0 for number in numbers):
        raise Refused(f"{what}: every entry must be positive")
    return np.array(numbers, dtype=np.float64)


def stated(fields: Record) -> tuple[bool, float]:
    """Whether the claim is in raw units, and its bound, after checking that it says what claims of slopes say."""
    if fields["units"] not in ("standardised", "raw"):
        raise Refused("the claim's units are neither standardised nor raw")
    if fields["well_posed"] is not True:
        raise Refused("the claim does not say that the network is well posed")
    bound = hexadecimal(fields["bound"], "bound")
    if bound <= 0.0:
        raise Refused("the bound must be positive")
    return fields["units"] == "raw", bound


def lipschitz_l2(form: Form, fields: Record, budget: Budget) -> Claim:
    """For every input there is exactly one equilibrium, and ‖y(x) - y(x')‖₂ <= bound ‖x - x'‖₂.

    The form F of :func:`prove_form` with ρ = bound² and S ξ = ξ, or the difference of raw inputs.
    """
    record(fields, "the claim", {"kind", "norm", "units", "bound", "slopes", "multipliers", "well_posed"})
    raw, bound = stated(fields)
    multipliers = positive(fields["multipliers"], "multipliers", form.W.shape[0])
    slopes = neuron_slopes(form, fields["slopes"])
    rho = Exact.of(np.array([[bound]]), budget) * Exact.of(np.array([[bound]]), budget)
    K = gram_above(form.U, form.D, form.std if raw else None, budget)
    prove_form(form.W, form.C, K, rho, multipliers, slopes, budget)
    return Claim("lipschitz", "l2", str(fields["units"]), bound)


def lipschitz_linf(form: Form, fields: Record, budget: Budget) -> Claim:
    """For every input there is exactly one equilibrium, and |y_i(x) - y_i(x')| <= bound max_j |x_j - x'_j| for all i.

    Raw inputs that differ by at most 1 make ξ_j differ by at most s_j = 1/std_j; s_j = 1 in standardised units.
    Every output is proved in one of two ways. Its entry of ``rows`` has multipliers λ and weights v: the form F of
    :func:`prove_form` for this output alone with ρ = 1, S = diag(v), so that Δy_i² <= Σ v_j² ξ_j² <= Σ v_j² s_j². Or
    it is null: then ``comparison`` has w > 0 with w - u M w >= u |U| s and > 0, where M is the diagonal of W and
    the absolute values off it. So 1 - uM is an M-matrix; there is one equilibrium (a contraction in the norm of
    weights w), |z| <= w for the differences, entry by entry, and |Δy_i| <= Σ |C_ij| w_j + Σ |D_ij| s_j.
    """
    record(fields, "the claim", {"kind", "norm", "units", "bound", "slopes", "comparison", "rows", "well_posed"})
    raw, bound = stated(fields)
    n, q, p = form.W.shape[0], form.C.shape[0], form.U.shape[1]
    slopes = neuron_slopes(form, fields["slopes"])
    rows = sequence(fields["rows"], "rows", q, q)
    squared = Exact.of(np.array([[bound]]), budget) * Exact.of(np.array([[bound]]), budget)
    std = form.std if raw else None
    for index, entry in enumerate(rows):
        if entry is None:
            continue
        row = record(entry, "a row", {"multipliers", "weights"})
        multipliers = positive(row["multipliers"], "multipliers", n)
        weights = positive(row["weights"], "weights", p)
        exact = Exact.of(weights[None, :], budget)
        sizes = exact * exact if std is None else exact * exact * squares_above(std, budget)
        at_most(total(sizes), squared, f"the weights of row {index}")
        C, D = form.C[index : index + 1], form.D[index : index + 1]
        one = Exact.of(np.ones((1, 1)), budget)
        prove_form(form.W, C, gram_above(form.U, D, weights, budget), one, multipliers, slopes, budget)
    if fields["comparison"] is not None:
        weight = positive(fields["comparison"], "comparison", n)
        compared = [index for index, entry in enumerate(rows) if entry is None]
        prove_comparison(form, weight, slopes[1], inverse_above(std, p, budget), compared, bound, budget)
    elif any(entry is None for entry in rows):
        raise Refused("an output has neither a row nor a comparison that proves it")
    return Claim("lipschitz", "linf", str(fields["units"]), bound)


def prove_comparison(
    form: Form, weight: NDArray[np.float64], slope: Floats, s: Exact, outputs: list[int], bound: float, budget: Budget
) -> None:
    """The inequalities of the comparison matrix for s (p, 1), and the bound of these outputs; ``Refused`` if not."""
    W = np.abs(form.W)
    np.fill_diagonal(W, np.diagonal(form.W))
    w, u = Exact.of(weight[:, None], budget), Exact.of(slope[:, None], budget)
    slack = w - u * (Exact.of(W, budget) @ w)
    if not (slack.integers > 0).all():
        raise Refused("the comparison matrix is not an M-matrix for these weights")
    if not ((slack - u * (Exact.of(np.abs(form.U), budget) @ s)).integers >= 0).all():
        raise Refused("the comparison does not bound how far the neurons move")
    C, D = (Exact.of(np.abs(part[outputs]), budget) for part in (form.C, form.D))
    if outputs:
        at_most(C @ w + D @ s, Exact.of(np.array([[bound]]), budget), "the comparison")


def inverse_above(std: Floats | None, p: int, budget: Budget) -> Exact:
    """Dyadic numbers s_j >= 1/std_j, (p, 1), less than 2⁻⁶⁰ above; 1 where there is no std."""
    if std is None:
        return Exact.of(np.ones((p, 1)), budget)
    exact = Exact.of(std[:, None], budget)
    places = exact.bits + 60
    return Exact(-(-(1 << places) // exact.integers), -places - exact.exponent, budget)


def total(row: Exact) -> Exact:
    """The sum of a row (1, p), (1, 1)."""
    return Exact(np.array([[sum(row.integers[0].tolist())]], dtype=object), row.exponent, row.budget)


def at_most(numbers: Exact, limit: Exact, what: str) -> None:
    """``Refused`` where some number exceeds the limit."""
    if not ((limit - numbers).integers >= 0).all():
        raise Refused(f"{what} gives more than the bound claimed")


def monotone_l1(form: Form, fields: Record, budget: Budget) -> Claim:
    """For every input there is one equilibrium; y_k never falls (rises) where x_j grows and S_kj = 1 (-1).

    ``directions`` is S (q, p), β the bound. With D' = D - β S for D, it is proved that no output k moves by more than
    β times the move of input j where S_kj is not 0. So the slope of y_k is β S_kj and something of at most β. As a
    standardisation divides by positive numbers, units do not matter. Inputs and outputs of which nothing is claimed are
    left out. Either ``comparison`` has a row v > 0 for every output left, with vᵀ(1 - u M) > 0 and >= |C_k|, M as in
    :func:`lipschitz_linf`. So 1 - uM is an M-matrix; there is one equilibrium; and as (1 - uM) |z| <= u |U| |ξ| for
    the differences, |C_k| |z| <= vᵀ(1 - uM) |z| <= vᵀ u |U| |ξ|. Then Σ v_i u_i |U_ij| + |D'_kj| <= β has to hold for
    every claimed pair. Or ``multipliers`` prove F of :func:`prove_form` for ρ = β²: ‖y'‖₂ <= β ‖ξ‖₂, where no output
    exceeds the norm on the left, and the one on the right is the move where one input alone moves.
    """
    keys = {"kind", "norm", "units", "bound", "slopes", "directions", "comparison", "multipliers", "well_posed"}
    record(fields, "the claim", keys)
    _, bound = stated(fields)
    n, q, p = form.W.shape[0], form.C.shape[0], form.U.shape[1]
    slopes = neuron_slopes(form, fields["slopes"])
    rows = [sequence(row, "a row of directions", p, p) for row in sequence(fields["directions"], "directions", q, q)]
    if not all(type(entry) is int and -1 <= entry <= 1 for row in rows for entry in row):
        raise Refused("a direction is neither 1, 0 nor -1")
    S = np.array(rows, dtype=np.int64)
    if not S.any():
        raise Refused("the claim is about no input")
    if (fields["comparison"] is None) == (fields["multipliers"] is None):
        raise Refused("the claim needs a comparison or multipliers, and not both")
    outputs, inputs = np.flatnonzero(S.any(axis=1)), np.flatnonzero(S.any(axis=0))
    S, U, C = S[np.ix_(outputs, inputs)], form.U[:, inputs], form.C[outputs]
    beta = Exact.of(np.array([[bound]]), budget)
    rest = Exact.of(form.D[np.ix_(outputs, inputs)], budget) - beta * Exact.of(S.astype(np.float64), budget)
    if fields["multipliers"] is not None:
        D = rest.floats()
        if (Exact.of(D, budget) - rest).bits:
            raise Refused("the feed-through less the bound is not a matrix of floats, as this proof needs it")
        multipliers = positive(fields["multipliers"], "multipliers", n)
        prove_form(form.W, C, gram_above(U, D, None, budget), beta * beta, multipliers, slopes, budget)
    else:
        entries = sequence(fields["comparison"], "comparison", len(outputs), len(outputs))
        v = Exact.of(np.array([positive(row, "comparison", n) for row in entries]), budget)
        u = Exact.of(slopes[1][None, :], budget)
        W = np.abs(form.W)
        np.fill_diagonal(W, np.diagonal(form.W))
        slack = v - (v * u) @ Exact.of(W, budget)
        if not (slack.integers > 0).all():
            raise Refused("the comparison matrix is not an M-matrix for these weights")
        if not ((slack - Exact.of(np.abs(C), budget)).integers >= 0).all():
            raise Refused("the comparison does not bound how far the outputs read")
        moved = (v * u) @ Exact.of(np.abs(U), budget)
        at_most(
            Exact(moved.integers * (S != 0), moved.exponent, budget)
            + Exact(np.abs(rest.integers) * (S != 0), rest.exponent, budget),
            beta,
            "the comparison",
        )
    found = tuple(tuple(int(str(entry)) for entry in row) for row in rows)
    return Claim("monotone", "l1", str(fields["units"]), bound, found)


#: Kind and norm of a claim -> its proof.
PROOFS: dict[tuple[str, str], Proof] = {
    ("monotone", "l1"): monotone_l1,
    ("lipschitz", "l2"): lipschitz_l2,
    ("lipschitz", "linf"): lipschitz_linf,
}


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
