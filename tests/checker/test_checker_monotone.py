"""Claims of monotonicity: true ones are valid, and whatever is done to them leaves a true one, or none."""

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
from checker_rational import lipschitz_matrix, positive_definite
from test_checker_claims import block
from test_checker_linf import hexes, slopes_of

from equilip.checker import check
from equilip.checker.__main__ import as_json, as_text

SEED = 20261121
CASES = 900


def claim_holds(stated: bytes, form: bytes) -> bool:
    """The claims in exact fractions, sharing nothing with the checker."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in safetensors.numpy.load(form).items()}
    header = json.loads(form[8 : 8 + int.from_bytes(form[:8], "little")])
    blocks = json.loads(header["__metadata__"]["equilip"])["activation"]
    n, p = tensors["U"].shape
    q = tensors["C"].shape[0]
    D = tensors.get("D", np.zeros((q, p)))
    for claim in json.loads(stated)["claims"]:
        slopes, beta, S = slopes_of(claim, blocks), Fraction(float.fromhex(claim["bound"])), claim["directions"]
        if slopes is None or beta <= 0:
            return False
        outputs = [k for k in range(q) if any(S[k])]
        inputs = [j for j in range(p) if any(row[j] for row in S)]
        rest = {(k, j): Fraction(D[k, j]) - beta * S[k][j] for k in outputs for j in inputs}
        if claim["multipliers"] is not None:
            left = np.array([[float(rest[k, j]) for j in inputs] for k in outputs])
            if any(Fraction(left[a, b]) != rest[k, j] for a, k in enumerate(outputs) for b, j in enumerate(inputs)):
                return False
            own = {"W": tensors["W"], "U": tensors["U"][:, inputs], "C": tensors["C"][outputs], "D": left}
            if not all(float.fromhex(m) > 0 for m in claim["multipliers"]):
                return False
            if not positive_definite(lipschitz_matrix(own, slopes[0], slopes[1], {**claim, "units": "standardised"})):
                return False
            continue
        for k, row in zip(outputs, claim["comparison"], strict=True):
            v = [Fraction(float.fromhex(entry)) for entry in row]
            for i in range(n):
                through = sum(v[m] * slopes[1][m] * abs(Fraction(tensors["W"][m, i])) for m in range(n) if m != i)
                slack = v[i] - through - v[i] * slopes[1][i] * Fraction(tensors["W"][i, i])
                if v[i] <= 0 or slack <= 0 or slack < abs(Fraction(tensors["C"][k, i])):
                    return False
            for j in inputs:
                moved = sum(v[i] * slopes[1][i] * abs(Fraction(tensors["U"][i, j])) for i in range(n))
                if S[k][j] and moved + abs(rest[k, j]) > beta:
                    return False
    return True


class Case:
    """A valid pair of files, tight to 1e-9: by the comparison matrix, or by a quadratic form."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        n, p, q = int(rng.integers(2, 5)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
        dtype = rng.choice([np.float32, np.float64])
        tensors, lam = lben(rng, n, p, q, gamma=1.0)
        self.quadratic = bool(rng.random() < 0.5)
        self.top, kind = (1.0, "relu") if self.quadratic or rng.random() < 0.5 else (0.25, "sigmoid")
        if not self.quadratic:
            T = rng.normal(0, 1, (n, n))
            tensors["W"] = T + np.diag(0.5 - np.abs(T).sum(1))
        self.tensors: dict[str, Array] = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
        S = rng.integers(-1, 2, (q, p))
        S[0, 0] = 1
        outputs, inputs = np.flatnonzero(S.any(1)), np.flatnonzero(S.any(0))
        W, U, C = (self.tensors[name].astype(np.float64) for name in ("W", "U", "C"))
        feed = rng.normal(0, 0.2, (q, p)).astype(dtype) * (rng.random() < 0.5) * (not self.quadratic)
        comparison = None
        if self.quadratic:
            beta = float(dtype(1.0 + 2.0**-18))
        else:
            M = np.abs(W)
            np.fill_diagonal(M, np.diagonal(W))
            v = np.linalg.solve((np.eye(n) - self.top * M).T, np.abs(C[outputs]).T + 1e-3).T * (1 + 1e-12)
            moved = self.top * v @ np.abs(U)
            beta = float(dtype(float(moved.max() + np.abs(feed).max()) * (1 + 1e-6)))
            comparison = [hexes(row) for row in v]
        self.tensors["D"] = (feed + beta * S).astype(dtype)
        if not self.quadratic:
            # Rounding of the sum moved what is left; most of it is the claim's own slack.
            left = np.abs(self.tensors["D"].astype(np.float64) - beta * S)[np.ix_(outputs, inputs)]
            beta = max(beta, float((moved[:, inputs] + left).max() * (1 + 1e-9))) if not feed.any() else beta
        if rng.random() < 0.3:
            self.tensors |= {"mean": np.zeros(p, dtype), "std": rng.uniform(0.3, 2, p).astype(dtype)}
        self.blocks = [block(kind, n)]
        self.claim = {
            "kind": "monotone", "norm": "l1", "units": "standardised", "bound": beta.hex(),
            "slopes": {"lower": [(0.0).hex()], "upper": [self.top.hex()]}, "directions": S.tolist(),
            "comparison": comparison, "multipliers": hexes(lam) if self.quadratic else None, "well_posed": True,
        }  # fmt: skip
        self.form = form_bytes(self.tensors, self.blocks)
        self.stated = certificate(self.form, self.claim)

    def certificate(self, form: bytes | None = None, **changes: Any) -> bytes:
        digest = hashlib.sha256(self.form if form is None else form).hexdigest()
        stated = {**self.stated, "claims": [{**self.claim, **changes}]}
        return json.dumps({**stated, "form": {**self.stated["form"], "sha256": digest}}).encode()

    def changed(self) -> tuple[dict[str, Any], list[list[str]]]:
        """A copy of the claim, and the lists of numbers in it."""
        claim = copy.deepcopy(self.claim)
        return claim, [claim["multipliers"]] if self.quadratic else claim["comparison"]


