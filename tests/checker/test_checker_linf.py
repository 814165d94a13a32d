"""Claims of ℓ∞ slopes: true ones are valid, and whatever is done to them leaves a true one, or none."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from checker_artefacts import Array, certificate, form_bytes, lben
from checker_attacks import flipped_certificate, tamper
from checker_rational import INTERVALS, lipschitz_matrix, positive_definite
from test_checker_claims import block

from equilip.checker import check

SEED = 20250311
CASES = 1400


def slopes_of(claim: dict[str, Any], blocks: list[dict[str, Any]]) -> tuple[list[Fraction], list[Fraction]] | None:
    """The slopes assumed of every neuron, None where they do not hold the true ones."""
    lower, upper = [], []
    for own, low, high in zip(blocks, claim["slopes"]["lower"], claim["slopes"]["upper"], strict=True):
        smallest, largest = INTERVALS.get(own["kind"], (Fraction(0), Fraction(1)))
        if own["kind"] == "leaky_relu":
            smallest = Fraction(float.fromhex(own["negative_slope"]))
        low, high = Fraction(float.fromhex(low)), Fraction(float.fromhex(high))
        if not 0 <= low <= smallest <= largest <= high <= 1:
            return None
        lower += [low] * own["size"]
        upper += [high] * own["size"]
    return lower, upper


def claim_holds(stated: bytes, form: bytes) -> bool:
    """The claims in exact fractions, sharing nothing with the checker: full matrices with nothing eliminated."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in safetensors.numpy.load(form).items()}
    header = json.loads(form[8 : 8 + int.from_bytes(form[:8], "little")])
    blocks = json.loads(header["__metadata__"]["equilip"])["activation"]
    n, p = tensors["U"].shape
    D = tensors.get("D", np.zeros((tensors["C"].shape[0], p)))
    for claim in json.loads(stated)["claims"]:
        slopes = slopes_of(claim, blocks)
        bound = Fraction(float.fromhex(claim["bound"]))
        if slopes is None or bound <= 0:
            return False
        raw = claim["units"] == "raw" and "std" in tensors
        s = [1 / Fraction(float(tensors["std"][j])) if raw else Fraction(1) for j in range(p)]
        w = None
        if claim["comparison"] is not None:
            w = [Fraction(float.fromhex(entry)) for entry in claim["comparison"]]
            for i in range(n):
                M = sum(abs(Fraction(tensors["W"][i, j])) * w[j] for j in range(n) if j != i)
                slack = w[i] - slopes[1][i] * (M + Fraction(tensors["W"][i, i]) * w[i])
                pushed = slopes[1][i] * sum(abs(Fraction(tensors["U"][i, j])) * s[j] for j in range(p))
                if w[i] <= 0 or slack <= 0 or slack < pushed:
                    return False
        for i, row in enumerate(claim["rows"]):
            if row is None:
                if w is None:
                    return False
                moved = sum(abs(Fraction(tensors["C"][i, j])) * w[j] for j in range(n))
                if moved + sum(abs(Fraction(D[i, j])) * s[j] for j in range(p)) > bound:
                    return False
                continue
            weights = [Fraction(float.fromhex(entry)) for entry in row["weights"]]
            if min(weights) <= 0 or sum((v * t) ** 2 for v, t in zip(weights, s, strict=True)) > bound**2:
                return False
            one = {
                **tensors,
                "C": tensors["C"][i : i + 1],
                "D": D[i : i + 1],
                "std": np.array([float(v) for v in weights]),
            }
            own = {"bound": "0x1.0000000000000p+0", "units": "raw", "multipliers": row["multipliers"]}
            if not all(float.fromhex(m) > 0 for m in row["multipliers"]):
                return False
            if not positive_definite(lipschitz_matrix(one, slopes[0], slopes[1], own)):
                return False
    return True


def hexes(numbers: Array) -> list[str]:
    return [float(number).hex() for number in numbers]


