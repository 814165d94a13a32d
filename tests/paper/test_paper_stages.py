"""From networks to runs: what is done is skipped, what is missing is done, whatever ended the call before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from paper_experiments import NAMES, tiny

from equilip import checker
from equilip.errors import ConfigError, EquilipError
from equilip.paper.experiment import Experiment
from equilip.paper.results import collect
from equilip.paper.stages import Stage, finished
from equilip.paper.work import carry_out
from equilip.train import load_run, metrics

HELPER = Path(__file__).parent / "paper_experiments.py"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment that was carried out without any interruption."""
    out = tmp_path_factory.mktemp("whole")
    carry_out(tiny(), out)
    return out


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def said(experiment: Experiment, out: Path, **more: int) -> list[str]:
    heard: list[str] = []
    carry_out(experiment, out, said=lambda network, text: heard.append(f"{network}: {text}"), **more)
    return heard


def same_weights(one: Path, other: Path) -> bool:
    states = [load_run(folder)[1].state_dict() for folder in (one, other)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_every_network_is_an_ordinary_run(whole: Path) -> None:
    for network in tiny().networks:
        folder = whole / network.name
        assert set(finished(network, folder)) == set(Stage)
        config, _ = load_run(folder)
        assert config.train == network.config
        assert len(metrics.read(folder)) == network.config.epochs
        assert {"evaluation.json", "certificate.json", "attack.json", "attack.npz"} <= {
            f.name for f in folder.iterdir()
        }
        assert checker.check(folder / "certificate.json").valid
        attacked = json.loads((folder / "attack.json").read_text())
        assert attacked["bugs"] == []
        assert 0 < attacked["largest_slope"] <= attacked["certified"]


def test_results_are_what_lies_in_the_runs(whole: Path) -> None:
    experiment = tiny()
    results = collect(experiment, whole)
    assert [result.network.name for result in results] == list(NAMES)
    for result in results:
        folder = whole / result.network.name
        assert result.test_error_percent == json.loads((folder / "evaluation.json").read_text())["test_error_percent"]
        assert result.eps == experiment.measures.sizes
        assert len(result.fast_gradient_error) == len(result.eps)
        assert result.tightness is not None
        assert 0.3 < result.tightness <= 1
    assert results[0].gamma == 1.0
    assert results[1].gamma is None


def test_what_is_finished_is_left_alone(copy: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*") if file.is_file()}
    assert said(tiny(), copy) == []
    assert {file: file.stat().st_mtime_ns for file in copy.rglob("*") if file.is_file()} == before


def test_what_is_missing_or_damaged_is_done_again_and_nothing_else(copy: Path, whole: Path) -> None:
    (copy / "lben-1" / "evaluation.json").unlink()
    (copy / "lben-1" / "certificate.json").write_text("{")
    attacked = copy / "unconstrained" / "attack.json"
    attacked.write_text(attacked.read_text()[:40])
    (copy / "lmt-0.2" / "fast-gradient.json").unlink()
    heard = said(tiny(), copy)
    expected = ("lben-1: test error", "lben-1: slope at most", "unconstrained: largest slope", "lmt-0.2: fast-gradient")
    assert len(heard) == len(expected)
    assert all(line.startswith(start) for line, start in zip(heard, expected, strict=True))
    for one, other in zip(collect(tiny(), copy), collect(tiny(), whole), strict=True):
        assert one == other


def test_a_result_about_another_form_does_not_count(copy: Path) -> None:
    shutil.copy(copy / "lmt-0.2" / "attack.json", copy / "lben-1" / "attack.json")
    assert [line.split(":")[0] for line in said(tiny(), copy)] == ["lben-1"]
    assert said(tiny(), copy) == []


def test_another_experiment_in_the_folder_is_refused_before_anything_is_done(copy: Path) -> None:
    for other, field in ((tiny(seed=1), "seed"), (tiny(epochs=3), "epochs")):
        with pytest.raises(ConfigError, match=rf"was trained with {field} .* choose another --out"):
            said(other, copy)
    (copy / "unconstrained" / "attack.json").unlink()
    with pytest.raises(ConfigError, match="not finished"):
        collect(tiny(), copy)


def test_what_cannot_be_proved_is_said_and_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from equilip import certify
    from equilip.errors import IllPosedError

    def refuse(form: object, **options: object) -> None:
        raise IllPosedError("no multipliers")

    monkeypatch.setattr(certify, "lipschitz", refuse)
    experiment = tiny("unconstrained")
    heard = said(experiment, tmp_path)
    assert "unconstrained: nothing could be proved" in heard
    assert said(experiment, tmp_path) == []
    (result,) = collect(experiment, tmp_path)
    assert result.proved is None
    assert result.tightness is None
    assert result.largest_slope > 0
    with pytest.raises(IllPosedError):
        said(tiny("lben-1"), tmp_path)


def test_a_contradiction_is_kept_and_told(tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from equilip.attack import LargestSlope

    monkeypatch.setattr(LargestSlope, "contradicts", lambda self, bound: True)
    (copy / "lben-1" / "attack.json").unlink()
    (heard,) = said(tiny(), copy)
    assert heard.startswith("lben-1: BUG")
    assert (copy / "lben-1" / "attack-bug-slope.npz").exists()
    assert collect(tiny(), copy)[0].bugs


def test_processes_give_the_same_networks(whole: Path, tmp_path: Path) -> None:
    heard = said(tiny(), tmp_path, jobs=2)
    assert {line.split(":")[0] for line in heard} == set(NAMES)
    for name in NAMES:
        assert same_weights(whole / name, tmp_path / name), name
    for one, other in zip(collect(tiny(), whole), collect(tiny(), tmp_path), strict=True):
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)


def test_a_failure_in_a_process_is_the_callers(tmp_path: Path) -> None:
    experiment = tiny()
    broken = replace(
        experiment.networks[0], config=replace(experiment.networks[0].config, data=f"npz:{tmp_path}/no.npz")
    )
    with pytest.raises(EquilipError, match=r"lben-1: .*no\.npz"):
        said(replace(experiment, networks=(broken, *experiment.networks[1:])), tmp_path / "out", jobs=2)


def killed(moment: str, out: Path, jobs: int, epochs: int, *names: str) -> list[int]:
    """Start an experiment and kill it as soon as it says so much; the processes that it had started."""
    process = subprocess.Popen(
        [sys.executable, str(HELPER), str(out), str(jobs), str(epochs), *names],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    with process:
        assert process.stdout is not None
        assert any(moment in line for line in process.stdout), f"it ended without saying {moment!r}"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        started = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        process.send_signal(signal.SIGKILL)
    return started


def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    names = ("lben-1", "lmt-0.2")
    experiment = tiny(*names, epochs=30)
    carry_out(experiment, tmp_path / "whole")
    out = tmp_path / "killed"
    for moment in ("lben-1 epoch 20/", "lben-1 slope at most"):
        killed(moment, out, 1, 30, *names)
    assert not any(line.startswith("lben-1: epoch") for line in said(experiment, out))
    for one, other in zip(collect(experiment, tmp_path / "whole"), collect(experiment, out), strict=True):
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)
    for name in names:
        assert same_weights(tmp_path / "whole" / name, out / name), name


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see processes")
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    workers = killed("epoch 1/", tmp_path / "out", 2, 2000)
    assert len(workers) >= 2
    deadline = time.monotonic() + 60
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker goes on without its parent"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    """Whether the process is there and not merely waiting to be buried."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return status != "Z"