Files = tuple[bytes, bytes]
Attack = Callable[[Case], Files]


def other_bound(case: Case) -> Files:
    factor = 1 + float(case.rng.choice([-1, 1])) * 10.0 ** -case.rng.uniform(0.3, 8)
    return case.certificate(bound=(float.fromhex(case.claim["bound"]) * factor).hex()), case.form


def other_direction(case: Case) -> Files:
    """A direction turned round, claimed where there was none, or taken back."""
    S = copy.deepcopy(case.claim["directions"])
    row = S[int(case.rng.integers(len(S)))]
    j = int(case.rng.integers(len(row)))
    row[j] = int(case.rng.choice([d for d in (-1, 0, 1) if d != row[j]]))
    return case.certificate(directions=S), case.form


def turned(case: Case) -> Files:
    """Every direction turned round."""
    return case.certificate(directions=[[-d for d in row] for row in case.claim["directions"]]), case.form


def other_numbers(case: Case) -> Files:
    claim, lists = case.changed()
    numbers = lists[int(case.rng.integers(len(lists)))]
    values = np.array([float.fromhex(entry) for entry in numbers])
    which = int(case.rng.integers(4))
    if which == 0:
        values = values * 10.0 ** case.rng.uniform(-3, 3)
    elif which == 1:
        values = case.rng.permutation(values)
    else:
        at = int(case.rng.integers(values.size))
        values[at] *= -1 if which == 2 else 1 + float(case.rng.choice([-1, 1])) * 10.0 ** -case.rng.uniform(0.1, 12)
    numbers[:] = hexes(values)
    return case.certificate(**claim), case.form


def odd_entry(case: Case) -> Files:
    claim, lists = case.changed()
    odd: list[Any] = ["0x0.0p+0", "nan", "inf", 1.0, None, True, [], "", "0x1p+0", "0x1.0000000000000p+1024"]
    numbers = lists[int(case.rng.integers(len(lists)))]
    numbers[int(case.rng.integers(len(numbers)))] = odd[int(case.rng.integers(len(odd)))]
    return case.certificate(**claim), case.form


def odd_direction(case: Case) -> Files:
    S = copy.deepcopy(case.claim["directions"])
    odd: list[Any] = [2, -2, 1.0, True, None, "1", [], 0.5, 10**30]
    S[int(case.rng.integers(len(S)))][0] = odd[int(case.rng.integers(len(odd)))]
    return case.certificate(directions=S), case.form


def odd_field(case: Case) -> Files:
    S, comparison, multipliers = (case.claim[name] for name in ("directions", "comparison", "multipliers"))
    choices: list[dict[str, Any]] = [
        {"directions": S[:-1]}, {"directions": [*S, S[0]]}, {"directions": None}, {"directions": [0]}, {"norm": "l2"},
        {"directions": [[*row, 1] for row in S]}, {"directions": [[0] * len(row) for row in S]}, {"extra": 1},
        {"comparison": None, "multipliers": None}, {"comparison": [], "multipliers": None}, {"units": "Raw"},
        {"comparison": comparison or [multipliers], "multipliers": multipliers or comparison[0]}, {"well_posed": False},
    ]  # fmt: skip
    return case.certificate(**choices[int(case.rng.integers(len(choices)))]), case.form


