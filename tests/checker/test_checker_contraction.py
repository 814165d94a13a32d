"""Claims about convolutional contracting networks: whatever is done to them leaves a true claim, or none."""

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
from checker_artefacts import Array, certificate
from checker_attacks import flipped_certificate, flipped_form_with_new_digest, tamper

from equilip.checker import check

SEED = 20251121
CASES = 600


def hexes(numbers: Array) -> list[str]:
    return [float(number).hex() for number in numbers]


def form_bytes(tensors: dict[str, Array], operators: dict[str, Any], kind: str) -> bytes:
    n = len(tensors["b"])
    described = {"activation": [{"kind": kind, "size": n}], "format": "equilip.form/2", "operators": operators}
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return bytes(safetensors.numpy.save(tensors, metadata={"equilip": text}))


def matrix(kernel: Array, image: tuple[int, int], stride: int, circular: bool) -> list[list[Fraction]]:
    """A convolution from its definition, pixel by pixel, in fractions."""
    outs, ins, k, _ = kernel.shape
    (h, w), p = image, kernel.shape[2] // 2
    tall, wide = (h - 1) // stride + 1, (w - 1) // stride + 1
    rows = [[Fraction(0)] * (ins * h * w) for _ in range(outs * tall * wide)]
    for o, i, j, c, s, t in np.ndindex(outs, tall, wide, ins, k, k):
        y, x = stride * i + s - p, stride * j + t - p
        if circular:
            y, x = y % h, x % w
        if 0 <= y < h and 0 <= x < w:
            rows[(o * tall + i) * wide + j][(c * h + y) * w + x] += Fraction(float(kernel[o, c, s, t]))
    return rows


