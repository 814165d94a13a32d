"""Convolutional networks: the form in a file of format equilip.form/2, and the proof that is built into it.

    W = I - Λ⁻¹ X,   X = ε I + AᵀA + Bᵀ - B + (CᵀC + K)/(2γ),   y = C z + c

A, B and the input layer are convolutions, C is a matrix after average pooling, and K is made from the input layer's own
kernel; there is one U and one C in the file, so they cannot be others than those in W. F = ΛU. Zero padding: A is the
full convolution, K = G V Vᵀ G with V the convolution without padding, of which F = G V E is a part (E puts zeros
around, EᵀE = 1, so K >= F Fᵀ); G is 1 for a weighted input layer, U = Λ⁻¹ conv, and Λ for a plain one. Circular
padding: K = F Fᵀ. Without gamma the terms with γ are absent.

As B - Bᵀ cancels in X + Xᵀ, P = 2Λ - ΛW - WᵀΛ = 2 ε I + 2 AᵀA + (CᵀC + K)/γ >= 2 ε I: with λ > 0 and ε > 0 there is
one equilibrium for every input (mathematics 1.1). For multipliers τΛ the bound β holds (1.2) if

    τ P - CᵀC/β - τ² F Fᵀ/β >= 2 τ ε + (τ/γ - 1/β) CᵀC + (τ/γ - τ²/β) F Fᵀ >= 0,

for which max(0, γ - τβ) c² + max(0, τ²γ - τβ) f² <= 2 τ ε β γ suffices, with c >= ‖C‖ and f >= ‖F‖; τ = 1 and β = γ
need neither. That is what is proved here, in rational arithmetic. For small networks the matrix itself is formed, in
exact integers and from the definitions above, and proved positive definite too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from equilip.checker.definite import prove_positive_definite
from equilip.checker.exact import Budget, Exact, Floats
from equilip.checker.files import (
    Record,
    hexadecimal,
    natural,
    parse_ends,
    record,
    sequence,
)
from equilip.checker.verdict import Claim, Refused

#: Up to this many neurons and outputs the matrix is formed as well.
SMALL = 128
MAX_NEURONS = 2**24


@dataclass(frozen=True, eq=False)
class ConvolutionalForm:
    """What the file holds, checked; lam (c or 1, h or 1, w or 1), hidden (c, h, w)."""

    hidden: tuple[int, int, int]
    lam: Floats
    A: Floats
    B: Floats
    U: Floats
    C: Floats
    std: Floats | None
    circular: bool
    weighted: bool
    epsilon: float
    gamma: float | None
    pool: int
    pool_padding: int


def parse_convolutional(fields: Record, tensors: dict[str, Floats]) -> ConvolutionalForm:
    """The form of these tensors and this metadata (its activation and operators)."""
    if set(tensors) - {"mean", "std"} != {"A", "B", "U", "C", "lam", "b", "c"} or ("mean" in tensors) != (
        "std" in tensors
    ):
        raise Refused("the tensors are not those of a convolutional form")
    operators = record(fields["operators"], "operators", {"W", "U", "C", "D"})
    W = record(operators["W"], "W", {"kind", "hidden", "padding", "epsilon", "gamma"})
    U, C = record(operators["U"], "U", {"kind"}), record(operators["C"], "C", {"kind", "pool", "padding"})
    kinds = (W["kind"], C["kind"], operators["D"])
    if kinds != ("convolutional", "pooled", "zero") or U["kind"] not in ("weighted", "plain"):
        raise Refused(f"nothing is known of operators of kinds {(*kinds, U['kind'])!a:.200}")
    if W["padding"] not in ("zeros", "circular"):
        raise Refused(f"nothing is known of the padding {W['padding']!a:.80}")
    sizes = [natural(size, "a size", MAX_NEURONS) for size in sequence(W["hidden"], "hidden", 3, 3)]
    c, h, w = sizes
    n = c * h * w
    if not 0 < n <= MAX_NEURONS:
        raise Refused(f"{n} neurons: more than this program checks, or none")
    epsilon = hexadecimal(W["epsilon"], "epsilon")
    gamma = None if W["gamma"] is None else hexadecimal(W["gamma"], "gamma")
    if epsilon <= 0.0 or (gamma is not None and gamma <= 0.0):
        raise Refused("epsilon and gamma must be positive")
    lam, A, B, kernel, head = (tensors[name] for name in ("lam", "A", "B", "U", "C"))
    if lam.ndim != 3 or any(own not in (1, size) for own, size in zip(lam.shape, sizes, strict=True)):
        raise Refused(f"lam has shape {lam.shape}, which does not fit hidden images of {tuple(sizes)}")
    if not (lam > 0).all():
        raise Refused("the multipliers lam are not all positive")
    for name, tensor, channels in (("A", A, c), ("B", B, c), ("U", kernel, None)):
        if tensor.ndim != 4 or tensor.shape[2] != tensor.shape[3] or tensor.shape[3] % 2 == 0 or 0 in tensor.shape:
            raise Refused(f"{name} is not a kernel of odd size: {tensor.shape}")
        if channels not in (None, tensor.shape[1]) or (name != "A" and tensor.shape[0] != c):
            raise Refused(f"{name} has shape {tensor.shape}, which does not fit {c} channels")
        if W["padding"] == "circular" and tensor.shape[3] - 1 > min(h, w):
            raise Refused(f"{name} is too large for a circular image of {h} x {w}")
    pool, padding = natural(C["pool"], "pool", 2**16), natural(C["padding"], "padding", 2**16)
    if not padding < pool or (h + 2 * padding) % pool or (w + 2 * padding) % pool:
        raise Refused("the pooling does not divide the hidden images")
    pooled = c * ((h + 2 * padding) // pool) * ((w + 2 * padding) // pool)
    p = kernel.shape[1] * h * w
    std, _ = parse_ends(fields, tensors, n, p, pooled)
    return ConvolutionalForm(
        (c, h, w), lam, A, B, kernel, head, std,
        W["padding"] == "circular", U["kind"] == "weighted", epsilon, gamma, pool, padding,
    )  # fmt: skip


def prove_constructed(form: ConvolutionalForm, claim: object, budget: Budget) -> Claim:
    """The claim, proved as the module's text says; ``Refused`` if it is malformed or cannot be proved."""
    units, bound, beta, tau, head = parse_claim(claim, form.std)
    epsilon = Fraction(form.epsilon)
    if form.gamma is None:
        of_head, of_input, slack = Fraction(1), tau * tau, 2 * tau * epsilon * beta
    else:
        gamma = Fraction(form.gamma)
        of_head, of_input = max(Fraction(0), gamma - tau * beta), max(Fraction(0), tau * tau * gamma - tau * beta)
        slack = 2 * tau * epsilon * beta * gamma
    squares = Fraction(0)
    if of_head:
        squares += of_head * head_square(form.C, form.pool, head, budget)
    if of_input:
        largest = Fraction(1) if form.weighted else Fraction(float(form.lam.max()))
        squares += of_input * largest**2 * kernel_square(form.U)
    if squares > slack:
        raise Refused("the bound is smaller than what the construction proves")
    if form.hidden[0] * form.hidden[1] * form.hidden[2] + form.C.shape[0] <= SMALL:
        prove_positive_definite(inequality(form, beta, tau, budget))
    return Claim("lipschitz", "l2", units, bound)


