"""equilip attack as people type it, the bug that it must report, and each deliberate mistake."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from equilip.attack import LargestSlope
from equilip.attack.outcome import load
from equilip.cli import main
from equilip.train import runs

TINY = ["--limit", "80", "--width", "10", "--epochs", "3", "--batch", "20"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "--data", "digits", "--gamma", "2.0", *TINY, "--out", str(out), "--json"]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be written to."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def failing(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[-1].startswith("equilip: ")
    assert "unexpected" not in lines[-1]
    return lines[-1]


def test_attack_json(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["attack", str(run), "--eps", "0.5", "0.1", "--limit", "50", "--json", "--seed", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == str(run)
    assert found["bugs"] == []
    assert found["box"] == [0.0, 1.0]
    assert found["n"] == 50
    assert [row["eps"] for row in found["robustness"]] == [0.1, 0.5]
    for row in found["robustness"]:
        assert row.keys() == {"eps", "certified_accuracy", "attacked_accuracy", "clean_accuracy", "n"}
        assert 0 <= row["certified_accuracy"] <= row["attacked_accuracy"] <= row["clean_accuracy"] <= 1
    assert 0 < found["largest_slope"] <= found["certified"] <= 2.0
    assert 0 < found["largest_slope_raw"] <= found["certified_raw"]
    stored = json.loads((run / "attack.json").read_text())
    assert stored["format"] == "equilip.attack/1"
    assert stored["form"] == runs.stored_sha256(run)
    assert stored["robustness"] == found["robustness"]
    assert main(["attack", str(run), "--eps", "0.5", "0.1", "--limit", "50", "--json", "--seed", "3"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_the_certificate_is_used_and_not_believed(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["attack", str(run), "--eps", "0.5", "--limit", "20", "--json"]

    def attacked() -> dict[str, object]:
        capsys.readouterr()
        assert main(command) == 0
        found = json.loads(capsys.readouterr().out)
        return {**found, "seconds": 0}

    searched = attacked()
    assert main(["certify", str(run)]) == 0
    with monkeypatch.context() as patch:
        patch.setattr("equilip.certify.lipschitz", lambda *_: pytest.fail("the bound was searched again"))
        assert attacked() == searched
    path = run / "certificate.json"
    certificate = json.loads(path.read_text())
    for claim in certificate["claims"]:
        claim["bound"] = (float.fromhex(claim["bound"]) / 2).hex()
    path.write_text(json.dumps(certificate))
    assert attacked() == searched
    path.unlink()


def test_attack_writes_what_it_found_sample_by_sample(run: Path) -> None:
    assert main(["attack", str(run), "--eps", "0.3", "0.6", "--limit", "60"]) == 0
    outcome = load(run / "attack.npz")
    assert outcome.form_sha256 == runs.stored_sha256(run)
    assert outcome.shape == (1, 8, 8)
    for row in json.loads((run / "attack.json").read_text())["robustness"]:
        assert outcome.certified_accuracy(row["eps"]) == row["certified_accuracy"]
        assert outcome.attacked_accuracy(row["eps"]) == row["attacked_accuracy"]


def test_attack_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["attack", str(run), "--limit", "20"]) == 0
    shown = capsys.readouterr().out
    assert "attacked 20 of 20 samples" in shown
    assert "certified accuracy" in shown
    assert "1.58" in shown
    assert "largest found" in shown
    assert "proved bound" in shown


def test_an_adversarial_inside_a_certified_radius(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def falsified(form: object, x: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        return torch.full((len(x),), 5.0, dtype=torch.float64)

    monkeypatch.setattr(importlib.import_module("equilip.attack.robustness"), "certified_radius", falsified)
    capsys.readouterr()
    assert main(["attack", str(run), "--eps", "1", "--limit", "20", "--json"]) == 1
    shown = capsys.readouterr()
    assert "BUG: " in shown.err
    found = json.loads(shown.out)
    assert found["bugs"] == [str(run / "attack-bug.npz")]
    with np.load(run / "attack-bug.npz", allow_pickle=False) as stored:
        assert str(stored["form_sha256"]) == runs.stored_sha256(run)
        assert stored["x"].shape == stored["adversarial"].shape == (len(stored["label"]), 64)
    assert json.loads((run / "attack.json").read_text())["bugs"] == found["bugs"]


def test_a_slope_above_the_proved_bound(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LargestSlope, "contradicts", lambda self, bound: True)
    capsys.readouterr()
    assert main(["attack", str(run), "--eps", "1", "--limit", "10"]) == 1
    assert "BUG: the slope found" in capsys.readouterr().out
    with np.load(run / "attack-bug-slope.npz", allow_pickle=False) as stored:
        assert stored["pair"].shape == (2, 64)


def test_an_ill_posed_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert "--allow-ill-posed attacks it all the same" in failing(capsys, "attack", out, "--limit", "5")
    assert main(["attack", str(out), "--allow-ill-posed", "--eps", "1", "--limit", "10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["certified"] is None
    assert found["robustness"][0]["certified_accuracy"] == 0.0


def test_mistakes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in failing(capsys, "attack", tmp_path / "none")
    assert "must be a positive number, got 0" in failing(capsys, "attack", run, "--eps", "0.5", "0")
    assert "must be a positive number, got -1" in failing(capsys, "attack", run, "--eps", "-1")
    assert "must be a positive number, got nan" in failing(capsys, "attack", run, "--eps", "nan")
    assert "invalid float value: 'much'" in failing(capsys, "attack", run, "--eps", "much")
    assert "device 'nowhere' is not available" in failing(capsys, "attack", run, "--device", "nowhere")
    assert not (run / "attack.json").exists()
