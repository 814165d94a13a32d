"""Claims about multi-tier networks: whatever is done to them leaves a true claim, or none."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from checker_artefacts import Array, certificate
from checker_attacks import flipped_certificate, flipped_form_with_new_digest, tamper

from equilip.checker import check

SEED = 20251122
CASES = 330


def form_bytes(tensors: dict[str, Array], operators: dict[str, Any]) -> bytes:
    n = len(tensors["b"])
    described = {"activation": [{"kind": "relu", "size": n}], "format": "equilip.form/2", "operators": operators}
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return bytes(safetensors.numpy.save(tensors, metadata={"equilip": text}))


def matrix(
    kernel: Array, image: tuple[int, int], pixels: tuple[int, int], offset: int, step: int, circular: bool
) -> Array:
    """A convolution from its definition: pixel (i, j) reads from (step i + offset, step j + offset) on."""
    outs, ins, k, _ = kernel.shape
    (h, w), (tall, wide) = image, pixels
    rows = np.zeros((outs, tall, wide, ins, h, w))
    for i, j, s, t in np.ndindex(tall, wide, k, k):
        y, x = step * i + offset + s, step * j + offset + t
        if circular:
            y, x = y % h, x % w
        if 0 <= y < h and 0 <= x < w:
            rows[:, i, j, :, y, x] += kernel[:, :, s, t]
    return rows.reshape(outs * tall * wide, ins * h * w)


def matrices(tensors: dict[str, Array], own: dict[str, Any]) -> tuple[Array, Array, Array]:
    """X, U and C of the form, by the definitions in docs/formats.md; shares nothing with the checker."""
    hidden, circular = own["W"]["hidden"], own["W"]["padding"] == "circular"
    k = tensors["A"].shape[1]
    half = k // 2
    sizes = [c * h * w for c, h, w in hidden]
    edges = np.cumsum([0, *sizes])
    apart: dict[str, list[Array]] = {}
    for name, pairs in (
        ("A", [(c, c) for c, _, _ in hidden]),
        ("B", [(c, c) for c, _, _ in hidden]),
        ("K", [(after[0], before[0]) for before, after in pairwise(hidden)]),
    ):
        pieces = np.split(tensors[name], np.cumsum([a * b for a, b in pairs])[:-1])
        apart[name] = [piece.reshape(*pair, k, k) for piece, pair in zip(pieces, pairs, strict=True)]

    def full(kernel: Array, image: tuple[int, int]) -> Array:
        grow, offset = (0, -half) if circular else (k - 1, 1 - k)
        return matrix(kernel, image, (image[0] + grow, image[1] + grow), offset, 1, circular)

    X = float.fromhex(own["W"]["epsilon"]) * np.eye(int(edges[-1]))
    for i, (_, h, w) in enumerate(hidden):
        here = slice(edges[i], edges[i + 1])
        A, B = full(apart["A"][i], (h, w)), matrix(apart["B"][i], (h, w), (h, w), -half, 1, circular)
        X[here, here] += A.T @ A + B.T - B
        if i + 1 < len(hidden):
            K = full(apart["K"][i], (h, w))
            X[here, here] += K.T @ K
            tall, wide = -(-h // 2), -(-w // 2)
            after = full(apart["A"][i + 1], (tall, wide))
            # Its pixel i is centred where A's pixel i is, at twice the distance from the corner.
            grow, offset = (0, -half) if circular else (k - 1, -3 * half)
            N = matrix(apart["K"][i], (h, w), (tall + grow, wide + grow), offset, 2, circular)
            X[edges[i + 1] : edges[i + 2], here] += 2 * after.T @ N
    _, h, w = hidden[0]
    U = np.zeros((int(edges[-1]), tensors["U"].shape[1] * h * w))
    U[: sizes[0]] = matrix(tensors["U"], (h, w), (h, w), -(tensors["U"].shape[2] // 2), 1, circular)
    (c, h, w), pool = hidden[-1], own["C"]["pool"]
    C = np.zeros((len(tensors["C"]), int(edges[-1])))
    blocks = tensors["C"].reshape(len(tensors["C"]), c, h // pool, w // pool) / pool**2
    C[:, edges[-2] :] = blocks.repeat(pool, 2).repeat(pool, 3).reshape(len(C), -1)
    return X, U, C


def claim_holds(stated: bytes, form: bytes) -> bool:
    """The claims by the matrices themselves."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in safetensors.numpy.load(form).items()}
    header = json.loads(form[8 : 8 + int.from_bytes(form[:8], "little")])
    X, U, C = matrices(tensors, json.loads(header["__metadata__"]["equilip"])["operators"])
    if not np.linalg.eigvalsh(X + X.T)[0] > 0:
        return False
    for claim in json.loads(stated)["claims"]:
        bound, tau = float.fromhex(claim["bound"]), float.fromhex(claim["scale"])
        if not (bound > 0 and tau > 0):
            return False
        s = 1.0
        if claim["units"] == "raw" and "std" in tensors:
            s = 1 / float(tensors["std"].min())
        S = tau * (X + X.T) - C.T @ C * s / bound - tau * tau * U @ U.T * s / bound
        if not np.linalg.eigvalsh(S)[0] >= -1e-10 * np.abs(S).max():
            return False
    return True