def parse_claim(claim: object, std: Floats | None) -> tuple[str, float, Fraction, Fraction, object]:
    """Units, bound, β in standardised units, τ, and c² as it is stated."""
    fields = record(claim, "the claim", {"kind", "norm", "units", "bound", "scale", "head", "well_posed"})
    if (fields["kind"], fields["norm"]) != ("lipschitz", "l2") or fields["well_posed"] is not True:
        raise Refused("only l2 Lipschitz bounds of well-posed networks are proved of convolutional forms")
    if fields["units"] not in ("standardised", "raw"):
        raise Refused("the claim's units are neither standardised nor raw")
    bound, scale = hexadecimal(fields["bound"], "bound"), hexadecimal(fields["scale"], "scale")
    if bound <= 0.0 or scale <= 0.0:
        raise Refused("the bound and the scale must be positive")
    beta = Fraction(bound)
    if fields["units"] == "raw" and std is not None:
        beta *= Fraction(float(std.min()))  # ‖ξ - ξ'‖ <= ‖x - x'‖ / min std
    return str(fields["units"]), bound, beta, Fraction(scale), fields["head"]


def head_square(C: Floats, pool: int, stated: object, budget: Budget) -> Fraction:
    """The claimed c² once it is proved: pooling has P Pᵀ <= 1/pool², so pool² c² I - C Cᵀ > 0 is enough."""
    square = hexadecimal(stated, "head")
    exact = Exact.of(C, budget)
    limit = Exact.of(np.diag(np.full(len(C), square)), budget) * Exact.of(np.array([[float(pool**2)]]), budget)
    prove_positive_definite(limit - exact @ exact.T)
    return Fraction(square)