class Case:
    """A valid pair of files: some outputs by a quadratic form, tight to 1e-6, some by the comparison matrix."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        n, p, q = int(rng.integers(2, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
        dtype = rng.choice([np.float32, np.float64])
        tensors, _ = lben(rng, n, p, q, gamma=1.0)
        T = rng.normal(0, 1, (n, n))
        tensors["W"] = T + np.diag(0.5 - np.abs(T).sum(1))
        self.tensors: dict[str, Array] = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
        if rng.random() < 0.4:
            self.tensors["D"] = rng.normal(0, 0.2, (q, p)).astype(dtype)
        if rng.random() < 0.5:
            self.tensors |= {"mean": np.zeros(p, dtype), "std": rng.uniform(0.3, 2, p).astype(dtype)}
        self.units = str(rng.choice(["raw", "standardised"]))
        kind, top = [("relu", 1.0), ("sigmoid", 0.25), ("tanh", 1.0)][int(rng.integers(3))]
        self.blocks = [block(kind, n)]
        W, U, C = (self.tensors[name].astype(np.float64) for name in ("W", "U", "C"))
        D = self.tensors.get("D", np.zeros((q, p))).astype(np.float64)
        s = 1 / self.tensors["std"].astype(np.float64) if self.units == "raw" and "std" in self.tensors else np.ones(p)
        M = np.abs(W)
        np.fill_diagonal(M, np.diagonal(W))
        weight = np.linalg.solve(np.eye(n) - top * M, top * np.abs(U) @ s + 1e-3) * (1 + 1e-12)
        compared = np.abs(C) @ weight + np.abs(D) @ s
        x, y = np.linalg.solve(np.eye(n) - M, np.ones(n)), np.linalg.solve(np.eye(n) - M.T, np.ones(n))
        lam = y / x
        P = np.diag(2 * lam) - top * (lam[:, None] * W + (lam[:, None] * W).T)
        rows: list[dict[str, Any] | None] = []
        bounds = []
        for i in range(q):
            # λ large enough that P - cc' is half of P at least, then G by diagonal dominance of its Schur complement.
            scale = 4 * float(C[i] @ np.linalg.solve(P, C[i])) + 1e-6
            B = top * scale * lam[:, None] * U + np.outer(C[i], D[i])
            K = B.T @ np.linalg.solve(scale * P - np.outer(C[i], C[i]), B) + np.outer(D[i], D[i])
            v = np.sqrt(np.abs(K).sum(1) * (1 + 1e-6) + 1e-12)
            quadratic = float(np.sqrt(np.sum((v * s) ** 2)))
            use = rng.random() < 0.6
            rows.append({"multipliers": hexes(scale * lam), "weights": hexes(v)} if use else None)
            bounds.append(quadratic if use else compared[i])
        self.claim = {
            "kind": "lipschitz", "norm": "linf", "units": self.units,
            "bound": float(max(bounds) * (1 + 1e-9)).hex(),
            "slopes": {"lower": [(0.0).hex()], "upper": [top.hex()]},
            "comparison": hexes(weight) if None in rows or rng.random() < 0.5 else None,
            "rows": rows, "well_posed": True,
        }  # fmt: skip
        self.form = form_bytes(self.tensors, self.blocks)
        self.stated = certificate(self.form, self.claim, method="both")

    def certificate(self, form: bytes | None = None, **changes: Any) -> bytes:
        digest = hashlib.sha256(self.form if form is None else form).hexdigest()
        stated = {**self.stated, "claims": [{**self.claim, **changes}]}
        return json.dumps({**stated, "form": {**self.stated["form"], "sha256": digest}}).encode()

    def changed(self) -> tuple[dict[str, Any], list[list[str]]]:
        """A copy of the claim, and the lists of numbers in it."""
        claim = copy.deepcopy(self.claim)
        lists = [] if claim["comparison"] is None else [claim["comparison"]]
        for row in claim["rows"]:
            lists += [] if row is None else [row["multipliers"], row["weights"]]
        return claim, lists


Files = tuple[bytes, bytes]
Attack = Callable[[Case], Files]


def lower_bound(case: Case) -> Files:
    """Below what the rows and the comparison say."""
    return case.certificate(
        bound=(float.fromhex(case.claim["bound"]) * (1 - 10.0 ** -case.rng.uniform(1, 8))).hex()
    ), case.form


def other_numbers(case: Case) -> Files:
    """Multipliers, weights or comparison scaled, permuted or changed in one place."""
    claim, lists = case.changed()
    numbers = lists[int(case.rng.integers(len(lists)))]
    values = np.array([float.fromhex(entry) for entry in numbers])
    which = int(case.rng.integers(4))
    if which == 0:
        values = values * 10.0 ** case.rng.uniform(-3, 3)
    elif which == 1:
        values = case.rng.permutation(values)
    elif which == 2:
        values[int(case.rng.integers(values.size))] *= 1 + float(case.rng.choice([-1, 1])) * 10.0 ** -case.rng.uniform(
            0.1, 14
        )
    else:
        values[int(case.rng.integers(values.size))] *= -1
    numbers[:] = hexes(values)
    return case.certificate(**claim), case.form


def odd_entry(case: Case) -> Files:
    claim, lists = case.changed()
    odd: list[Any] = ["0x0.0p+0", "nan", "inf", 1.0, None, True, [], "", "0x1p+0", "0x1.0000000000000p+1024"]
    numbers = lists[int(case.rng.integers(len(lists)))]
    numbers[int(case.rng.integers(len(numbers)))] = odd[int(case.rng.integers(len(odd)))]
    return case.certificate(**claim), case.form


def odd_field(case: Case) -> Files:
    claim, _ = case.changed()
    rows = claim["rows"]
    choices: list[dict[str, Any]] = [
        {"rows": rows[:-1]}, {"rows": [*rows, rows[0]]}, {"rows": None}, {"rows": {}}, {"rows": [{} for _ in rows]},
        {"rows": [{"multipliers": [], "weights": []} for _ in rows]}, {"comparison": []}, {"comparison": {}},
        {"well_posed": False}, {"units": "Raw"}, {"norm": "l1"}, {"norm": "l2"}, {"extra": 1}, {"rows": [1]},
    ]  # fmt: skip
    return case.certificate(**choices[int(case.rng.integers(len(choices)))]), case.form


def without_comparison(case: Case) -> Files:
    rows = [None if case.rng.random() < 0.7 else row for row in case.claim["rows"]]
    return case.certificate(comparison=None, rows=rows), case.form


def swapped_rows(case: Case) -> Files:
    rows = [case.claim["rows"][i] for i in case.rng.permutation(len(case.claim["rows"]))]
    return case.certificate(rows=rows), case.form


def other_units(case: Case) -> Files:
    return case.certificate(units="raw" if case.units != "raw" else "standardised"), case.form


def narrow_slopes(case: Case) -> Files:
    top = float.fromhex(case.claim["slopes"]["upper"][0]) * float(case.rng.uniform(0.5, 1 - 1e-12))
    return case.certificate(slopes={"lower": [(0.0).hex()], "upper": [top.hex()]}), case.form


def wider_slopes(case: Case) -> Files:
    return case.certificate(slopes={"lower": [(0.0).hex()], "upper": [(1.0).hex()]}), case.form


def grown_weights(case: Case) -> Files:
    name = str(case.rng.choice(sorted(set(case.tensors) - {"b", "c", "mean"})))
    tensor = case.tensors[name].copy()
    factor = 1 + float(case.rng.choice([-1, 1])) * 10.0 ** -case.rng.uniform(0.5, 9)
    tensor.flat[int(case.rng.integers(tensor.size))] *= factor
    form = form_bytes({**case.tensors, name: tensor}, case.blocks)
    return case.certificate(form), form


def other_activation(case: Case) -> Files:
    n = len(case.tensors["b"])
    kind = str(case.rng.choice(["relu", "identity", "sigmoid", "gelu"]))
    form = form_bytes(case.tensors, [block(kind, n)])
    return case.certificate(form), form


#: Attacks after which nothing can be valid, and attacks after which a true claim may remain.
ALWAYS_CAUGHT: list[Attack] = [odd_entry, narrow_slopes]
CAUGHT_WHERE_FALSE: list[Attack] = [
    *(lower_bound, other_numbers, odd_field, without_comparison, swapped_rows, other_units, wider_slopes),
    *(grown_weights, other_activation, flipped_certificate),
]


def test_tampering_is_caught(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    tamper(
        tmp_path,
        lambda: Case(rng),
        ALWAYS_CAUGHT,
        CAUGHT_WHERE_FALSE,
        claim_holds,
        cases=CASES,
        each=24,
        harmless=[other_units],
    )


def test_a_comparison_at_the_very_edge_is_refused(tmp_path: Path) -> None:
    """w - M w = 0 in one neuron: the contraction is lost, however small the bound claimed."""
    tensors: dict[str, Array] = {
        "W": np.array([[0.0, 1.0], [1.0, 0.0]]), "U": np.zeros((2, 1)), "b": np.zeros(2),
        "C": np.zeros((1, 2)), "c": np.zeros(1),
    }  # fmt: skip
    form = form_bytes(tensors, [block("relu", 2)])
    claim = {
        "kind": "lipschitz", "norm": "linf", "units": "raw", "bound": (1.0).hex(), "well_posed": True,
        "slopes": {"lower": [(0.0).hex()], "upper": [(1.0).hex()]}, "comparison": hexes(np.ones(2)), "rows": [None],
    }  # fmt: skip
    (tmp_path / "form.safetensors").write_bytes(form)
    (tmp_path / "certificate.json").write_text(json.dumps(certificate(form, claim)))
    verdict = check(tmp_path / "certificate.json")
    assert not verdict.valid
    assert "M-matrix" in verdict.reason


@pytest.mark.parametrize("count", [1, 3])
def test_rows_alone_prove_well_posedness(tmp_path: Path, count: int) -> None:
    """Without a comparison, for a network that contracts in no weighted maximum norm."""
    rng = np.random.default_rng(count)
    n = 6
    tensors, lam = lben(rng, n, 2, count, gamma=1.0, scale=1.0)
    rows = [{"multipliers": hexes(lam), "weights": hexes(np.full(2, 1.0 + 1e-6))} for _ in range(count)]
    form = form_bytes(tensors, [block("relu", n)])
    claim = {
        "kind": "lipschitz", "norm": "linf", "units": "raw", "bound": float(np.sqrt(2.0) * (1 + 1e-5)).hex(),
        "well_posed": True, "slopes": {"lower": [(0.0).hex()], "upper": [(1.0).hex()]}, "comparison": None,
        "rows": rows,
    }  # fmt: skip
    (tmp_path / "form.safetensors").write_bytes(form)
    (tmp_path / "certificate.json").write_text(json.dumps(certificate(form, claim)))
    assert check(tmp_path / "certificate.json").valid
