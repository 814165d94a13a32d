"""Convolutional networks that contract in a weighted maximum norm: the form in a file of format equilip.form/2.

    z = σ(W z + U ξ + b),   y = C z̄ + c,

W and U are convolutions of the kernels in the file with zero or circular padding, U at every stride-th pixel; z̄ are
means over blocks of pixels, padded zeros counted. Take a weight v_c > 0 for each channel, the same at all its pixels.
Let A_cc' be the sum of the absolute values of W's taps from channel c' to c, but the centre tap of c' = c with its
sign. Every row of W's comparison matrix M (its diagonal, and absolute values off it) applied to v is at most (A v)_c:
zero padding leaves taps out, and circular padding may lead taps to one pixel, which only makes it less. So from

    v_c - u (A v)_c > 0   and   v_c - u (A v)_c >= u Σ |U_c,j| s_j,

with slopes in [0, u] and s_j the most that an input of channel j moves, 1 - uM is an M-matrix, there is one
equilibrium for every input, no neuron of channel c moves by more than v_c, no mean over a block of it either, and
|Δy_i| <= Σ |C_ij| v_channel(j).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from equilip.checker.exact import Budget, Floats
from equilip.checker.files import (
    MAX_INPUTS,
    Record,
    hexadecimal,
    natural,
    parse_ends,
    record,
    sequence,
)
from equilip.checker.verdict import Claim, Refused

MAX_NEURONS = 2**24
#: Numbers of the kernels and of C that are added up one by one.
MAX_NUMBERS = 2**22


@dataclass(frozen=True, eq=False)
class ContractingForm:
    """What the file holds, checked: W (c, c, k, k), U (c, c_in, l, l), C (q, c · blocks)."""

    W: Floats
    U: Floats
    C: Floats
    std: Floats | None
    blocks: tuple[tuple[int, float, float], ...]


def parse_contracting(fields: Record, tensors: dict[str, Floats]) -> ContractingForm:
    """The form of these tensors and this metadata (its activation and operators)."""
    if set(tensors) - {"mean", "std"} != {"W", "U", "C", "b", "c"} or ("mean" in tensors) != ("std" in tensors):
        raise Refused("the tensors are not those of a convolutional form")
    operators = record(fields["operators"], "operators", {"W", "U", "C", "D"})
    W = record(operators["W"], "W", {"kind", "hidden", "padding"})
    U = record(operators["U"], "U", {"kind", "image", "stride"})
    C = record(operators["C"], "C", {"kind", "pool", "padding"})
    if (W["kind"], U["kind"], C["kind"], operators["D"]) != ("contraction", "convolution", "pooled", "zero"):
        raise Refused(f"nothing is known of operators of kinds {(W['kind'], U['kind'], C['kind'])!a:.200}")
    if W["padding"] not in ("zeros", "circular"):
        raise Refused(f"nothing is known of the padding {W['padding']!a:.80}")
    c, h, w = sizes("hidden", W["hidden"])
    inputs, tall, wide = sizes("image", U["image"])
    n, p = c * h * w, inputs * tall * wide
    if n > MAX_NEURONS or p > MAX_INPUTS:
        raise Refused(f"{n} neurons and {p} inputs: more than this program checks")
    stride = natural(U["stride"], "stride", 2**16)
    pool, padding = natural(C["pool"], "pool", 2**16), natural(C["padding"], "padding", 2**16)
    # Odd kernels with padding of half their width see every pixel, so strides alone decide the size.
    if stride < 1 or (h, w) != ((tall - 1) // stride + 1, (wide - 1) // stride + 1):
        raise Refused("the input layer does not make hidden images of that size")
    if not padding < pool or (h + 2 * padding) % pool or (w + 2 * padding) % pool:
        raise Refused("the pooling does not divide the hidden images")
    for name, channels in (("W", c), ("U", inputs)):
        shape = tensors[name].shape
        if len(shape) != 4 or shape[:2] != (c, channels) or shape[2] != shape[3] or shape[2] % 2 == 0:
            raise Refused(f"{name} has shape {shape}, and is no kernel of odd size from {channels} to {c} channels")
        if W["padding"] == "circular" and shape[2] // 2 > min((h, w) if name == "W" else (tall, wide)):
            raise Refused(f"{name} is too large for circular padding")
    pooled = c * ((h + 2 * padding) // pool) * ((w + 2 * padding) // pool)
    head = tensors["C"]
    std, blocks = parse_ends(fields, tensors, n, p, pooled)
    if tensors["W"].size + tensors["U"].size + head.size > MAX_NUMBERS:
        raise Refused("more numbers than this program adds up")
    return ContractingForm(tensors["W"], tensors["U"], head, None if std is None else std.reshape(inputs, -1), blocks)


def sizes(what: str, value: object) -> tuple[int, int, int]:
    """Channels, height and width, each at least 1."""
    c, h, w = (natural(size, f"a size of {what}", MAX_NEURONS) for size in sequence(value, what, 3, 3))
    if 0 in (c, h, w):
        raise Refused(f"{what} has no pixel")
    return c, h, w


def prove_contracting(form: ContractingForm, claim: object) -> Claim:
    """The claim, proved as the module's text says; ``Refused`` if it is malformed or cannot be proved."""
    names = {"kind", "norm", "units", "bound", "slopes", "comparison", "rows", "well_posed"}
    fields = record(claim, "the claim", names)
    if (fields["kind"], fields["norm"]) != ("lipschitz", "linf") or fields["well_posed"] is not True:
        raise Refused("only l-infinity Lipschitz bounds of well-posed networks are proved of such forms")
    if fields["units"] not in ("standardised", "raw"):
        raise Refused("the claim's units are neither standardised nor raw")
    bound = hexadecimal(fields["bound"], "bound")
    channels, q = form.W.shape[0], form.C.shape[0]
    if any(row is not None for row in sequence(fields["rows"], "rows", q, q)):
        raise Refused("outputs of such forms are proved by the comparison alone")
    entries = sequence(fields["comparison"], "comparison", channels, channels)
    v = [Fraction(hexadecimal(entry, "an entry of comparison")) for entry in entries]
    if bound <= 0.0 or min(v) <= 0:
        raise Refused("the bound and the comparison must be positive")
    u = largest_slope(form, fields["slopes"])
    raw = fields["units"] == "raw" and form.std is not None
    for c in range(channels):
        pushed = Fraction(0)
        for j, taps in enumerate(form.U[c]):
            s = 1 / Fraction(float(form.std[j].min())) if raw and form.std is not None else Fraction(1)
            pushed += total(taps) * s
        slack = v[c] - u * sum((taps_of(form, c, j) * v[j] for j in range(channels)), Fraction(0))
        if slack <= 0:
            raise Refused("the comparison matrix is not an M-matrix for these weights")
        if slack < u * pushed:
            raise Refused("the comparison does not bound how far the neurons move")
    for row in form.C.reshape(q, channels, -1):
        if sum((total(part) * weight for part, weight in zip(row, v, strict=True)), Fraction(0)) > Fraction(bound):
            raise Refused("the comparison gives more than the bound claimed")
    return Claim("lipschitz", "linf", str(fields["units"]), bound)


