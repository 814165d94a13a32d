"""Whatever is done to a form or a certificate: INVALID, unreadable, or a claim that is true in exact fractions."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checker_artefacts import Array, certificate, form_bytes, form_header, lben, lipschitz_claim, safetensors_bytes
from checker_attacks import flipped_certificate, flipped_form, flipped_form_with_new_digest
from checker_rational import claims_hold
from test_checker_claims import block, smallest_bound

from equilip.checker import check

SEED = 20240611
CHUNKS, CASES = 8, 1500  # 12,000 cases


class Case:
    """A valid pair of files, tight to 1e-9, and the means to spoil it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        n, p, q = int(rng.integers(3, 6)), int(rng.integers(1, 5)), int(rng.integers(1, 3))
        tensors, self.lam = lben(rng, n, p, q, gamma=1.0)
        dtype = rng.choice([np.float32, np.float64])
        self.tensors: dict[str, Array] = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
        if rng.random() < 0.3:
            self.tensors["D"] = rng.normal(0, 0.2, (q, p)).astype(dtype)
        if rng.random() < 0.5:
            self.tensors |= {"mean": np.zeros(p, dtype), "std": rng.uniform(0.3, 2, p).astype(dtype)}
        leaky = bool(rng.random() < 0.3)
        self.blocks = [block("leaky_relu", n, negative_slope=0.125) if leaky else block("relu", n)]
        self.low = 0.125 if leaky else 0.0
        self.units = str(rng.choice(["raw", "standardised"]))
        raw = self.units == "raw"
        self.tight = smallest_bound(self.tensors, self.lam, np.full(n, self.low), np.ones(n), raw)
        self.claim = lipschitz_claim(self.tight * (1 + 1e-9), self.lam, [self.low], [1.0], self.units)
        self.form = form_bytes(self.tensors, self.blocks)
        self.stated = certificate(self.form, self.claim, note="a note", seconds=0.31, method="sdp")

    def certificate(self, form: bytes | None = None, **changes: Any) -> bytes:
        """The certificate for a form (by default the true one), with fields of the claim changed."""
        digest = hashlib.sha256(self.form if form is None else form).hexdigest()
        claim = {**self.claim, **changes}
        form_field = {**self.stated["form"], "sha256": digest}
        return json.dumps({**self.stated, "claims": [claim], "form": form_field}).encode()

    def last_bit(self) -> bytes:
        """The form with one number of one tensor changed by one unit in its last place."""
        names = [name for name in self.tensors if self.tensors[name].size]
        name = str(self.rng.choice(names))
        tensor = self.tensors[name].copy()
        index = int(self.rng.integers(tensor.size))
        towards = np.float64(self.rng.choice([-np.inf, np.inf])).astype(tensor.dtype)
        tensor.flat[index] = np.nextafter(tensor.flat[index], towards)
        return form_bytes({**self.tensors, name: tensor}, self.blocks)


Files = tuple[bytes, bytes]
Attack = Callable[[Case], Files]


def lowered_bound(case: Case) -> Files:
    return case.certificate(bound=(case.tight * (1 - 1e-6)).hex()), case.form


def other_bound(case: Case) -> Files:
    return case.certificate(bound=float(case.tight * 10.0 ** case.rng.uniform(-2, 2)).hex()), case.form


def nearly_tight_bound(case: Case) -> Files:
    offset = float(case.rng.choice([-1, 1])) * 10.0 ** -case.rng.uniform(9, 17)
    return case.certificate(bound=float(case.tight * (1 + offset)).hex()), case.form


def last_bit(case: Case) -> Files:
    return case.certificate(), case.last_bit()


def last_bit_with_new_digest(case: Case) -> Files:
    form = case.last_bit()
    return case.certificate(form), form


def larger_weights_with_new_digest(case: Case) -> Files:
    name = str(case.rng.choice(["W", "U", "C"]))
    dtype = case.tensors[name].dtype
    grown = (case.tensors[name] * (1 + 10.0 ** -case.rng.uniform(1, 9))).astype(dtype)
    form = form_bytes({**case.tensors, name: grown}, case.blocks)
    return case.certificate(form), form


