"""The second opinion: the matrix of a claim in exact fractions, straight from mathematics 9.3, and its LDLᵀ.

It shares nothing with equilip.checker: the files are read by json and by the safetensors package, the matrix is
the full one of size n + p with nothing eliminated, and the factorisation is Gaussian elimination on fractions.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import numpy as np
import safetensors.numpy

Matrix = list[list[Fraction]]

INTERVALS = {"sigmoid": (Fraction(0), Fraction(1, 4)), "identity": (Fraction(1), Fraction(1))}


def fractions(array: Any) -> Matrix:
    return [[Fraction(float(x)) for x in row] for row in np.atleast_2d(array)]


def positive_definite(matrix: Matrix) -> bool:
    """Whether all pivots of LDLᵀ are positive, in exact arithmetic."""
    rows = [list(row) for row in matrix]
    for k, pivot_row in enumerate(rows):
        if pivot_row[k] <= 0:
            return False
        for row in rows[k + 1 :]:
            factor = row[k] / pivot_row[k]
            if factor:
                for j in range(k, len(rows)):
                    row[j] -= factor * pivot_row[j]
    return True


def lipschitz_matrix(tensors: dict[str, Any], lower: list[Any], upper: list[Any], claim: dict[str, Any]) -> Matrix:
    """diag(0, ρ S²) - YᵀY + 2 EᵀΛE + 2 NᵀΛ diag(lu) N - EᵀΛ diag(l + u) N - its transpose."""
    n, p = tensors["U"].shape
    q = tensors["C"].shape[0]
    size = n + p
    N = [w + u for w, u in zip(fractions(tensors["W"]), fractions(tensors["U"]), strict=True)]
    D = fractions(tensors.get("D", np.zeros((q, p))))
    Y = [c + d for c, d in zip(fractions(tensors["C"]), D, strict=True)]
    bound = Fraction(float.fromhex(claim["bound"]))
    M = [[-sum(Y[k][i] * Y[k][j] for k in range(q)) for j in range(size)] for i in range(size)]
    for j in range(p):
        std = Fraction(float(tensors["std"][j])) if claim["units"] == "raw" and "std" in tensors else 1
        M[n + j][n + j] += bound**2 * std**2
    for i in range(n):
        lam = Fraction(float.fromhex(claim["multipliers"][i]))
        l, u = Fraction(lower[i]), Fraction(upper[i])  # noqa: E741 - the letters of the mathematics
        M[i][i] += 2 * lam
        for j in range(size):
            M[i][j] -= lam * (l + u) * N[i][j]
            M[j][i] -= lam * (l + u) * N[i][j]
            if l:
                for k in range(size):
                    M[j][k] += 2 * lam * l * u * N[i][j] * N[i][k]
    return M


def claims_hold(certificate: bytes, form: bytes) -> bool:
    """Whether every claim's matrix is positive definite, its slopes hold the true ones and its λ are positive."""
    tensors = safetensors.numpy.load(form)
    header = json.loads(form[8 : 8 + int.from_bytes(form[:8], "little")])
    blocks = json.loads(header["__metadata__"]["equilip"])["activation"]
    for claim in json.loads(certificate)["claims"]:
        lower, upper = [], []
        stated = zip(claim["slopes"]["lower"], claim["slopes"]["upper"], strict=True)
        for block, (low, high) in zip(blocks, stated, strict=True):
            smallest, largest = INTERVALS.get(block["kind"], (Fraction(0), Fraction(1)))
            if block["kind"] == "leaky_relu":
                smallest = Fraction(float.fromhex(block["negative_slope"]))
            low, high = Fraction(float.fromhex(low)), Fraction(float.fromhex(high))
            if not 0 <= low <= smallest <= largest <= high <= 1:
                return False
            lower += [low] * block["size"]
            upper += [high] * block["size"]
        if not all(float.fromhex(m) > 0 for m in claim["multipliers"]) or float.fromhex(claim["bound"]) <= 0:
            return False
        if not positive_definite(lipschitz_matrix(tensors, lower, upper, claim)):
            return False
    return True