def kernel_square(kernel: Floats) -> Fraction:
    """f² >= the square of the convolution's norm: the largest sums of absolute values by output times by input."""
    sums = [[sum(map(Fraction, np.abs(taps).ravel().tolist())) for taps in row] for row in kernel.astype(np.float64)]
    rows = max(sum(row, Fraction(0)) for row in sums)
    columns = max(sum(column, Fraction(0)) for column in zip(*sums, strict=True))
    return rows * columns


def inequality(form: ConvolutionalForm, beta: Fraction, tau: Fraction, budget: Budget) -> Exact:
    """τ P - CᵀC/β - τ² F Fᵀ/β times β γ pool⁴ (γ = 1 where there is none), from the definitions, exactly."""
    c, h, w = form.hidden
    n, k = c * h * w, form.U.shape[3]

    def matrix(kernel: Floats, size: tuple[int, int], padding: int, circular: bool = form.circular) -> Exact:
        return Exact.of(correlation(kernel.astype(np.float64), size, padding, circular), budget)

    a = form.A.shape[3]
    A = matrix(form.A, (h, w), a // 2 if form.circular else a - 1)
    F = matrix(form.U, (h, w), k // 2)
    V = F if form.circular else matrix(form.U, (h + k - 1, w + k - 1), 0)
    if not form.weighted:
        lam = Exact.of(np.broadcast_to(form.lam.astype(np.float64), form.hidden).reshape(n, 1), budget)
        F, V = lam * F, lam * V
    sums = block_sums(form.hidden, form.pool, form.pool_padding)
    read = Exact.of(form.C.astype(np.float64), budget) @ Exact.of(sums, budget)
    square, fourth = read.T @ read, Fraction(form.pool**4)
    gamma = Fraction(1) if form.gamma is None else Fraction(form.gamma)
    identity = Exact.of(np.eye(n), budget)
    total = dyadic(Fraction(form.epsilon), budget) * identity + A.T @ A
    total = dyadic(2 * tau * beta * gamma * fourth, budget) * total
    total = total - dyadic(tau * tau * gamma * fourth, budget) * (F @ F.T) - dyadic(gamma, budget) * square
    if form.gamma is not None:
        total = total + dyadic(tau * beta, budget) * square + dyadic(tau * beta * fourth, budget) * (V @ V.T)
    return total


def dyadic(value: Fraction, budget: Budget) -> Exact:
    """A fraction whose denominator is a power of two."""
    return Exact(np.array([[value.numerator]], dtype=object), 1 - value.denominator.bit_length(), budget)


def correlation(kernel: Floats, size: tuple[int, int], padding: int, circular: bool) -> Floats:
    """The matrix of y[o, i, j] = Σ kernel[o, c, s, t] x[c, i + s - padding, j + t - padding]."""
    outputs, channels, k, _ = kernel.shape
    h, w = size
    tall, wide = h + 2 * padding - k + 1, w + 2 * padding - k + 1
    result = np.zeros((outputs, tall, wide, channels, h, w))
    for i, j, s, t in np.ndindex(tall, wide, k, k):
        row, column = i + s - padding, j + t - padding
        if circular:
            row, column = row % h, column % w
        if 0 <= row < h and 0 <= column < w:
            if result[:, i, j, :, row, column].any():
                raise Refused("a circular kernel wraps onto itself")
            result[:, i, j, :, row, column] = kernel[:, :, s, t]
    return result.reshape(outputs * tall * wide, channels * h * w)


def block_sums(hidden: tuple[int, int, int], pool: int, padding: int) -> Floats:
    """The matrix that sums over the pixels of each block: pool² times the average pooling."""
    c, h, w = hidden
    tall, wide = (h + 2 * padding) // pool, (w + 2 * padding) // pool
    result = np.zeros((c, tall, wide, c, h, w))
    for channel, row, column in np.ndindex(c, h, w):
        result[channel, (row + padding) // pool, (column + padding) // pool, channel, row, column] = 1.0
    return result.reshape(c * tall * wide, c * h * w)


def prove_convolutional(form: ConvolutionalForm, claims: list[object]) -> tuple[Claim, ...]:
    """All claims, with one budget of work between them; ``Refused`` names the first that is not proved."""
    budget, proved = Budget(), []
    for number, claim in enumerate(claims, 1):
        try:
            proved.append(prove_constructed(form, claim, budget))
        except Refused as refusal:
            raise Refused(f"claim {number}: {refusal}") from None
    return tuple(proved)