def permuted_multipliers(case: Case) -> Files:
    return case.certificate(multipliers=case.rng.permutation(case.claim["multipliers"]).tolist()), case.form


def scaled_multipliers(case: Case) -> Files:
    scaled = case.lam * 10.0 ** case.rng.uniform(-6, 6)
    return case.certificate(multipliers=[float(m).hex() for m in scaled]), case.form


def bad_multiplier(case: Case) -> Files:
    values: list[Any] = [(-float(case.lam[0])).hex(), (0.0).hex(), "-0x0.0p+0", "nan", "inf", "0x1p+0", "1.0", 1.0]
    values += [None, True, [], "", "0x1.8p+0", "0x1.8000000000000p+9999", "0x1.0000000000000p+1024", "\ud800"]
    multipliers = list(case.claim["multipliers"])
    multipliers[int(case.rng.integers(len(multipliers)))] = values[int(case.rng.integers(len(values)))]
    return case.certificate(multipliers=multipliers), case.form


def wrong_number_of_multipliers(case: Case) -> Files:
    multipliers = case.claim["multipliers"]
    changed = [multipliers[:-1], [*multipliers, multipliers[0]], [], {}][int(case.rng.integers(4))]
    return case.certificate(multipliers=changed), case.form


def swapped_digest(case: Case) -> Files:
    digest = case.stated["form"]["sha256"]
    changed = [digest[::-1], digest.upper(), digest[:-1], hashlib.sha256(b"").hexdigest(), 5]
    stated = copy.deepcopy(case.stated)
    stated["form"]["sha256"] = changed[int(case.rng.integers(len(changed)))]
    return json.dumps(stated).encode(), case.form


def cut_certificate(case: Case) -> Files:
    content = case.certificate()
    return content[: int(case.rng.integers(len(content)))], case.form


def cut_form(case: Case) -> Files:
    form = case.form[: int(case.rng.integers(len(case.form)))]
    return case.certificate(form if case.rng.random() < 0.8 else None), form


def longer_form(case: Case) -> Files:
    form = case.form + bytes(int(case.rng.integers(1, 20)))
    return case.certificate(form), form


def other_format(case: Case) -> Files:
    name = ["equilip.certificate/2", "equilip.certificate/1 ", "", None, 1][int(case.rng.integers(5))]
    return json.dumps({**case.stated, "format": name}).encode(), case.form


def other_form_format(case: Case) -> Files:
    form = case.form.replace(b"equilip.form/1", b"equilip.form/2")
    return case.certificate(form), form


def narrow_slopes(case: Case) -> Files:
    excess = 10.0 ** -float(case.rng.uniform(1, 15))
    slopes = [(case.low + excess, 1.0), (case.low, 1.0 - excess), (0.5, 0.5), (-excess, 1.0), (0.0, 1.0 + excess)]
    low, high = slopes[int(case.rng.integers(len(slopes)))]
    return case.certificate(slopes={"lower": [low.hex()], "upper": [high.hex()]}), case.form


def wide_slopes(case: Case) -> Files:
    low = float(case.rng.uniform(0, case.low))
    return case.certificate(slopes={"lower": [low.hex()], "upper": ["0x1.0000000000000p+0"]}), case.form


def other_activation(case: Case) -> Files:
    """A form whose activation has smaller, larger or unknown slopes than the certificate assumes."""
    n = len(case.lam)
    kinds = [block("identity", n), block("sigmoid", n), block("relu", n), block("gelu", n)]
    kinds += [block("leaky_relu", n, negative_slope=a) for a in (0.0, 0.1, 1.5, -0.1)]
    kinds += [block("elu", n, alpha=2.0), block("hardtanh", n, lower=1.0, upper=0.0), block("relu", n - 1)]
    form = form_bytes(case.tensors, [kinds[int(case.rng.integers(len(kinds)))]])
    return case.certificate(form), form


def other_units(case: Case) -> Files:
    units = ["raw", "standardised", "Raw", "", None, []][int(case.rng.integers(6))]
    return case.certificate(units=units), case.form


