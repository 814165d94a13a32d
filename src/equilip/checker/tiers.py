"""Multi-tier monotone networks: the form in a file of format equilip.form/2, and the proof that is built into it.

    z = σ(W z + U ξ + b),   W = I - X,   X_ii = ε I + A_iᵀA_i + K_iᵀK_i + B_iᵀ - B_i,   X_{i+1,i} = 2 A_{i+1}ᵀN_i

with tiers i of hidden images, each half as tall and wide as the one before, rounded up. A_i, B_i, K_i are convolutions
with the kernels in the file, N_i is every second row and column of K_i, or zero where K_i makes no pixels. U is a
convolution of the input into the first tier, and y = C P z + c reads means over blocks of the last.

As B_i - B_iᵀ cancels, and the rows of N_i are rows of K_i or zero,

    vᵀ(X + Xᵀ)v = 2 ε ‖v‖² + 2 Σ (‖A_i v_i‖² + ‖K_i v_i‖² + 2 (A_{i+1} v_{i+1})ᵀ(N_i v_i)) >= 2 ε ‖v‖² + 2 ‖A_0 v_0‖²
                 + 2 Σ ‖A_{i+1} v_{i+1} + N_i v_i‖²,

so that 2 - W - Wᵀ >= 2 ε: there is one equilibrium for every input. For multipliers τ the bound β holds if
τ (X + Xᵀ) - CᵀC/β - τ² U Uᵀ/β >= 0 (mathematics 1.2). The last two have their entries in different tiers, so
c² <= 2 τ ε β and τ² f² <= 2 τ ε β suffice, with c >= ‖C P‖ and f >= ‖U‖. That is what is proved, in rational
arithmetic. For small networks the matrix itself is formed from the definitions above and proved positive definite too,
unless a circular kernel is larger than its image.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import numpy as np

from equilip.checker.convolution import (
    MAX_NEURONS,
    SMALL,
    block_sums,
    correlation,
    dyadic,
    head_square,
    kernel_square,
    parse_claim,
)
from equilip.checker.definite import prove_positive_definite
from equilip.checker.exact import Budget, Exact, Floats
from equilip.checker.files import Record, hexadecimal, natural, parse_ends, record, sequence
from equilip.checker.verdict import Claim, Refused

MAX_TIERS = 16


@dataclass(frozen=True, eq=False)
class TieredForm:
    """What the file holds, checked; hidden: (c, h, w) of every tier. A, B (c, c, k, k), K (c', c, k, k)."""

    hidden: tuple[tuple[int, int, int], ...]
    A: tuple[Floats, ...]
    B: tuple[Floats, ...]
    K: tuple[Floats, ...]
    U: Floats
    C: Floats
    std: Floats | None
    circular: bool
    epsilon: float
    pool: int

    @property
    def wraps(self) -> bool:
        """Whether two numbers of a circular kernel meet at one pixel: their sum need not be a float."""
        kernels = (self.A[-1], self.hidden[-1]), (self.U, self.hidden[0])
        return self.circular and any(kernel.shape[3] > min(shape[1:]) for kernel, shape in kernels)

    @property
    def sizes(self) -> list[int]:
        """How many neurons the tiers have."""
        return [c * h * w for c, h, w in self.hidden]


def parse_tiered(fields: Record, tensors: dict[str, Floats]) -> TieredForm:
    """The form of these tensors and this metadata (its activation and operators)."""
    if set(tensors) - {"mean", "std"} != {"A", "B", "K", "U", "C", "b", "c"} or ("mean" in tensors) != (
        "std" in tensors
    ):
        raise Refused("the tensors are not those of a multi-tier form")
    operators = record(fields["operators"], "operators", {"W", "U", "C", "D"})
    W = record(operators["W"], "W", {"kind", "hidden", "padding", "epsilon"})
    U, C = record(operators["U"], "U", {"kind"}), record(operators["C"], "C", {"kind", "pool"})
    if (W["kind"], U["kind"], C["kind"], operators["D"]) != ("tiers", "first", "last", "zero"):
        raise Refused("the operators are not those of a multi-tier form")
    if W["padding"] not in ("zeros", "circular"):
        raise Refused(f"nothing is known of the padding {W['padding']!a:.80}")
    epsilon = hexadecimal(W["epsilon"], "epsilon")
    if epsilon <= 0.0:
        raise Refused("epsilon must be positive")
    hidden: list[tuple[int, int, int]] = []
    for shape in sequence(W["hidden"], "hidden", 2, MAX_TIERS):
        c, h, w = (natural(size, "a size", MAX_NEURONS) for size in sequence(shape, "a tier", 3, 3))
        if hidden and (h, w) != (-(-hidden[-1][1] // 2), -(-hidden[-1][2] // 2)):
            raise Refused("a tier is not half as tall and wide as the one before")
        hidden.append((c, h, w))
    n = sum(c * h * w for c, h, w in hidden)
    if n > MAX_NEURONS or 0 in (size for shape in hidden for size in shape):
        raise Refused(f"{n} neurons: more than this program checks, or a tier has none")
    channels = [c for c, _, _ in hidden]
    A, B = (kernels(tensors[name], name, [(c, c) for c in channels]) for name in "AB")
    K = kernels(tensors["K"], "K", [(after, before) for before, after in pairwise(channels)])
    k, kernel, head = A[0].shape[-1], tensors["U"], tensors["C"]
    if {B[0].shape[-1], K[0].shape[-1]} != {k}:
        raise Refused("the kernels A, B and K are not of one size")
    if kernel.ndim != 4 or kernel.shape[0] != channels[0] or kernel.shape[2] != kernel.shape[3]:
        raise Refused(f"U has shape {kernel.shape}, which does not fit {channels[0]} channels")
    if kernel.shape[3] % 2 == 0 or 0 in kernel.shape:
        raise Refused(f"U is not a kernel of odd size: {kernel.shape}")
    circular = W["padding"] == "circular"
    if circular and (k - 1 > min(hidden[-1][1:]) or kernel.shape[3] - 1 > min(hidden[0][1:])):
        raise Refused("the kernels are too large for circular images of these sizes")
    pool, (c, h, w) = natural(C["pool"], "pool", 2**16), hidden[-1]
    if not pool or h % pool or w % pool:
        raise Refused("the pooling does not divide the last tier's images")
    pooled = c * (h // pool) * (w // pool)
    p = kernel.shape[1] * hidden[0][1] * hidden[0][2]
    std, _ = parse_ends(fields, tensors, n, p, pooled)
    return TieredForm(tuple(hidden), A, B, K, kernel, head, std, circular, epsilon, pool)


def kernels(joined: Floats, name: str, channels: list[tuple[int, int]]) -> tuple[Floats, ...]:
    """The kernels (c', c, k, k), which the file has one pair of channels after the other: (Σ c' c, k, k), k odd."""
    if joined.ndim != 3 or joined.shape[1] != joined.shape[2] or joined.shape[1] % 2 == 0:
        raise Refused(f"{name} does not hold kernels of odd size: {joined.shape}")
    if len(joined) != sum(after * before for after, before in channels):
        raise Refused(f"{name} has shape {joined.shape}, which does not fit the tiers' channels")
    found, start = [], 0
    for after, before in channels:
        stop = start + after * before
        found.append(joined[start:stop].reshape(after, before, *joined.shape[1:]))
        start = stop
    return tuple(found)


def prove_tiered(form: TieredForm, claims: list[object]) -> tuple[Claim, ...]:
    """All claims, with one budget of work between them; ``Refused`` names the first that is not proved."""
    budget, proved = Budget(), []
    for number, claim in enumerate(claims, 1):
        try:
            proved.append(prove_claim(form, claim, budget))
        except Refused as refusal:
            raise Refused(f"claim {number}: {refusal}") from None
    return tuple(proved)


def prove_claim(form: TieredForm, claim: object, budget: Budget) -> Claim:
    """The claim, proved as the module's text says; ``Refused`` if it is malformed or cannot be proved."""
    units, bound, beta, tau, head = parse_claim(claim, form.std)
    squares = head_square(form.C, form.pool, head, budget), tau * tau * kernel_square(form.U)
    if max(squares) > 2 * tau * Fraction(form.epsilon) * beta:
        raise Refused("the bound is smaller than what the construction proves")
    if sum(form.sizes) + form.C.shape[0] <= SMALL and not form.wraps:
        prove_positive_definite(inequality(form, beta, tau, budget))
    return Claim("lipschitz", "l2", units, bound)


def inequality(form: TieredForm, beta: Fraction, tau: Fraction, budget: Budget) -> Exact:
    """τ (X + Xᵀ) - CᵀC/β - τ² U Uᵀ/β times β pool⁴, from the definitions, exactly."""
    n, sizes = sum(form.sizes), form.sizes
    k, l = form.A[0].shape[3], form.U.shape[3]  # noqa: E741 - as the mathematics has them

    def placed(matrix: Floats, tier: int) -> Exact:
        """A matrix that reads one tier, as one that reads all neurons."""
        start = sum(sizes[:tier])
        return Exact.of(np.pad(matrix, ((0, 0), (start, n - start - matrix.shape[1]))), budget)

    def convolution(kernel: Floats, tier: int, step: int = 1) -> Exact:
        """A_i or K_i; with a step of 2, N_i, whose rows begin where those of the next tier's A do."""
        _, h, w = form.hidden[tier]
        padding = k // 2 if form.circular else (k - 1 if step == 1 else 3 * (k // 2))
        whole = correlation(kernel.astype(np.float64), (h, w), padding, form.circular)
        grow = 2 * padding - k + 1
        rows = whole.reshape(len(kernel), h + grow, w + grow, -1)[:, ::step, ::step]
        return placed(rows.reshape(-1, whole.shape[1]), tier)

    total = dyadic(Fraction(form.epsilon), budget) * Exact.of(np.eye(n), budget)
    for tier, kernel in enumerate(form.A):
        A = convolution(kernel, tier)
        total = total + A.T @ A
        if tier:
            N = convolution(form.K[tier - 1], tier - 1, step=2)
            total = total + A.T @ N + N.T @ A
    for tier, kernel in enumerate(form.K):
        K = convolution(kernel, tier)
        total = total + K.T @ K
    F = placed(correlation(form.U.astype(np.float64), form.hidden[0][1:], l // 2, form.circular).T, 0)
    sums = placed(block_sums(form.hidden[-1], form.pool, 0), len(sizes) - 1)
    read = Exact.of(form.C.astype(np.float64), budget) @ sums
    fourth = Fraction(form.pool**4)
    scaled = dyadic(2 * tau * beta * fourth, budget) * total
    return scaled - read.T @ read - dyadic(tau * tau * fourth, budget) * (F.T @ F)