def taps_of(form: ContractingForm, c: int, j: int) -> Fraction:
    """The sum of absolute values of the taps from channel j to c, the centre tap of c itself with its sign."""
    taps = form.W[c, j]
    if c != j:
        return total(taps)
    centre = Fraction(float(taps[taps.shape[0] // 2, taps.shape[1] // 2]))
    return total(taps) - abs(centre) + centre


def total(numbers: Floats) -> Fraction:
    """The exact sum of absolute values."""
    return sum(map(Fraction, np.abs(numbers).astype(np.float64).ravel().tolist()), Fraction(0))


def largest_slope(form: ContractingForm, stated: object) -> Fraction:
    """The largest slope that the claim assumes of any neuron, after checking that it holds the true ones."""
    slopes = record(stated, "slopes", {"lower", "upper"})
    count = len(form.blocks)
    lower, upper = (
        [hexadecimal(s, "a slope") for s in sequence(slopes[key], f"slopes.{key}", count, count)]
        for key in ("lower", "upper")
    )
    for (_, least, most), low, high in zip(form.blocks, lower, upper, strict=True):
        if not 0.0 <= low <= least <= most <= high <= 1.0:
            raise Refused("the slopes assumed do not hold those of the activation, or leave [0, 1]")
    return Fraction(max(upper))


def prove_contractions(form: ContractingForm, claims: list[object]) -> tuple[Claim, ...]:
    """All claims; ``Refused`` names the first that is not proved."""
    budget, proved = Budget(), []
    for number, claim in enumerate(claims, 1):
        # Each number of the file is added to a fraction once for every claim.
        budget.spend(2**10 * (form.W.size + form.U.size + form.C.size))
        try:
            proved.append(prove_contracting(form, claim))
        except Refused as refusal:
            raise Refused(f"claim {number}: {refusal}") from None
    return tuple(proved)