def not_well_posed(case: Case) -> Files:
    return case.certificate(well_posed=[False, 1, "true", None][int(case.rng.integers(4))]), case.form


def unknown_claim(case: Case) -> Files:
    change = [{"kind": "monotone"}, {"norm": "linf"}, {"kind": []}, {"norm": {}}, {"extra": 1}]
    return case.certificate(**change[int(case.rng.integers(5))]), case.form


def duplicate_key(case: Case) -> Files:
    content = case.certificate().decode()
    key, value = [("bound", '"0x1.0p+0"'), ("claims", "[]"), ("sha256", '"00"'), ("norm", '"l2"')][
        int(case.rng.integers(4))
    ]
    return content.replace(f'"{key}":', f'"{key}": {value}, "{key}":').encode(), case.form


def unknown_key(case: Case) -> Files:
    return json.dumps({**case.stated, "remark": 1}).encode(), case.form


def another_file(case: Case) -> Files:
    names = ["../form.safetensors", "/etc/passwd", "", ".", "..", "a\\b", "a/b", "x\0y", "nothing.safetensors", 7]
    names += ["\ud800", "certificate.json", "./form.safetensors"]
    stated = copy.deepcopy(case.stated)
    stated["form"]["file"] = names[int(case.rng.integers(len(names)))]
    return json.dumps(stated).encode(), case.form


def huge_header(case: Case) -> Files:
    length = int(case.rng.choice([2**63 + 5, 2**40, 2**20 + 1, len(case.form), len(case.form) - 7], p=[0.2] * 5))
    form = (length % 2**64).to_bytes(8, "little") + case.form[8:]
    return case.certificate(form), form


def huge_sizes(case: Case) -> Files:
    """Shapes, offsets and number formats that do not fit the data."""
    header, data = form_header(case.tensors, case.blocks)
    entry = header[str(case.rng.choice(sorted(case.tensors)))]
    big = int(10.0 ** case.rng.uniform(1, 18))
    changes: list[dict[str, Any]] = [
        {"shape": [big, big]},
        {"shape": [big]},
        {"shape": [0, big]},
        {"shape": [-1, -1]},
        {"shape": [True, 1.0]},
        {"shape": [[1]]},
        {"shape": [1] * 300},
        {"shape": None},
        {"data_offsets": [0, big]},
        {"data_offsets": [big, big]},
        {"data_offsets": [-big, 0]},
        {"data_offsets": [0]},
        {"data_offsets": [8, 0]},
        {"dtype": "F16"},
        {"dtype": []},
        {"dtype": "F64" if entry["dtype"] == "F32" else "F32"},
        {"more": 1},
    ]
    entry |= changes[int(case.rng.integers(len(changes)))]
    form = safetensors_bytes(header, data)
    return case.certificate(form), form


def overlapping_tensors(case: Case) -> Files:
    header, data = form_header(case.tensors, case.blocks)
    names = sorted(case.tensors)
    one, other = case.rng.choice(len(names), 2, replace=False)
    header[names[one]]["data_offsets"] = header[names[other]]["data_offsets"]
    form = safetensors_bytes(header, data)
    return case.certificate(form), form


def not_a_number(case: Case) -> Files:
    name = str(case.rng.choice(sorted(case.tensors)))
    tensor = case.tensors[name].copy()
    tensor.flat[int(case.rng.integers(tensor.size))] = case.rng.choice([np.nan, np.inf, -np.inf])
    form = form_bytes({**case.tensors, name: tensor}, case.blocks)
    return case.certificate(form), form


def extreme_numbers(case: Case) -> Files:
    """Weights up to the largest and down to the smallest that the format has."""
    name = str(case.rng.choice(sorted(set(case.tensors) - {"std"})))
    tensor = case.tensors[name].copy()
    limits = np.finfo(tensor.dtype)
    values = [limits.max, -limits.max, limits.tiny, limits.smallest_subnormal, 0.0]
    tensor.flat[int(case.rng.integers(tensor.size))] = values[int(case.rng.integers(5))]
    form = form_bytes({**case.tensors, name: tensor}, case.blocks)
    return case.certificate(form), form


