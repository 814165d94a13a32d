"""The commands end to end, as people type them, and each deliberate mistake with its one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from equilip.checker import check
from equilip.cli import main
from equilip.train import runs

TINY = ["--limit", "60", "--width", "8", "--epochs", "2", "--batch", "20"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "--data", "digits", "--gamma", "1.0", *TINY, "--out", str(out), "--json"]) == 0
    return out


def failing(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a command line that must fail."""
    assert main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[-1].startswith("equilip: ")
    assert "Traceback" not in shown.err
    assert "unexpected" not in lines[-1]
    return lines[-1]


def test_train_prints_plain_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TINY, "--gamma", "1", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("epoch 1/2: loss ")
    assert lines[1].startswith("epoch 2/2: loss ")
    assert lines[-1] == f"next: equilip evaluate {tmp_path / 'run'}"


def test_train_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", *TINY, "--gamma", "1", "--out", str(out), "--json", "--seed", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == str(out)
    assert found["epoch"] == 2
    assert 0 <= found["test_error_percent"] <= 100
    train = runs.load_config(out).train
    assert train is not None
    assert train.seed == 3


def test_train_from_a_file_and_from_an_earlier_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.toml"
    file.write_text('data = "digits"\nlimit = 60\nwidth = 8\nepochs = 2\nbatch = 20\ngamma = 1.0\nseed = 5\n')
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    assert main(["train", "--config", str(file), "--out", str(a)]) == 0
    assert main(["train", "--config", str(a / "config.toml"), "--out", str(b)]) == 0
    assert main(["train", "--config", str(file), "--seed", "6", "--out", str(c)]) == 0
    assert runs.stored_sha256(a) == runs.stored_sha256(b) != runs.stored_sha256(c)


def test_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"test_error_percent", "n", "max_residual", "max_error_bound", "unconverged", "iterations"} <= found.keys()
    assert found["n"] == 359
    assert found["unconverged"] == 0
    assert found["max_residual"] < 1e-6
    assert found["max_error_bound"] < 1e-4
    stored = json.loads((run / "evaluation.json").read_text())
    assert stored["form"] == runs.stored_sha256(run)
    assert stored["test_error_percent"] == found["test_error_percent"]
    assert main(["evaluate", str(run), "--limit", "10", "--dtype", "float32", "--tolerance", "1e-3"]) == 0
    shown = capsys.readouterr().out
    assert "test error" in shown
    stored = json.loads((run / "evaluation.json").read_text())
    # What is proved is not rounded down where it is shown.
    proved = next(line.split()[-1] for line in shown.splitlines() if "proven distance to equilibrium" in line)
    assert stored["max_error_bound"] <= float(proved) <= 1.1 * stored["max_error_bound"]