def narrow_slopes(case: Case) -> Files:
    top = case.top * float(case.rng.uniform(0.5, 1 - 1e-12))
    return case.certificate(slopes={"lower": [(0.0).hex()], "upper": [top.hex()]}), case.form


def wider_slopes(case: Case) -> Files:
    return case.certificate(slopes={"lower": [(0.0).hex()], "upper": [(1.0).hex()]}), case.form


def grown_weights(case: Case) -> Files:
    name = str(case.rng.choice(["W", "U", "C", "D"]))
    tensor = case.tensors[name].copy()
    factor = 1 + float(case.rng.choice([-1, 1])) * 10.0 ** -case.rng.uniform(0.5, 7)
    tensor.flat[int(case.rng.integers(tensor.size))] *= factor
    form = form_bytes({**case.tensors, name: tensor}, case.blocks)
    return case.certificate(form), form


def without_feedthrough(case: Case) -> Files:
    form = form_bytes({name: tensor for name, tensor in case.tensors.items() if name != "D"}, case.blocks)
    return case.certificate(form), form


def other_activation(case: Case) -> Files:
    form = form_bytes(
        case.tensors, [block(str(case.rng.choice(["relu", "identity", "sigmoid"])), len(case.tensors["b"]))]
    )
    return case.certificate(form), form


#: Attacks after which nothing can be valid, and attacks after which a true claim may remain.
ALWAYS_CAUGHT: list[Attack] = [turned, odd_entry, odd_direction, odd_field, narrow_slopes, without_feedthrough]
CAUGHT_WHERE_FALSE: list[Attack] = [
    *(other_bound, other_direction, other_numbers, wider_slopes, grown_weights, other_activation, flipped_certificate),
]


def test_tampering_is_caught(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    tamper(tmp_path, lambda: Case(rng), ALWAYS_CAUGHT, CAUGHT_WHERE_FALSE, claim_holds, cases=CASES, each=20)


def test_the_verdict_names_the_directions(tmp_path: Path) -> None:
    case = Case(np.random.default_rng(SEED))
    (tmp_path / "form.safetensors").write_bytes(case.form)
    (tmp_path / "certificate.json").write_bytes(case.certificate())
    (claim, *_) = check(tmp_path / "certificate.json").claims
    assert claim.directions == tuple(tuple(row) for row in case.claim["directions"])


@pytest.mark.parametrize("missing", [0.0, 2.0**-60])
def test_the_very_edge(tmp_path: Path, missing: float) -> None:
    """y = x - relu(x): the slope is 0 for x > 0, which is proved, and below 0 with the slightest bit more."""
    one = np.ones((1, 1))
    tensors: dict[str, Array] = {
        "W": 0 * one, "U": one, "b": np.zeros(1), "C": -one, "c": np.zeros(1), "D": one - (2.0**-53 if missing else 0.0)
    }  # fmt: skip
    form = form_bytes(tensors, [block("relu", 1)])
    claim = {
        "kind": "monotone", "norm": "l1", "units": "standardised", "bound": (1.0).hex(), "directions": [[1]],
        "slopes": {"lower": [(0.0).hex()], "upper": [(1.0).hex()]}, "comparison": [[(1.0).hex()]], "multipliers": None,
        "well_posed": True,
    }  # fmt: skip
    (tmp_path / "form.safetensors").write_bytes(form)
    (tmp_path / "certificate.json").write_text(json.dumps(certificate(form, claim)))
    verdict = check(tmp_path / "certificate.json")
    assert verdict.valid is (missing == 0.0)


def test_what_is_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    case = Case(rng)
    (tmp_path / "form.safetensors").write_bytes(case.form)
    (tmp_path / "certificate.json").write_bytes(case.certificate())
    verdict = check(tmp_path / "certificate.json")
    S = case.claim["directions"]
    rising = [f"output {k} never falls" for k, row in enumerate(S) if 1 in row]
    falling = [f"output {k} never rises" for k, row in enumerate(S) if -1 in row]
    assert all(said in as_text(verdict) for said in rising + falling)
    assert json.loads(as_json(verdict))["claims"][0]["directions"] == S