class Case:
    """A valid pair of files, tight to 1e-9."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        ins, q = int(rng.integers(1, 3)), int(rng.integers(1, 4))
        k, circular = int(rng.choice([1, 3])), bool(rng.random() < 0.5)
        size = [(4, 6), (5, 5), (6, 4)][int(rng.integers(3))]
        channels = [int(c) for c in rng.integers(1, 3, 2)]
        if k == 1 and rng.random() < 0.5:
            channels.append(1)
        hidden, (h, w) = [], size
        for c in channels:
            hidden.append([c, h, w])
            h, w = -(-h // 2), -(-w // 2)
        if circular and k > min(hidden[-1][1:]):
            circular = False
        (c, h, w), pool = hidden[-1], 1
        if h % 2 == w % 2 == 0:
            pool = 2
        dtype = rng.choice([np.float32, np.float64])
        pairs = sum(a * b for a, b in pairwise(channels))
        squares, p = sum(c * c for c in channels), ins * size[0] * size[1]
        own: dict[str, Array] = {
            "A": rng.normal(0, 0.5, (squares, k, k)), "B": rng.normal(0, 0.5, (squares, k, k)),
            "K": rng.normal(0, 0.5, (pairs, k, k)), "U": rng.normal(0, 1, (channels[0], ins, k, k)),
            "b": np.zeros(sum(c * h * w for c, h, w in hidden)),
            "C": rng.normal(0, 1, (q, c * (h // pool) * (w // pool))), "c": np.zeros(q),
        }  # fmt: skip
        if rng.random() < 0.5:
            own |= {"mean": np.zeros(p), "std": rng.uniform(0.3, 2, p)}
        self.tensors = {name: np.ascontiguousarray(t.astype(dtype)) for name, t in own.items()}
        epsilon = 0.25
        self.operators: dict[str, Any] = {
            "W": {"kind": "tiers", "hidden": hidden, "padding": "circular" if circular else "zeros",
                  "epsilon": epsilon.hex()},
            "U": {"kind": "first"}, "C": {"kind": "last", "pool": pool}, "D": "zero",
        }  # fmt: skip
        units = str(rng.choice(["raw", "standardised"]))
        C = self.tensors["C"].astype(np.float64)
        head = float(np.linalg.norm(C, 2) ** 2 / pool**2 * (1 + 1e-9))
        sums = np.abs(self.tensors["U"].astype(np.float64)).sum((2, 3))
        inner = float(sums.sum(1).max() * sums.sum(0).max())
        beta = np.sqrt(head * inner) / (2 * epsilon) * (1 + 1e-9)
        if units == "raw" and "std" in self.tensors:
            beta /= float(self.tensors["std"].min())
        self.claim: dict[str, Any] = {
            "kind": "lipschitz", "norm": "l2", "units": units, "bound": float(beta).hex(),
            "scale": float(np.sqrt(head / inner)).hex(), "head": head.hex(), "well_posed": True,
        }  # fmt: skip
        self.form = form_bytes(self.tensors, self.operators)
        self.stated = certificate(self.form, self.claim, method="construction")

    def certificate(self, form: bytes | None = None, **changes: Any) -> bytes:
        digest = hashlib.sha256(self.form if form is None else form).hexdigest()
        stated = {**self.stated, "claims": [{**self.claim, **changes}]}
        return json.dumps({**stated, "form": {**self.stated["form"], "sha256": digest}}).encode()


Files = tuple[bytes, bytes]
Attack = Callable[[Case], Files]


def scaled(text: str, factor: float) -> str:
    return (float.fromhex(text) * factor).hex()


def lower_bound(case: Case) -> Files:
    return case.certificate(bound=scaled(case.claim["bound"], 1 - 10.0 ** -case.rng.uniform(1, 8))), case.form


def other_scale(case: Case) -> Files:
    factor = float(case.rng.choice([-1.0, 0.5, 2.0, 1 + 10.0 ** -case.rng.uniform(1, 7)]))
    return case.certificate(scale=scaled(case.claim["scale"], factor)), case.form


def quieter_head(case: Case) -> Files:
    return case.certificate(head=scaled(case.claim["head"], 1 - 10.0 ** -case.rng.uniform(0, 8))), case.form


def odd_field(case: Case) -> Files:
    odd: list[dict[str, Any]] = [
        {"well_posed": 1}, {"well_posed": False}, {"norm": "linf"}, {"kind": "monotone"}, {"units": "pixels"},
        {"bound": "0x0.0p+0"}, {"bound": "inf"}, {"extra": 0}, {"head": None}, {"scale": "0x0.0p+0"},
        {"multipliers": []},
    ]  # fmt: skip
    return case.certificate(**odd[int(case.rng.integers(len(odd)))]), case.form


def other_units(case: Case) -> Files:
    return case.certificate(units="raw" if case.claim["units"] != "raw" else "standardised"), case.form


def grown_weights(case: Case) -> Files:
    name = str(case.rng.choice(["C", "U"]))
    tensor = case.tensors[name] * np.float32(1 + 10.0 ** -case.rng.uniform(0, 5))
    form = form_bytes({**case.tensors, name: tensor.astype(case.tensors[name].dtype)}, case.operators)
    return case.certificate(form), form


def other_shapes(case: Case) -> Files:
    tensors = dict(case.tensors)
    name = str(case.rng.choice(["A", "B", "K", "U", "C", "b"]))
    which = int(case.rng.integers(3))
    if which == 0:
        tensors[name] = np.ascontiguousarray(tensors[name][..., :-1])
    elif which == 1:
        tensors[name] = np.concatenate([tensors[name], tensors[name][:1]])
    else:
        del tensors[name]
    if "b" not in tensors:
        tensors["B"], tensors["b"] = tensors["B"][:0], case.tensors["b"]
    form = form_bytes(tensors, case.operators)
    return case.certificate(form), form


def other_operators(case: Case) -> Files:
    operators = copy.deepcopy(case.operators)
    which = int(case.rng.integers(8))
    hidden = operators["W"]["hidden"]
    if which == 0:
        operators["W"]["epsilon"] = scaled(operators["W"]["epsilon"], float(case.rng.choice([-1.0, 0.0, 0.9])))
    elif which == 1:
        operators["C"]["pool"] = int(case.rng.integers(0, 5))
    elif which == 2:
        hidden[1][1] += 1
    elif which == 3:
        operators["W"]["hidden"] = hidden[::-1]
    elif which == 4:
        operators["W"]["hidden"] = hidden[:1]
    elif which == 5:
        hidden[0][0] += 1
    elif which == 6:
        operators["W"]["padding"] = "reflect"
    else:
        operators["U"]["kind"] = "last"
    form = form_bytes(case.tensors, operators)
    return case.certificate(form), form


def other_padding(case: Case) -> Files:
    """As true as before, as long as the kernels fit: the proof holds for both."""
    operators = copy.deepcopy(case.operators)
    operators["W"]["padding"] = "circular" if operators["W"]["padding"] == "zeros" else "zeros"
    form = form_bytes(case.tensors, operators)
    return case.certificate(form), form


ALWAYS_CAUGHT: list[Attack] = [odd_field, other_shapes, lower_bound]
CAUGHT_WHERE_FALSE: list[Attack] = [
    *(other_scale, quieter_head, other_units, grown_weights, other_operators, other_padding),
    *(flipped_certificate, flipped_form_with_new_digest),
]


def test_tampering_is_caught(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    tamper(
        tmp_path, lambda: Case(rng), ALWAYS_CAUGHT, CAUGHT_WHERE_FALSE, claim_holds,
        cases=CASES, each=20, harmless=[other_padding],
    )  # fmt: skip


@pytest.mark.parametrize("tensor", ["U", "C"])
def test_nothing_is_lost_at_the_edge(tmp_path: Path, tensor: str) -> None:
    """A weight that grows by one unit in its last place, under a bound that is attained, is refused."""
    one = {
        "A": np.zeros((2, 1, 1)), "B": np.zeros((2, 1, 1)), "K": np.zeros((1, 1, 1)), "U": np.full((1, 1, 1, 1), 2.0),
        "b": np.zeros(5), "C": np.full((1, 1), 3.0), "c": np.zeros(1),
    }  # fmt: skip
    operators = {
        "W": {"kind": "tiers", "hidden": [[1, 2, 2], [1, 1, 1]], "padding": "zeros", "epsilon": (0.5).hex()},
        "U": {"kind": "first"}, "C": {"kind": "last", "pool": 1}, "D": "zero",
    }  # fmt: skip
    head = float(np.nextafter(9.0, np.inf))
    # c² = 9, f² = 4, ε = 1/2: τ = 3/2 and β = 6, all but exactly.
    bound = float(Fraction(head) * Fraction(2, 3) * Fraction(1 + 2**-51))
    claim = {
        "kind": "lipschitz", "norm": "l2", "units": "raw", "bound": bound.hex(), "scale": (1.5).hex(),
        "head": head.hex(), "well_posed": True,
    }  # fmt: skip
    for grown in (1.0, 1 + 2.0**-50):
        form = form_bytes({**one, tensor: one[tensor] * grown}, operators)
        (tmp_path / "form.safetensors").write_bytes(form)
        (tmp_path / "certificate.json").write_text(json.dumps(certificate(form, claim)))
        verdict = check(tmp_path / "certificate.json")
        assert verdict.valid == (grown == 1.0), verdict.reason