def test_mistakes_of_evaluate(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert "is not a run directory: it does not exist" in failing(capsys, "evaluate", tmp_path / "none")
    assert "is not a run directory: it has no config.toml" in failing(capsys, "evaluate", tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    said = failing(capsys, "evaluate", run, "--data", "mnist", "--data-dir", empty)
    assert "lacks train-images-idx3-ubyte" in said
    assert "the data directory" in failing(capsys, "evaluate", run, "--data", "mnist", "--data-dir", tmp_path / "none")
    assert "device 'nowhere' is not available" in failing(capsys, "evaluate", run, "--device", "nowhere")
    assert "between 0 and 1" in failing(capsys, "evaluate", run, "--tolerance", "-1")


def test_evaluate_a_truncated_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in run.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    whole = (tmp_path / "form.safetensors").read_bytes()
    (tmp_path / "form.safetensors").write_bytes(whole[: len(whole) // 2])
    capsys.readouterr()
    assert "form.safetensors is not a form of equilip, or it is damaged" in failing(capsys, "evaluate", tmp_path)


def test_mistakes_of_train(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert "is not empty; choose another --out, or say --overwrite" in failing(capsys, "train", *TINY, "--out", run)
    (tmp_path / "file").write_text("")
    assert "cannot write to" in failing(capsys, "train", *TINY, "--out", tmp_path / "file" / "run")
    config = tmp_path / "run.toml"
    config.write_text("widht = 8\n")
    assert "unknown key 'widht'; did you mean 'width'?" in failing(
        capsys, "train", "--config", config, "--out", tmp_path / "x"
    )
    assert "does not exist" in failing(capsys, "train", "--config", tmp_path / "none.toml")
    config.write_text('model = "lbne"\n')
    assert "unknown model 'lbne'; did you mean 'lben'?" in failing(capsys, "train", "--config", config)
    assert not (tmp_path / "x").exists()


def test_overwrite(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main(["train", *TINY, "--out", str(out)]) == 0
    first = runs.stored_sha256(out)
    assert main(["train", *TINY, "--seed", "1", "--out", str(out), "--overwrite"]) == 0
    assert runs.stored_sha256(out) != first


def monotone(path: Path, **changes: torch.Tensor) -> Path:
    torch.manual_seed(0)
    n, p, q = 5, 64, 10
    content = {
        "mon.linear_module.U.weight": torch.randn(n, p),
        "mon.linear_module.U.bias": torch.randn(n),
        "mon.linear_module.A.weight": torch.randn(n, n),
        "mon.linear_module.B.weight": torch.randn(n, n),
        "Wout.weight": torch.randn(q, n),
        "Wout.bias": torch.randn(q),
    }
    torch.save({**content, **changes}, path)
    return path


def test_import_then_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    file = monotone(tmp_path / "x.pt")
    assert main(["import", str(file), "--kind", "mondeq-fc", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hidden"] == [5]
    assert found["data"] == "digits"
    assert main(["evaluate", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unconverged"] == 0


def test_import_of_an_ill_posed_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    content = {
        "Wp": 2.5 * torch.eye(5),
        "U.weight": torch.randn(5, 64),
        "U.bias": torch.randn(5),
        "Wout.weight": torch.randn(10, 5),
        "Wout.bias": torch.randn(10),
    }
    torch.save(content, tmp_path / "x.pt")
    out = tmp_path / "run"
    assert main(["import", str(tmp_path / "x.pt"), "--kind", "unconstrained-fc", "--out", str(out)]) == 0
    capsys.readouterr()
    assert "--allow-ill-posed" in failing(capsys, "evaluate", out)
    assert main(["evaluate", str(out), "--allow-ill-posed", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unconverged"] > 0
    assert found["max_error_bound"] is None


def test_mistakes_of_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = monotone(tmp_path / "x.pt")
    out = tmp_path / "run"

    def said(path: Path, kind: str, *more: str) -> str:
        return failing(capsys, "import", path, "--kind", kind, "--out", out, *more)

    assert "does not exist" in said(tmp_path / "none.pt", "mondeq-fc")
    assert "it has the tensors of --kind mondeq-fc" in said(file, "unconstrained-fc")
    assert "needs its gamma (--gamma)" in said(file, "lben-fc")
    assert "gamma means nothing" in said(file, "mondeq-fc", "--gamma", "1")
    assert "takes 64 numbers, mnist has 784" in said(file, "mondeq-fc", "--data", "mnist")
    nan = monotone(tmp_path / "nan.pt", **{"Wout.bias": torch.full((10,), torch.nan)})
    assert "Wout.bias holds NaN" in said(nan, "mondeq-fc")
    wide = monotone(tmp_path / "wide.pt", **{"mon.linear_module.A.weight": torch.zeros(6, 6)})
    assert "A.weight has shape (6, 6), which does not fit U.weight (n = 5)" in said(wide, "mondeq-fc")
    cut = tmp_path / "cut.pt"
    cut.write_bytes(file.read_bytes()[:-100])
    assert "cut.pt is not a PyTorch checkpoint, or it is damaged" in said(cut, "mondeq-fc")
    assert not out.exists(), "a failed import leaves nothing behind"


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"EPOCHS": 2, "WIDTH": 10, "ATTACKED": 20, "STARTS": 4}.items():
        monkeypatch.setattr(f"equilip.cli.commands.demo.{name}", value)
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--limit", "100"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "test error",
        "largest slope, proved",
        "largest slope, found",
        "stand-alone checker",
        "VALID",
        "try next",
    ):
        assert text in shown
    assert "WRONG" not in shown
    for name in ("lben", "plain"):
        for file in ("evaluation.json", "attack.json", "attack.npz"):
            assert (out / name / file).is_file()
        assert check(out / name / "certificate.json").valid
    assert (out / "report.html").is_file()
    # The second replaces the first.
    assert main(["demo", "--out", str(out), "--limit", "100", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == str(out / "report.html")
    assert [run["declared"] for run in found["runs"]] == [1.0, None]
    assert found["runs"][0]["certified"] <= 1 + 1e-6
    for run in found["runs"]:
        assert run["verdict"] == "VALID"
        assert run["notices"] == []
        assert 0 < run["largest_slope"] <= run["certified"]
        assert 0 <= run["certified_accuracy"] <= run["attacked_accuracy"] <= 1
