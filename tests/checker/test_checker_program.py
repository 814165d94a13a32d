"""The program: its output and exit status, what it imports, and files that no reader should have to meet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checker_artefacts import certificate, form_bytes, form_header, lben, lipschitz_claim, safetensors_bytes, verdict_on
from checker_chains import chain_bytes, product_claim, random_chain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_checker_claims import block

from equilip.checker import __main__ as program
from equilip.checker import check
from equilip.checker.files import MAX_CERTIFICATE, MAX_FORM

#: Lets a process import equilip.checker, the standard library and numpy; everything else fails.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or top == "numpy" or name in ("equilip", "equilip.checker"):
            return None
        if name.startswith("equilip.checker."):
            return None
        raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
for name in ("torch", "safetensors", "flint", "equilip.form"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(99)
sys.argv = ["checker", *sys.argv[1:]]
import runpy
runpy.run_module("equilip.checker", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A directory with a valid certificate and its form."""
    tensors, lam = lben(np.random.default_rng(20), 4, 3, 2, gamma=1.0)
    form = form_bytes(tensors, [block("relu", 4)])
    assert verdict_on(tmp_path, certificate(form, lipschitz_claim(1.0, lam), note="n", seconds=0.5), form).valid
    return tmp_path


def changed(run: Path, **changes: Any) -> Path:
    path = run / "certificate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_it_runs_with_numpy_alone(run: Path) -> None:
    command = [sys.executable, "-c", BLOCKER, str(run / "certificate.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("VALID for the form with sha256 ")
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["claims"][0]["bound_hex"] == (1.0).hex()


def test_chains_are_checked_with_numpy_alone(tmp_path: Path) -> None:
    form = chain_bytes(layers := random_chain(np.random.default_rng(1)))
    assert verdict_on(tmp_path, certificate(form, product_claim(layers, "raw")), form).valid
    command = [sys.executable, "-c", BLOCKER, str(tmp_path / "certificate.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("VALID for the form with sha256 ")


def test_output_and_exit_status(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(run / "certificate.json")
    assert program.main([path]) == 0
    assert "slopes are at most 1.0 (0x1.0000000000000p+0) in standardised input units" in capsys.readouterr().out
    assert program.main([path, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert (output["verdict"], output["sha256"]) == ("VALID", check(path).digest)
    moved = run / "elsewhere"
    (run / "form.safetensors").rename(moved)
    assert program.main([path]) == 2
    assert capsys.readouterr().out.startswith("UNREADABLE: cannot read ")
    assert program.main([path, "--form", str(moved)]) == 0
    moved.write_bytes(moved.read_bytes()[:-1])
    assert program.main([path, "--form", str(moved)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("INVALID: the certificate is for another form")
    assert program.main([path, "--form", str(moved), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["claims"] == []


def test_notes_are_allowed_and_ignored(run: Path) -> None:
    path = changed(run, note={"any": [1]}, readable="x", version="0.1.0", method="sdp", seconds=1, inflation=1e-9)
    assert check(path).valid


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"VALID", b'{"a": 1} x', b"\xef\xbb\xbf{}", b'{"a": 1,}', b"\x00" * 100]
)
def test_what_is_not_json_is_unreadable(run: Path, content: bytes) -> None:
    (run / "certificate.json").write_bytes(content)
    assert check(run / "certificate.json").exit_status == 2


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10**6,
        b'{"a":' * 10**6,
        b"1" * 10**6,
        b"-" + b"1" * 5000,
        b"1e999",
        b"0." + b"1" * 10**6,
        b"NaN",
        b"[-Infinity]",
        b"null",
        b"[]",
        b'"x"',
        b"{}",
        b'{"a": 1, "a": 1}',
        b'"\\ud800"',
    ],
)
def test_hostile_json_is_invalid_and_quick(run: Path, content: bytes) -> None:
    (run / "certificate.json").write_bytes(content)
    started = time.perf_counter()
    verdict = check(run / "certificate.json")
    assert verdict.exit_status == 1
    assert len(verdict.reason) < 500
    assert time.perf_counter() - started < 5


def test_hostile_json_inside_the_form_is_invalid(run: Path) -> None:
    tensors, lam = lben(np.random.default_rng(21), 3, 2, 1, gamma=1.0)
    header, data = form_header(tensors, [block("relu", 3)])
    inner = header["__metadata__"]["equilip"]
    spoilt = [inner + " ", inner.replace('"relu"', "NaN"), "[" * 10**5, '{"a":' * 900 + "1" + "}" * 900, "\ud800", ""]
    spoilt += [inner[:-1] + "," + inner[1:], inner.replace("relu", "x" * 10**5), inner.replace(":3}", ":" + "[" * 900)]
    spoilt += [inner.replace('"relu"', "[" * 900 + "]" * 900), inner.replace('"dense"', '"conv"')]
    headers = [json.dumps({**header, "__metadata__": {"equilip": text}}).encode() for text in spoilt]
    headers += [b"[" * 10**5, b"{}", b"", b"[]", json.dumps({**header, "__metadata__": {}}).encode()]
    headers += [json.dumps({**header, "__metadata__": {"equilip": inner, "more": "x"}}).encode()]
    headers += [json.dumps({**header, "X": header["b"]}).encode(), json.dumps(header).encode() + b"\0"]
    claim = lipschitz_claim(1.0, lam)
    good = safetensors_bytes(json.dumps(header).encode() + b"   ", data)  # safetensors pads headers with blanks
    assert verdict_on(run, certificate(good, claim), good).valid
    for text in headers:
        form = safetensors_bytes(text, data)
        verdict = verdict_on(run, certificate(form, claim), form)
        assert (verdict.exit_status, len(verdict.reason) < 500) == (1, True), (text[:100], verdict)


def test_sizes_are_bounded_before_anything_is_read(run: Path) -> None:
    for name, limit in (("form.safetensors", MAX_FORM), ("certificate.json", MAX_CERTIFICATE)):
        with (run / name).open("r+b") as stream:
            stream.truncate(limit + 1)  # a sparse file: no disk is used
        started = time.perf_counter()
        verdict = check(run / "certificate.json")
        assert verdict.exit_status == 1
        assert "bytes, more than" in verdict.reason
        assert time.perf_counter() - started < 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_regular_file_is_unreadable(run: Path) -> None:
    (run / "form.safetensors").unlink()
    os.mkfifo(run / "form.safetensors")
    assert check(run / "certificate.json").exit_status == 2
    assert check("/dev/zero").exit_status == 2
    assert check(run).exit_status == 2
    assert check(run / "missing").exit_status == 2
    assert check(run / "nul\0").exit_status == 2


def test_too_many_neurons_inputs_or_claims(run: Path) -> None:
    n = 2100
    tensors = {"W": np.zeros((n, n), np.float32), "U": np.zeros((n, 1), np.float32), "b": np.zeros(n, np.float32)}
    tensors |= {"C": np.zeros((1, n), np.float32), "c": np.zeros(1, np.float32)}
    form = form_bytes(tensors, [block("relu", n)])
    assert "more than this program checks" in verdict_on(run, certificate(form, {}), form).reason
    tensors, lam = lben(np.random.default_rng(22), 3, 2, 1, gamma=1.0)
    form = form_bytes(tensors, [block("relu", 3)])
    assert not verdict_on(run, certificate(form, *[lipschitz_claim(1.0, lam)] * 65), form).valid
    assert not verdict_on(run, certificate(form), form).valid


def test_magnitudes_that_would_need_huge_integers_are_refused_quickly(run: Path) -> None:
    tensors, lam = lben(np.random.default_rng(23), 40, 30, 3, gamma=1.0)
    started = time.perf_counter()
    for name in ("W", "U", "C"):
        spread = tensors[name].copy()
        spread.flat[:] = np.geomspace(1e-307, 1e307, spread.size)
        form = form_bytes({**tensors, name: spread}, [block("relu", 40)])
        verdict = verdict_on(run, certificate(form, lipschitz_claim(1.0, lam)), form)
        assert verdict.reason == "claim 1: the range of magnitudes of the numbers is too large"
    form = form_bytes(tensors, [block("relu", 40)])
    for multipliers in (np.geomspace(1e-307, 1e307, 40), np.full(40, 1e-307), np.full(40, 5e-324)):
        assert not verdict_on(run, certificate(form, lipschitz_claim(1.0, multipliers)), form).valid
    assert time.perf_counter() - started < 5


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.binary(max_size=200), values)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_exception_escapes(run: Path, content: bytes, value: Any) -> None:
    """Random bytes as either file, random JSON as certificate, claim and form header."""
    path = run / "fuzzed.json"
    path.write_bytes(content)
    assert not check(path).valid
    for form in (content, safetensors_bytes(json.dumps(value).encode(), content)):
        for stated in (value, certificate(form, value)):
            (run / "fuzzed").write_bytes(form)
            path.write_text(json.dumps(stated))
            assert not check(path, run / "fuzzed").valid
