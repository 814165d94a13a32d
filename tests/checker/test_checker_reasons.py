"""Each refusal says what is wrong: one mistake at a time in a certificate and a form that are otherwise right."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checker_artefacts import RELU, certificate, form_header, lben, lipschitz_claim, safetensors_bytes, verdict_on

from equilip.checker import check, exact
from equilip.checker.exact import Budget
from equilip.checker.files import Refused

Change = Callable[[dict[str, Any]], Any]

NETWORK, MULTIPLIERS = lben(np.random.default_rng(0), 3, 2, 2, 1.0)
HEADER, DATA = form_header(NETWORK, [{**RELU, "size": 3}])
FORM = safetensors_bytes(HEADER, DATA)


def put(*path: str | int, value: Any) -> Change:
    """A change that sets one entry."""

    def change(content: dict[str, Any]) -> None:
        target: Any = content
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


def drop(*path: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        target = content
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]

    return change


def rename(old: str, new: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        content[new] = content.pop(old)

    return change


def test_without_a_mistake_it_is_valid(tmp_path: Path) -> None:
    assert verdict_on(tmp_path, certificate(FORM, lipschitz_claim(1.0, MULTIPLIERS)), FORM).valid


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            put("format", value="equilip.certificate/2"),
            r"format is 'equilip\.certificate/2', not equilip\.certificate/1",
        ),
        (put("surplus", value=1), r"the certificate lacks the keys \[\] or has the unknown keys \['surplus'\]"),
        (drop("claims"), r"the certificate lacks the keys \['claims'\]"),
        (put("claims", value=[]), "claims is not an array of 1 to"),
        (put("claims", value={}), "claims is not an array"),
        (put("claims", 0, value=7), "claim 1: it is not an object"),
        (put("claims", 0, "kind", value="beauty"), "claim 1: nothing is known of claims of kind 'beauty'"),
        (put("claims", 0, "norm", value="l7"), "claim 1: nothing is known of claims of kind 'lipschitz' and norm 'l7'"),
        (put("claims", 0, "units", value="miles"), "units are neither standardised nor raw"),
        (put("claims", 0, "well_posed", value=False), "does not say that the network is well posed"),
        (put("claims", 0, "bound", value=1.0), "is not a finite float in canonical hexadecimal"),
        (put("claims", 0, "bound", value="0x1p+0"), "is not a finite float in canonical hexadecimal"),
        (put("claims", 0, "bound", value="-0x1.0000000000000p+0"), "claim 1: the bound must be positive"),
        (put("claims", 0, "multipliers", value=["0x1.0000000000000p+0"]), "is not an array of 3 to 3 entries"),
        (put("claims", 0, "slopes", value=[]), "is not an object"),
        (put("claims", 0, "slopes", "upper", value=["0x1.0000000000000p-1"]), "do not hold those of the activation"),
        (put("form", "file", value="../form.safetensors"), "not a plain name in the certificate's directory"),
        (put("form", "sha256", value="ABC"), "is not 64 lower-case hexadecimal digits"),
        (put("form", "sha256", value="0" * 64), f"the certificate is for another form: sha256 {'0' * 64}"),
    ],
)
def test_certificates(change: Change, reason: str, tmp_path: Path) -> None:
    stated = certificate(FORM, lipschitz_claim(1.0, MULTIPLIERS))
    change(stated)
    verdict = verdict_on(tmp_path, stated, FORM)
    assert verdict.exit_status == 1
    assert re.search(reason, verdict.reason), verdict.reason


def metadata(**changes: Any) -> Change:
    """A change of what the form says of itself."""

    def change(header: dict[str, Any]) -> None:
        described = json.loads(header["__metadata__"]["equilip"])
        described |= changes
        header["__metadata__"]["equilip"] = json.dumps(described, sort_keys=True, separators=(",", ":"))

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (rename("W", "A"), "the form lacks the tensor W, or has the unknown tensors A"),
        (put("E", value={}), r"or has the unknown keys \['E'\]"),
        (put("__metadata__", value=[]), "the form's metadata is not an object"),
        (put("__metadata__", "equilip", value=1), "the form's metadata is not text"),
        (put("__metadata__", "equilip", value='{"format": 1}'), "the form's metadata lacks the keys"),
        (metadata(format="equilip.form/3"), r"the form's format is 'equilip\.form/3', neither equilip\.form/1 nor"),
        (metadata(operators={}), "the form's operators are not those of its tensors"),
        (metadata(activation=[{"kind": "gelu", "size": 3}]), "a block of neurons is of unknown kind 'gelu'"),
        (metadata(activation=[{"kind": "relu", "size": 2}]), "the activation's blocks do not cover the 3 neurons"),
        (metadata(activation=[{"kind": "relu", "size": True}]), "the size of a block is not an integer from 0 to 3"),
        (
            metadata(activation=[{"kind": "elu", "size": 3, "alpha": "0x1.0000000000000p+1"}]),
            r"make no elu with slopes in \[0, 1\]",
        ),
        (put("W", "dtype", value="I64"), "tensor W is neither F32 nor F64"),
        (put("W", "shape", value=[3, 4]), "tensor W does not have the place that its shape needs"),
        (put("W", "shape", value=[3, -3]), "a size of W is not an integer from 0 to"),
        (put("W", "data_offsets", value=[0]), "the offsets of W is not an array of 2 to 2 entries"),
        (put("W", "shape", value=[9, 1]), r"W has shape \(9, 1\), which does not fit b, c and U"),
    ],
)
def test_forms(change: Change, reason: str, tmp_path: Path) -> None:
    header, data = form_header(NETWORK, [{**RELU, "size": 3}])
    change(header)
    form = safetensors_bytes(header, data)
    verdict = verdict_on(tmp_path, certificate(form, lipschitz_claim(1.0, MULTIPLIERS)), form)
    assert verdict.exit_status == 1
    assert re.search(reason, verdict.reason), verdict.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"b": NETWORK["b"].astype(np.float32)}, "the tensors are not all of one number format"),
        ({"U": np.where(np.arange(2) == 0, np.nan, NETWORK["U"])}, "tensor U holds NaN or infinity"),
        ({"std": np.ones(2)}, "mean and std must come together, and std must be positive"),
        (
            {"mean": np.zeros(2), "std": np.array([1.0, 0.0])},
            "mean and std must come together, and std must be positive",
        ),
    ],
)
def test_numbers(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    form = safetensors_bytes(*form_header({**NETWORK, **changes}, [{**RELU, "size": 3}]))
    verdict = verdict_on(tmp_path, certificate(form, lipschitz_claim(1.0, MULTIPLIERS)), form)
    assert verdict.exit_status == 1
    assert re.search(reason, verdict.reason), verdict.reason


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"\xff", 2, "not JSON"),
        (b'{"a": 1, "a": 2}', 1, "a JSON object names a key twice"),
        (b'{"a": 1e999}', 1, "a JSON number is too large, too long, or not a number"),
        (b"[" * 100_000, 1, "JSON that is nested too deeply"),
        (b"[]", 1, "the certificate is not an object"),
    ],
)
def test_json(content: bytes, status: int, reason: str, tmp_path: Path) -> None:
    verdict = verdict_on(tmp_path, content, FORM)
    assert verdict.exit_status == status
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (b"", "the form is cut off, or its header is too long"),
        (FORM[:-1], "does not have the place that its shape needs"),
        (FORM + b"!", "the tensors overlap, leave gaps, or do not end with the file"),
        (
            safetensors_bytes({**HEADER, "__metadata__": {"equilip": " " + HEADER["__metadata__"]["equilip"]}}, DATA),
            "compact",
        ),
    ],
)
def test_files_of_the_form(form: bytes, reason: str, tmp_path: Path) -> None:
    verdict = verdict_on(tmp_path, certificate(form, lipschitz_claim(1.0, MULTIPLIERS)), form)
    assert verdict.exit_status == 1
    assert reason in verdict.reason


def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict_on(tmp_path, certificate(FORM, lipschitz_claim(1.0, MULTIPLIERS)), FORM).valid
    stat = Path.stat

    def smaller(self: Path, **options: Any) -> os.stat_result:
        found = list(stat(self, **options))
        found[6] -= 1
        return os.stat_result(found)

    monkeypatch.setattr(Path, "stat", smaller)
    verdict = check(tmp_path / "certificate.json")
    assert verdict.exit_status == 1
    assert "'certificate.json' changed while it was read" in verdict.reason


def test_the_work_of_a_check_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="checking this would take too long: too many neurons, claims, or digits"):
        Budget(10).spend(11)
    monkeypatch.setattr(exact.Budget.__init__, "__defaults__", (10,))
    verdict = verdict_on(tmp_path, certificate(FORM, lipschitz_claim(1.0, MULTIPLIERS)), FORM)
    assert verdict.exit_status == 1
    assert "claim 1: checking this would take too long" in verdict.reason
