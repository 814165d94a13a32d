"""The command: every network a run, its claims true, what is finished not done again, and other settings refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from equilip import checker
from equilip.chain import Chain
from equilip.cli import main
from equilip.compare import measure
from equilip.train import load_run, metrics
from equilip.train.runs import load_network

SMALL = ["--families", "lben", "mondeq", "plain", "--seconds", "0.2", "--parameters", "1200", "--limit", "120"]
OPTIONS = [*SMALL, "--runs", "2", "--attacked", "40", "--eps", "0.1", "0.4", "--jobs", "1"]


def compare(out: Path, *more: str) -> int:
    return main(["compare", "--data", "digits", "--out", str(out), *OPTIONS, *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "out"
    assert compare(out) == 0
    return out


def test_what_is_left_behind(whole: Path) -> None:
    found = json.loads((whole / "comparison.json").read_text())
    assert [family["name"] for family in found["families"]] == ["lben", "mondeq", "plain"]
    for family in found["families"]:
        for run in family["runs"]:
            folder = whole / f"{family['name']}-{run['seed']}"
            assert checker.check(folder / "certificate.json").valid
            config, model = load_run(folder)
            assert config.train is not None
            assert config.train.seed == run["seed"]
            assert sum(p.numel() for p in model.parameters()) == run["parameters"]
            assert len(metrics.read(folder)) == run["epochs"] == config.train.epochs
            assert 0 < run["slope"] <= run["bound"]
            assert 0.5 < run["tightness"] <= 1
            assert run["certified"] == sorted(run["certified"], reverse=True)
            assert run["certified"][0] <= run["clean"]
            assert all(run[name] > 0 for name in ("train_seconds", "infer_microseconds", "memory", "infer_memory"))
            assert run["bugs"] == []
            attacked = json.loads((folder / "attack.json").read_text())["robustness"]
            assert all(row["certified_accuracy"] <= row["attacked_accuracy"] for row in attacked)
            # At least what a step of this batch cannot do without: its gradients.
            assert run["memory"] >= 4 * run["parameters"]
    assert found["families"][0]["runs"][0]["declared"] == pytest.approx(1.0)
    assert found["families"][2]["runs"][0]["declared"] is None
    epochs = {run["epochs"] for run in found["families"][2]["runs"]}
    assert len(epochs) == 1, "every seed trains as long"


def test_what_is_finished_is_not_done_again(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((whole / "comparison.json").read_text())
    stamp = (whole / "lben-0" / "model.safetensors").stat().st_mtime_ns
    (whole / "plain-1" / f"{measure.NAME}.json").unlink()
    capsys.readouterr()
    assert compare(whole, "--resume", "--json") == 0
    shown = capsys.readouterr()
    after = json.loads(shown.out)
    assert "plain-1:" in shown.err
    assert "lben" not in shown.err.split("Accuracy")[0]
    assert (whole / "lben-0" / "model.safetensors").stat().st_mtime_ns == stamp
    assert after["families"][0] == before["families"][0]
    timeless = {"infer_microseconds": 0, "certify_seconds": 0, "memory": 0, "infer_memory": 0}
    one, other = (values["families"][2]["runs"][1] for values in (before, after))
    assert {**one, **timeless} == {**other, **timeless}


def test_families_and_seeds_can_be_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(families: list[str], runs: int) -> str:
        options = [
            "--families",
            *families,
            "--runs",
            str(runs),
            "--seconds",
            "0.1",
            "--parameters",
            "800",
            "--eps",
            "0.1",
        ]
        small = ["--limit", "80", "--attacked", "20", "--jobs", "1", "--out", str(tmp_path / "out"), "--resume"]
        assert main(["compare", "--data", "digits", *options, *small]) == 0
        return capsys.readouterr().out.split("Accuracy")[0]

    assert "plain-0" in said(["plain"], 1)
    more = said(["plain", "margin"], 2)
    assert all(name in more for name in ("plain-1:", "margin-0:", "margin-1:"))
    assert "plain-0" not in more
    assert said(["margin"], 2) == ""


def test_another_comparison_is_refused(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(whole) == 2
    assert "--resume" in capsys.readouterr().err
    assert compare(whole, "--resume", "--seed", "5") == 2
    assert "other seed" in capsys.readouterr().err
    assert compare(tmp_path / "x", "--device", "cuda") == 2
    assert main(["compare", "--families", "monotonic", "--out", str(tmp_path / "y")]) == 2
    assert "no family has a place" in capsys.readouterr().err
    assert not (tmp_path / "y").exists()
    (whole / "plan" / "plain.json").rename(whole / "plan" / "hidden")
    try:
        assert main(["compare", "--families", "plan", "--out", str(tmp_path / "z")]) == 2
        assert "did you mean 'plain'" in capsys.readouterr().err
    finally:
        (whole / "plan" / "hidden").rename(whole / "plan" / "plain.json")


def test_a_table_with_a_direction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(160, 4))
    np.savez(tmp_path / "table.npz", X=X, y=(X[:, 0] + 0.3 * rng.normal(size=160) > 0).astype(int))
    options = ["--data", f"npz:{tmp_path / 'table.npz'}", "--families", "monotonic", "spectral", "--increasing", "0"]
    small = ["--seconds", "0.2", "--parameters", "150", "--runs", "1", "--attacked", "30", "--jobs", "1"]
    assert main(["compare", *options, *small, "--out", str(tmp_path / "out")]) == 0
    verdict = checker.check(tmp_path / "out" / "monotonic-0" / "certificate.json")
    assert verdict.valid
    assert verdict.claims[-1].directions == ((-1, 0, 0, 0), (1, 0, 0, 0))
    assert "monotonic" in capsys.readouterr().out


#: Enough of a comparison of images to see every stage.
TINY = (
    *("--seconds", "0.1", "--parameters", "700", "--runs", "1"),
    *("--attacked", "5", "--eps", "0.1", "--limit", "40", "--jobs", "1"),
)


@pytest.mark.parametrize("name", ["lben-conv", "mondeq-conv", "nemon-conv", "aol-conv"])
def test_convolutional_families(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["compare", "--data", "digits", "--families", name, *TINY, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    (found,) = json.loads((out / "comparison.json").read_text())["families"]
    (run,) = found["runs"]
    assert run["bugs"] == []
    assert run["slope"] > 0
    if name == "nemon-conv":
        assert run["bound"] is None
        assert "nothing could be proved: NEMON conv" in said
    else:
        assert checker.check(out / f"{name}-0" / "certificate.json").valid
        assert run["slope"] <= run["bound"]
        assert run["certified"][0] <= run["clean"]
    assert (run["declared"] is None) is (name in ("mondeq-conv", "nemon-conv"))


@pytest.mark.parametrize("name", ["sandwich-conv", "cpl-conv"])
def test_stacks_too_large_for_one_form(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equilip.nn.stack.MAX_ROWS", 20)
    out = tmp_path / "out"
    assert main(["compare", "--data", "digits", "--families", name, *TINY, "--out", str(out)]) == 0
    assert isinstance(load_network(out / f"{name}-0"), Chain)
    (run,) = json.loads((out / "comparison.json").read_text())["families"][0]["runs"]
    assert run["bugs"] == []
    assert 0 < run["slope"] <= run["bound"] <= 1.01 * run["declared"]
    assert checker.check(out / f"{name}-0" / "certificate.json").valid


def test_convolutional_families_of_tables_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "table.npz", X=np.random.default_rng(0).normal(size=(40, 3)), y=np.arange(40) % 2)
    data = f"npz:{tmp_path / 'table.npz'}"
    assert main(["compare", "--data", data, "--families", "cpl-conv", "--out", str(tmp_path / "out")]) == 2
    assert "holds tables" in capsys.readouterr().err