def extreme_claim(case: Case) -> Files:
    values = ["0x1.fffffffffffffp+1023", "0x0.0000000000001p-1022", "0x0.0p+0", "-0x1.0000000000000p+0"]
    multipliers = [
        values[int(case.rng.integers(4))] if case.rng.random() < 0.5 else m for m in case.claim["multipliers"]
    ]
    bound = values[int(case.rng.integers(4))] if case.rng.random() < 0.5 else case.claim["bound"]
    return case.certificate(bound=bound, multipliers=multipliers), case.form


def junk(case: Case) -> Files:
    """Any value of the certificate or of the form's header replaced by something else."""
    odd: list[Any] = [None, True, False, 0, -1, 1.5, 10**30, "", "x", [], {}, [[]], {"a": 1}, ["0x1.0000000000000p+0"]]

    def spoil(value: Any) -> Any:
        keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
        if not keys or case.rng.random() < 0.2:
            return odd[int(case.rng.integers(len(odd)))]
        key = keys[int(case.rng.integers(len(keys)))]
        if isinstance(value, dict) and case.rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        value[key] = spoil(value[key])
        return value

    if case.rng.random() < 0.5:
        return json.dumps(spoil(copy.deepcopy(case.stated))).encode(), case.form
    header, data = form_header(case.tensors, case.blocks)
    if case.rng.random() < 0.5:
        inner = json.loads(header["__metadata__"]["equilip"])
        spoilt = json.dumps(spoil(inner), sort_keys=True, separators=(",", ":"))
        header["__metadata__"]["equilip"] = spoilt
    else:
        header = spoil(header)
    form = safetensors_bytes(header, data)
    return case.certificate(form), form


#: Attacks after which nothing can be valid, and attacks after which a true claim may remain.
ALWAYS_CAUGHT: list[Attack] = [
    *(lowered_bound, last_bit, bad_multiplier, wrong_number_of_multipliers, swapped_digest, cut_certificate, cut_form),
    *(longer_form, flipped_form, other_format, other_form_format, narrow_slopes, not_well_posed, unknown_claim),
    *(duplicate_key, unknown_key, another_file, huge_header, huge_sizes, overlapping_tensors, not_a_number),
]
CAUGHT_WHERE_FALSE: list[Attack] = [
    *(other_bound, nearly_tight_bound, last_bit_with_new_digest, larger_weights_with_new_digest, permuted_multipliers),
    *(scaled_multipliers, flipped_certificate, flipped_form_with_new_digest, wide_slopes, other_activation),
    *(other_units, extreme_numbers, extreme_claim, junk),
]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_tampering_is_caught(chunk: int, tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, chunk])
    form_path, certificate_path = tmp_path / "form.safetensors", tmp_path / "certificate.json"
    attacks = ALWAYS_CAUGHT + CAUGHT_WHERE_FALSE
    outcomes: Counter[tuple[str, int]] = Counter()
    for number in range(CASES):
        if number % 35 == 0:
            case = Case(rng)
            form_path.write_bytes(case.form)
            certificate_path.write_bytes(case.certificate())
            assert check(certificate_path).valid
            assert claims_hold(case.certificate(), case.form)
        attack = attacks[number % len(attacks)]
        stated, form = attack(case)
        form_path.write_bytes(form)
        certificate_path.write_bytes(stated)
        verdict = check(certificate_path)
        outcomes[attack.__name__, verdict.exit_status] += 1
        where = f"seed {SEED}, chunk {chunk}, case {number}: {attack.__name__}"
        assert verdict.reason, where
        if verdict.valid:
            assert attack not in ALWAYS_CAUGHT, where
            assert claims_hold(stated, form), where
        else:
            assert verdict.claims == (), where
    for attack in CAUGHT_WHERE_FALSE:  # each of them is met in a false form at least once
        assert outcomes[attack.__name__, 1] + outcomes[attack.__name__, 2] or attack is wide_slopes, attack.__name__
