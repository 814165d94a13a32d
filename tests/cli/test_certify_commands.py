"""certify and verify as people type them, every published dense network, and each deliberate mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from equilip.checker import check
from equilip.cli import main
from equilip.train import runs

SHARED = Path(__file__).parents[2].parent / "shared"
REFERENCE = SHARED / "reference"

needs_shared = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"{REFERENCE} is not there")

#: file, kind, gamma, the largest bound that may be proved (issue 3: 1.001 times the prototype's), the largest slope
#: that anyone found (where somebody looked), and whether both are for raw input.
AUDIT = [
    ("lben/mnist_fc_lip0.2_w80.params", "lben-fc", 0.2, 0.1963, 0.1842, False),
    ("lben/mnist_fc_lip0.5_w80.params", "lben-fc", 0.5, 0.4821 * 1.001, 0.458, False),
    ("lben/mnist_fc_lip1.0_w80.params", "lben-fc", 1.0, 0.9158 * 1.001, 0.865, False),
    ("lben/mnist_fc_lip5.0_w80.params", "lben-fc", 5.0, 3.1226 * 1.001, 2.912, False),
    ("lben/cifar_fc_lip1.0_w80.params", "lben-fc", 1.0, 0.7926, 0.745, False),
    ("lben/mnist_mon_w80.params", "mondeq-fc", None, 8.7524 * 1.001, 7.752, False),
    ("lben/mnist_ode_w80.params", "lben-ode-fc", None, 11.7637 * 1.001, 9.800, False),
    ("mondeq/mnist_fc_model_trained.pt", "mondeq-fc", None, 9.4624, None, False),
    ("lben/mnist_lmt_c10_w80.mat", "lmt-fc", None, 33.96 * 1.001, 32.42, True),
    ("lben/mnist_lmt_c100_w80.mat", "lmt-fc", None, 25.50 * 1.001, 24.87, True),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    arguments = ["--limit", "60", "--width", "8", "--epochs", "2", "--batch", "20", "--gamma", "1.0"]
    assert main(["train", "--data", "digits", *arguments, "--out", str(out), "--json"]) == 0
    assert main(["certify", str(out), "--json"]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of a certified run, to be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def failing(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a command line that must fail."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    line = shown.err.splitlines()[-1]
    assert line.startswith("equilip: ")
    assert "unexpected" not in line
    return line


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> dict:
    capsys.readouterr()
    assert main([*(str(argument) for argument in arguments), "--json"]) == status
    return json.loads(capsys.readouterr().out)


def test_certify_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "certificate.json").unlink()
    found = as_json(capsys, "certify", run)
    keys = {"norm", "declared", "certified", "declared_raw", "certified_raw", "method", "seconds"}
    assert keys <= found.keys()
    assert found["norm"] == "l2"
    assert found["declared"] == 1.0
    assert 0 < found["certified"] <= 1.0
    assert found["certified_raw"] == pytest.approx(found["certified"] / 0.3764, rel=1e-6)
    assert found["declared_raw"] == pytest.approx(1 / 0.3764, rel=1e-6)
    assert found["certified"] < found["product_of_norms"]
    assert found["method"] == "sdp"
    assert found["converged"]
    assert found["form"] == runs.stored_sha256(run)
    assert "robustness" not in found
    stored = json.loads((run / "certificate.json").read_text())
    assert [float.fromhex(claim["bound"]) for claim in stored["claims"]] == [found["certified"], found["certified_raw"]]
    assert stored["form"]["sha256"] == found["form"]


def test_certify_prints_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", str(run), "--eps", "0.1", "0.5"]) == 0
    shown = capsys.readouterr().out
    for words in ("declared", "proved", "product of norms", "semidefinite programme", "median radius", "eps", "0.5"):
        assert words in shown
    assert f"equilip verify {run}/certificate.json" in shown


def test_certified_accuracy(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    eps = [0.0, 0.05, 0.1, 0.5, 100.0]
    found = {
        pairs: as_json(capsys, "certify", run, "--limit", 100, "--pairs", pairs, "--eps", *eps)
        for pairs in ("scale", "sdp")
    }
    for one in found.values():
        assert one["n"] == 100
        assert one["data"] == "digits"
        assert [row["eps"] for row in one["robustness"]] == eps
        accuracy = [row["certified_accuracy"] for row in one["robustness"]]
        assert accuracy == sorted(accuracy, reverse=True)
        assert 0 < accuracy[0] < 1
        assert accuracy[-1] == 0
    assert found["sdp"]["median_radius"] >= found["scale"]["median_radius"]
    right = 1 - as_json(capsys, "evaluate", run, "--limit", 100)["test_error_percent"] / 100
    assert found["scale"]["robustness"][0]["certified_accuracy"] == pytest.approx(right)
    found = as_json(capsys, "certify", run, "--limit", 100, "--radius")
    assert found["robustness"] == []
    assert found["median_radius"] >= 0


def test_a_spent_budget_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, "certify", run, "--seconds", "0")
    assert not found["converged"]
    assert "ran out of time" in found["note"]
    assert found["certified"] <= 1.0
    assert check(run / "certificate.json").valid


def test_verify(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificate = run / "certificate.json"
    assert main(["verify", str(certificate)]) == 0
    assert main(["verify", str(run)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"VALID for the form with sha256 {runs.stored_sha256(run)}")
    assert "raw input units" in shown
    found = as_json(capsys, "verify", certificate)
    assert found["verdict"] == "VALID"
    assert [claim["units"] for claim in found["claims"]] == ["standardised", "raw"]
    elsewhere = (run / "form.safetensors").rename(run / "elsewhere.safetensors")
    assert as_json(capsys, "verify", certificate, status=2)["verdict"] == "UNREADABLE"
    assert as_json(capsys, "verify", certificate, "--form", elsewhere)["verdict"] == "VALID"


def test_verify_says_why_not(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    certificate = run / "certificate.json"
    content = json.loads(certificate.read_text())
    claim = content["claims"][0]
    claim["bound"] = (float.fromhex(claim["bound"]) * (1 - 1e-6)).hex()
    certificate.write_text(json.dumps(content))
    assert main(["verify", str(certificate)]) == 1
    assert capsys.readouterr().out.startswith("INVALID: claim 1: ")
    found = as_json(capsys, "verify", certificate, status=1)
    assert found["verdict"] == "INVALID"
    assert found["claims"] == []
    certificate.write_text("{")
    assert main(["verify", str(certificate)]) == 2
    assert capsys.readouterr().out.startswith("UNREADABLE: ")
    assert main(["verify", str(run)]) == 2
    assert capsys.readouterr().out.startswith("UNREADABLE: not JSON")
    certificate.unlink()
    assert main(["verify", str(run)]) == 2
    assert "certificate.json" in capsys.readouterr().out
    assert main(["verify", str(run / "form.safetensors")]) == 2
    assert "the following arguments are required: CERT" in failing(capsys, "verify")


def test_verify_imports_no_torch(trained: Path) -> None:
    code = (
        "import sys\nfrom equilip.cli import main\n"
        f"assert main(['verify', {str(trained / 'certificate.json')!r}]) == 0\n"
        "heavy = {'torch', 'scipy', 'safetensors', 'rich', 'equilip.form', 'equilip.certify'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_mistakes_of_certify(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a run directory: it does not exist" in failing(capsys, "certify", tmp_path / "none")
    for eps in ("-0.1", "nan", "x"):
        said = failing(capsys, "certify", run, f"--eps={eps}")
        assert f"argument --eps: '{eps}' is not a number of at least 0" in said
    assert "unknown value 'spd'; did you mean 'sdp'?" in failing(capsys, "certify", run, "--pairs", "spd")
    assert "device 'nowhere' is not available" in failing(capsys, "certify", run, "--device", "nowhere")
    before = (run / "certificate.json").read_bytes()
    said = failing(capsys, "certify", run, "--eps", "0.1", "--data", "mnist", "--data-dir", tmp_path / "none")
    assert "the data directory" in said
    assert (run / "certificate.json").read_bytes() == before
    form = run / "form.safetensors"
    form.write_bytes(form.read_bytes()[:-8])
    assert "form.safetensors is not a form of equilip, or it is damaged" in failing(capsys, "certify", run)


def test_a_broken_promise_is_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # What a cast without slack does to a network, done to its promise: the stored numbers do not keep it.
    config = run / "config.toml"
    config.write_text(config.read_text().replace("gamma = 1.0", "gamma = 0.01"))
    (run / "certificate.json").unlink()
    said = failing(capsys, "certify", run)
    assert "promises the bound 0.01, and its stored float32 numbers do not keep it" in said
    assert "larger epsilon, at least 1e-3 in float32, or float64" in said
    assert not (run / "certificate.json").exists()


def test_a_lost_equilibrium_is_an_error_with_a_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    n, p, q = 30, 5, 3
    shapes = {"U.weight": (n, p), "U.bias": (n,), "Wout.weight": (q, n), "Wout.bias": (q,)}
    state = {name: torch.randn(shape) for name, shape in shapes.items()}
    state |= {"A.weight": torch.zeros(n, n), "B.weight": 30 * torch.randn(n, n)}
    torch.save(state, tmp_path / "x.pt")
    out = tmp_path / "run"
    arguments = ["import", str(tmp_path / "x.pt"), "--kind", "mondeq-fc", "--epsilon", "1e-9", "--dtype", "float32"]
    with monkeypatch.context() as patched:
        patched.setattr(runs, "check_guarantee", lambda form, guarantee: None)  # as an older version might have
        assert main([*arguments, "--out", str(out)]) == 0
    said = failing(capsys, "certify", out)
    assert "promises exactly one equilibrium, and its stored float32 numbers do not keep it" in said
    assert "use a larger epsilon (or m)" in said


def test_an_import_that_breaks_its_promise_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    n, p, q = 40, 12, 4
    shapes = {"B.weight": (n, p), "B.bias": (n,), "S.weight": (n, n), "G.weight": (q, n), "G.bias": (q,)}
    state = {name: torch.randn(shape) * shape[-1] ** -0.5 for name, shape in shapes.items()}
    state |= {"psi": torch.ones(n), "V.weight": torch.zeros(n, n)}
    torch.save(state, tmp_path / "x.params")
    out = tmp_path / "run"
    arguments = ("import", tmp_path / "x.params", "--kind", "lben-fc", "--gamma", 1, "--epsilon", 1e-9, "--out", out)
    assert "its stored float32 numbers do not keep it" in failing(capsys, *arguments, "--dtype", "float32")
    assert not out.exists()
    assert main([str(argument) for argument in arguments]) == 0
    assert main(["certify", str(out)]) == 0
    assert check(out / "certificate.json").valid


@needs_shared
@pytest.mark.parametrize(
    ("file", "kind", "gamma", "most", "least", "raw"), AUDIT, ids=[Path(row[0]).stem for row in AUDIT]
)
def test_audit_of_published_networks(
    file: str,
    kind: str,
    gamma: float | None,
    most: float,
    least: float | None,
    raw: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    declared = [] if gamma is None else ["--gamma", str(gamma)]
    assert main(["import", str(REFERENCE / file), "--kind", kind, *declared, "--out", str(out)]) == 0
    found = as_json(capsys, "certify", out)
    assert found["declared"] == gamma
    assert found["converged"]
    proved = found["certified_raw" if raw else "certified"]
    assert (least or 0.0) < proved <= most
    assert proved < found["product_of_norms_raw" if raw else "product_of_norms"]
    assert as_json(capsys, "verify", out / "certificate.json")["verdict"] == "VALID"


@needs_shared
def test_nothing_is_found_for_the_unconstrained_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    file = REFERENCE / "lben" / "mnist_uncon_w80.params"
    assert main(["import", str(file), "--kind", "unconstrained-fc", "--out", str(out)]) == 0
    assert "no multipliers were found that prove a unique equilibrium" in failing(capsys, "certify", out)
    assert not (out / "certificate.json").exists()


@needs_shared
@pytest.mark.parametrize(
    ("gamma", "floor"),
    [("1.0", (0.968, 0.935, 0.883, 0.569, 0.104)), ("0.5", (0.947, 0.930, 0.893, 0.732, 0.404))],
)
def test_certified_accuracy_of_published_networks(
    gamma: str, floor: tuple[float, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (SHARED / "data" / "mnist").is_dir():
        pytest.skip(f"{SHARED / 'data' / 'mnist'} is not there")
    out = tmp_path / "run"
    file = REFERENCE / "lben" / f"mnist_fc_lip{gamma}_w80.params"
    assert main(["import", str(file), "--kind", "lben-fc", "--gamma", gamma, "--out", str(out)]) == 0
    eps = ("--eps", 0.1, 0.3, 0.5, 1.0, 1.58)
    found = as_json(capsys, "certify", out, *eps, "--data-dir", SHARED / "data")
    ours = [row["certified_accuracy"] for row in found["robustness"]]
    assert found["n"] == 10000
    assert all(mine > least for mine, least in zip(ours, floor, strict=True)), ours