def claim_holds(stated: bytes, form: bytes) -> bool:
    """The claims by the matrices themselves, in fractions, neuron by neuron; shares nothing with the checker."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in safetensors.numpy.load(form).items()}
    header = json.loads(form[8 : 8 + int.from_bytes(form[:8], "little")])
    described = json.loads(header["__metadata__"]["equilip"])
    own, kind = described["operators"], described["activation"][0]["kind"]
    circular, stride = own["W"]["padding"] == "circular", own["U"]["stride"]
    (c, h, w), (_, tall, wide) = own["W"]["hidden"], own["U"]["image"]
    W = matrix(tensors["W"], (h, w), 1, circular)
    U = matrix(tensors["U"], (tall, wide), stride, circular)
    pool, around = own["C"]["pool"], own["C"]["padding"]
    down, across = (h + 2 * around) // pool, (w + 2 * around) // pool
    for claim in json.loads(stated)["claims"]:
        bound = Fraction(float.fromhex(claim["bound"]))
        u = Fraction(float.fromhex(claim["slopes"]["upper"][0]))
        if u < (Fraction(1, 4) if kind == "sigmoid" else 1) or u > 1 or bound <= 0:
            return False
        raw = claim["units"] == "raw" and "std" in tensors
        s = [1 / Fraction(v) for v in tensors["std"].tolist()] if raw else [Fraction(1)] * len(U[0])
        v = [Fraction(float.fromhex(entry)) for entry in claim["comparison"]]
        z = [v[i // (h * w)] for i in range(len(W))]
        for i, row in enumerate(W):
            read = row[i] * z[i] + sum(abs(entry) * z[j] for j, entry in enumerate(row) if j != i and entry)
            pushed = u * sum(abs(entry) * s[j] for j, entry in enumerate(U[i]) if entry)
            if z[i] <= 0 or z[i] - u * read <= 0 or z[i] - u * read < pushed:
                return False
        for row in tensors["C"]:
            moved = Fraction(0)
            for o, y, x in np.ndindex(c, down, across):
                inside = sum(
                    0 <= y * pool + a - around < h and 0 <= x * pool + b - around < w
                    for a in range(pool)
                    for b in range(pool)
                )
                mean = v[o] * Fraction(inside, pool**2)
                moved += abs(Fraction(float(row[(o * down + y) * across + x]))) * mean
            if moved > bound:
                return False
    return True


class Case:
    """A valid pair of files, tight to 1e-9."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        c, ins, q, k = (int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(1, 4)), 3)
        size, stride, pool, around = [(4, 1, 2, 0), (5, 2, 1, 0), (3, 1, 4, 1), (4, 1, 4, 0)][int(rng.integers(4))]
        hidden = (size - 1) // stride + 1
        if (hidden + 2 * around) % pool:
            around, pool = 0, 1
        dtype = rng.choice([np.float32, np.float64])
        K = rng.normal(0, 0.3, (c, c, k, k))
        for o in range(c):
            K[o, o, 1, 1] += 0.4 - np.abs(K[o]).sum()
        blocks = ((hidden + 2 * around) // pool) ** 2
        self.tensors: dict[str, Array] = {
            "W": K, "U": rng.normal(0, 1, (c, ins, k, k)), "b": rng.normal(0, 1, c * hidden**2),
            "C": rng.normal(0, 1, (q, c * blocks)), "c": np.zeros(q),
        }  # fmt: skip
        if rng.random() < 0.5:
            self.tensors |= {
                "mean": np.zeros(ins * size**2),
                "std": np.repeat(rng.uniform(0.3, 2, ins), size**2) * rng.uniform(1, 1.5, ins * size**2),
            }
        self.tensors = {name: np.ascontiguousarray(t.astype(dtype)) for name, t in self.tensors.items()}
        self.operators: dict[str, Any] = {
            "W": {"kind": "contraction", "hidden": [c, hidden, hidden],
                  "padding": str(rng.choice(["zeros", "circular"]))},
            "U": {"kind": "convolution", "image": [ins, size, size], "stride": stride},
            "C": {"kind": "pooled", "pool": pool, "padding": around}, "D": "zero",
        }  # fmt: skip
        self.kind, top = [("relu", 1.0), ("sigmoid", 0.25)][int(rng.integers(2))]
        units = str(rng.choice(["raw", "standardised"]))
        W, U, C = (self.tensors[name].astype(np.float64) for name in "WUC")
        s = np.ones(ins)
        if units == "raw" and "std" in self.tensors:
            s = 1 / self.tensors["std"].astype(np.float64).reshape(ins, -1).min(1)
        A = np.abs(W).sum((2, 3))
        centre = np.diagonal(W[:, :, 1, 1])
        A = A - np.diag(np.abs(centre)) + np.diag(centre)
        pushed = top * (np.abs(U).sum((2, 3)) @ s + 1e-3)
        v = np.linalg.solve(np.eye(c) - top * A, pushed) * (1 + 1e-12)
        bound = float((np.abs(C).reshape(q, c, -1).sum(2) @ v).max()) * (1 + 1e-9)
        self.claim: dict[str, Any] = {
            "kind": "lipschitz", "norm": "linf", "units": units, "bound": bound.hex(), "well_posed": True,
            "slopes": {"lower": [(0.0).hex()], "upper": [top.hex()]}, "comparison": hexes(v), "rows": [None] * q,
        }  # fmt: skip
        self.form = form_bytes(self.tensors, self.operators, self.kind)
        self.stated = certificate(self.form, self.claim, method="comparison")

    def certificate(self, form: bytes | None = None, **changes: Any) -> bytes:
        digest = hashlib.sha256(self.form if form is None else form).hexdigest()
        stated = {**self.stated, "claims": [{**self.claim, **changes}]}
        return json.dumps({**stated, "form": {**self.stated["form"], "sha256": digest}}).encode()


Files = tuple[bytes, bytes]
Attack = Callable[[Case], Files]


def lower_bound(case: Case) -> Files:
    factor = 1 - 10.0 ** -case.rng.uniform(1, 8)
    return case.certificate(bound=(float.fromhex(case.claim["bound"]) * factor).hex()), case.form


def other_comparison(case: Case) -> Files:
    values = np.array([float.fromhex(entry) for entry in case.claim["comparison"]])
    which = int(case.rng.integers(3))
    if which == 0:
        values = values * 10.0 ** case.rng.uniform(-3, 3)
    elif which == 1:
        values[int(case.rng.integers(values.size))] *= 1 + float(case.rng.choice([-1, 1])) * 10.0 ** -case.rng.uniform(
            0.1, 14
        )
    else:
        values[int(case.rng.integers(values.size))] *= -1
    return case.certificate(comparison=hexes(values)), case.form


def odd_field(case: Case) -> Files:
    rows, comparison = case.claim["rows"], case.claim["comparison"]
    odd: list[dict[str, Any]] = [
        {"rows": [*rows, None]}, {"rows": rows[:-1]}, {"rows": [{} for _ in rows]}, {"comparison": None},
        {"comparison": comparison[:-1]}, {"comparison": [*comparison, comparison[0]]}, {"well_posed": 1},
        {"norm": "l2"}, {"norm": "l1"}, {"kind": "monotone"}, {"units": "pixels"}, {"bound": "0x0.0p+0"},
        {"bound": "inf"}, {"extra": 0}, {"slopes": {"lower": [], "upper": []}},
        {"comparison": ["nan"] * len(comparison)},
    ]  # fmt: skip
    return case.certificate(**odd[int(case.rng.integers(len(odd)))]), case.form


def narrow_slopes(case: Case) -> Files:
    top = float.fromhex(case.claim["slopes"]["upper"][0]) * float(case.rng.uniform(0.5, 1 - 1e-12))
    return case.certificate(slopes={"lower": [(0.0).hex()], "upper": [top.hex()]}), case.form


def other_units(case: Case) -> Files:
    return case.certificate(units="raw" if case.claim["units"] != "raw" else "standardised"), case.form


def grown_weights(case: Case) -> Files:
    name = str(case.rng.choice(sorted(set(case.tensors) - {"b", "c", "mean"})))
    tensor = case.tensors[name].copy()
    tensor.flat[int(case.rng.integers(tensor.size))] *= 1 + float(case.rng.choice([-1, 1])) * 10.0 ** -case.rng.uniform(
        0.1, 9
    )
    form = form_bytes({**case.tensors, name: tensor}, case.operators, case.kind)
    return case.certificate(form), form


def other_operators(case: Case) -> Files:
    operators = copy.deepcopy(case.operators)
    which = int(case.rng.integers(5))
    if which == 0:
        operators["W"]["padding"] = "circular" if operators["W"]["padding"] == "zeros" else "zeros"
    elif which == 1:
        operators["U"]["stride"] = int(case.rng.integers(0, 4))
    elif which == 2:
        operators["C"]["pool"] = int(case.rng.integers(0, 5))
    elif which == 3:
        operators["W"]["hidden"] = [int(size) for size in case.rng.permutation(operators["W"]["hidden"])]
    else:
        operators["U"]["image"][1] += 1
    form = form_bytes(case.tensors, operators, case.kind)
    return case.certificate(form), form


def other_activation(case: Case) -> Files:
    form = form_bytes(case.tensors, case.operators, str(case.rng.choice(["relu", "sigmoid", "gelu"])))
    return case.certificate(form), form


ALWAYS_CAUGHT: list[Attack] = [odd_field, narrow_slopes]
CAUGHT_WHERE_FALSE: list[Attack] = [
    *(lower_bound, other_comparison, other_units, grown_weights, other_operators, other_activation),
    *(flipped_certificate, flipped_form_with_new_digest),
]


def test_tampering_is_caught(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    tamper(tmp_path, lambda: Case(rng), ALWAYS_CAUGHT, CAUGHT_WHERE_FALSE, claim_holds, cases=CASES, each=20)


@pytest.mark.parametrize("tensor", ["W", "U", "C"])
def test_nothing_is_lost_at_the_edge(tmp_path: Path, tensor: str) -> None:
    """A weight that grows by one unit in its last place, under a bound that is attained exactly, is refused."""
    one = {
        "W": np.zeros((1, 1, 3, 3)), "U": np.ones((1, 1, 1, 1)), "b": np.zeros(16), "C": np.ones((1, 1)),
        "c": np.zeros(1),
    }  # fmt: skip
    one["W"][0, 0, 0, 0] = 0.5
    operators = {
        "W": {"kind": "contraction", "hidden": [1, 4, 4], "padding": "circular"},
        "U": {"kind": "convolution", "image": [1, 4, 4], "stride": 1},
        "C": {"kind": "pooled", "pool": 4, "padding": 0}, "D": "zero",
    }  # fmt: skip
    claim = {
        "kind": "lipschitz", "norm": "linf", "units": "raw", "bound": (2.0).hex(), "well_posed": True,
        "slopes": {"lower": [(0.0).hex()], "upper": [(1.0).hex()]}, "comparison": [(2.0).hex()], "rows": [None],
    }  # fmt: skip
    for grown in (False, True):
        tensors = {name: own.copy() for name, own in one.items()}
        if grown:
            place = tensors[tensor].reshape(-1)
            place[0] = np.nextafter(place[0], np.inf)
        form = form_bytes(tensors, operators, "relu")
        (tmp_path / "form.safetensors").write_bytes(form)
        (tmp_path / "certificate.json").write_text(json.dumps(certificate(form, claim)))
        assert check(tmp_path / "certificate.json").valid == (not grown)
