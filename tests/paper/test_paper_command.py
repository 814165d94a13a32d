"""equilip reproduce as people type it: tiny on digits, on MNIST where it lies at hand, and each deliberate mistake."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paper_experiments import NAMES, tiny

from equilip.cli import main
from equilip.paper import EXPERIMENTS
from equilip.paper.experiment import Experiment

ROOT = Path(__file__).parents[2]
MNIST = ROOT.parent / "shared" / "data"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The experiment that the command knows by the first one's name, tiny."""

    def made(*, quick: bool = False, seed: int = 0, limit: int | None = None, device: str = "cpu") -> Experiment:
        return tiny(seed=seed)

    monkeypatch.setitem(EXPERIMENTS, "lben-mnist", made)


def failing(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    last = shown.err.splitlines()[-1]
    assert last.startswith("equilip: ")
    assert "unexpected" not in last
    return last


@pytest.mark.usefixtures("small")
def test_reproduce_then_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["reproduce", "lben-mnist", "--out", str(out), "--jobs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in NAMES:
        assert any(line.startswith(f"{name}: epoch 2/2: error") for line in lines)
    assert lines[-1] == f"open {out}/reproduction.html; for documentation: {out}/reproduction.md"
    for name in ("reproduction.html", "reproduction.md", "reproduction.json", "error-and-slope.svg"):
        assert (out / name).stat().st_size > 100

    assert "is not empty; go on with what is in it with --resume" in failing(
        capsys, "reproduce", "lben-mnist", "--out", out
    )
    assert "was trained with seed 0" in failing(
        capsys, "reproduce", "lben-mnist", "--out", out, "--resume", "--seed", 1
    )

    before = (out / "lben-1" / "attack.json").read_bytes()
    assert main(["reproduce", "lben-mnist", "--out", str(out), "--resume", "--json"]) == 0
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert "epoch" not in shown.err
    assert (out / "lben-1" / "attack.json").read_bytes() == before
    assert found["page"] == str(out / "reproduction.html")
    assert found["command"] == "equilip reproduce lben-mnist"
    assert [network["name"] for network in found["networks"]] == list(NAMES)
    first = found["networks"][0]
    assert first["published_test_error_percent"] == 2.36
    assert 0 < first["largest_slope"] <= first["proved"]
    assert first["tightness"] == pytest.approx(first["largest_slope"] / first["proved"])
    stored = json.loads((out / "reproduction.json").read_text())
    assert stored["format"] == "equilip.reproduction/1"
    assert stored["networks"] == found["networks"]


@pytest.mark.usefixtures("small")
def test_a_contradiction_ends_with_status_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "lben-mnist", "--out", str(tmp_path), "--jobs", "1"]) == 0
    file = tmp_path / "lben-1" / "attack.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "bugs": ["attack-bug.npz"]}))
    assert main(["reproduce", "lben-mnist", "--out", str(tmp_path), "--resume"]) == 1
    assert "BUG: LBEN, γ = 1" in capsys.readouterr().out


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'lben-mnist'" in failing(capsys, "reproduce", "lben-minst")
    assert "'0' is not a whole number" in failing(capsys, "reproduce", "lben-mnist", "--jobs", "0")
    file = tmp_path / "file"
    file.write_text("something")
    assert "is not empty" in failing(capsys, "reproduce", "lben-mnist", "--out", file)
    assert str(file) in failing(capsys, "reproduce", "lben-mnist", "--out", file, "--resume")
    assert not (tmp_path / "other").exists()


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"{MNIST} is not there")
def test_the_commands_of_the_page_on_a_few_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fewer(whole: Callable[..., Experiment], *names: str) -> Callable[..., Experiment]:
        def made(**options: Any) -> Experiment:
            own = whole(**options)
            networks = tuple(network for network in own.networks if network.name in names)
            return replace(own, networks=networks, measures=replace(own.measures, starts=2, rounds=0))

        return made

    for name, networks in (("lben-mnist", ("lben-5", "plain")), ("nemon-mnist", ("nemon-boxes",))):
        monkeypatch.setitem(EXPERIMENTS, name, fewer(EXPERIMENTS[name], *networks))
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "how-to" / "reproduce.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 4
    for command in commands:
        program, *arguments = shlex.split(command, comments=True)
        assert program == "equilip"
        if "--quick" in arguments:
            arguments += ["--limit", "60", "--jobs", "1", "--data-dir", str(MNIST)]
            assert main(arguments) == 0, command
    for name in ("lben-mnist", "nemon-mnist"):
        assert (tmp_path / "runs" / f"{name}-quick" / "reproduction.html").exists()
