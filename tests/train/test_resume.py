"""A training that is killed and resumed ends with the weights of one that was left alone, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from equilip import data
from equilip.cli import main
from equilip.errors import ConfigError, FormatError
from equilip.form import write_whole
from equilip.train import TrainConfig, checkpoint, load_run, metrics, resume, runs, train
from equilip.train.metrics import EpochMetrics

TINY = TrainConfig(gamma=2.0, limit=120, width=10, epochs=4, batch=32, lr=1e-2, schedule="one-cycle", eps=(0.1,))
ALL = replace(TINY, validation=0.25, shift=1, loss="lipschitz-margin", loss_eps=0.1, learn_gamma=True, feedthrough=True)


class Killed(BaseException):
    """Stands for the end of a process: nothing in the library catches it."""


def stop_after(epoch: int) -> object:
    def on_epoch(latest: EpochMetrics) -> None:
        if latest.epoch == epoch:
            raise Killed

    return on_epoch


def weights(run: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(run / "model.safetensors")


def timeless(run: Path) -> list[dict]:
    return [{**asdict(m), "seconds": None, "processor_seconds": None} for m in metrics.read(run)]


def assert_same(one: Path, other: Path) -> None:
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name
    assert runs.stored_sha256(one) == runs.stored_sha256(other)
    assert timeless(one) == timeless(other)
    assert {file.name for file in one.iterdir()} == {file.name for file in other.iterdir()}


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        ALL,
        replace(ALL, dtype="float64"),
        replace(TINY, validation=0.25, patience=1, lr=0.5, schedule="constant", epochs=8),
        replace(TINY, model="feedforward", gamma=None, eps=()),
        replace(TINY, model="monotone", gamma=None, eps=()),
        replace(TINY, model="feedforward", gamma=None, eps=(), penalty="clip", regulariser=0.1),
        replace(TINY, model="feedforward", gamma=None, eps=(), penalty="jacobian", regulariser=0.1),
        replace(
            TINY,
            model="feedforward",
            gamma=None,
            eps=(),
            penalty="clip",
            regulariser=0.1,
            clip_goal=0.2,
            clip_warm_up=1,
        ),
    ],
    ids=["lben", "everything", "float64", "patience", "feedforward", "monotone", "clip", "jacobian", "goal"],
)
def test_resumed_after_every_epoch(config: TrainConfig, tmp_path: Path) -> None:
    whole, _ = train(config, tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        train(config, cut, on_epoch=stop_after(1))
    for epoch in range(2, len(metrics.read(whole)) + 1):
        assert checkpoint.epochs_done(cut) == epoch - 1
        with pytest.raises(Killed):
            resume(cut, on_epoch=stop_after(epoch))
    _, model = resume(cut)
    assert_same(whole, cut)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights(whole)[name])


def test_killed_before_the_first_epoch_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = train(TINY, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("equilip.train.session.fit", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(TINY, tmp_path / "cut")
    resume(tmp_path / "cut")
    assert_same(whole, tmp_path / "cut")


@pytest.mark.parametrize("where", ["checkpoint.write", "metrics.append", "runs.write_model", "checkpoint.remove"])
def test_killed_between_two_files(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = train(TINY, tmp_path / "whole")
    cut = tmp_path / "cut"

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"equilip.train.{where}", killed)
        with pytest.raises(Killed):
            train(TINY, cut)
    resume(cut)
    assert_same(whole, cut)


def test_half_lines_and_temporaries_disappear(tmp_path: Path) -> None:
    whole, _ = train(TINY, tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(Killed):
        train(TINY, cut, on_epoch=stop_after(2))
    with (cut / "metrics.jsonl").open("a") as log:
        log.write((cut / "metrics.jsonl").read_text() + '{"epoch": 3, "lo')
    (cut / ".checkpoint.safetensors.x1y2").write_bytes(b"half")
    (cut / ".model.safetensors.x1y2").write_bytes(b"half")
    resume(cut)
    assert_same(whole, cut)


def test_a_complete_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = train(TINY, tmp_path / "run")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    _, again = resume(path)
    assert main(["train", "--resume", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["epoch"] == TINY.epochs
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def interrupted(path: Path, config: TrainConfig = TINY) -> Path:
    with pytest.raises(Killed):
        train(config, path, on_epoch=stop_after(1))
    return path


def test_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = interrupted(tmp_path / "cut")
    original = data.load("digits", limit=TINY.limit)
    changed = replace(original, train_x=original.train_x.flip(0))
    monkeypatch.setattr(data, "load", lambda *_, **__: changed)
    with pytest.raises(ConfigError, match="was trained on other data until now"):
        resume(cut)


@pytest.mark.parametrize("end", [0, 7, 300, -1])
def test_truncated_checkpoint(end: int, tmp_path: Path) -> None:
    cut = interrupted(tmp_path / "cut")
    file = cut / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:end])
    with pytest.raises(FormatError, match=r"checkpoint\.safetensors is not a checkpoint of equilip"):
        resume(cut)


def test_checkpoint_of_another_network(tmp_path: Path) -> None:
    cut = interrupted(tmp_path / "cut")
    other = interrupted(tmp_path / "other", replace(TINY, width=11))
    write_whole(cut / checkpoint.NAME, (other / checkpoint.NAME).read_bytes())
    with pytest.raises(FormatError, match="is of another network"):
        resume(cut)


def test_checkpoint_of_another_version(tmp_path: Path) -> None:
    cut = interrupted(tmp_path / "cut")
    file = cut / checkpoint.NAME
    file.write_bytes(file.read_bytes().replace(b"equilip.checkpoint/1", b"equilip.checkpoint/9"))
    with pytest.raises(FormatError, match=r"has format 'equilip\.checkpoint/9'"):
        resume(cut)


def test_mistakes_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = interrupted(tmp_path / "cut")
    assert main(["train", "--resume", str(cut), "--epochs", "9", "--overwrite"]) == 2
    assert "as it was started; leave out --epochs, --overwrite" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "none")]) == 2
    assert "is not a run directory" in capsys.readouterr().err
    assert main(["evaluate", str(cut)]) == 2
    assert f"continue it with `equilip train --resume {cut}`" in capsys.readouterr().err
    assert main(["train", "--resume", str(cut)]) == 0
    said = capsys.readouterr().out
    assert "epoch 2/4" in said
    assert "epoch 1/4" not in said


def test_interrupted_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("equilip.train.metrics.append", interrupt)
        assert main(["train", "--limit", "40", "--width", "6", "--epochs", "2", "--out", str(out)]) == 130
    assert f"continue with: equilip train --resume {out}" in capsys.readouterr().out
    assert main(["train", "--resume", str(out)]) == 0
    assert len(metrics.read(out)) == 2


def test_an_upgrade_in_between_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = interrupted(tmp_path / "cut")
    text = (cut / "config.toml").read_text()
    (cut / "config.toml").write_text(text.replace(f'torch = "{torch.__version__}"', 'torch = "1.0"'))
    assert main(["train", "--resume", str(cut)]) == 0
    assert f"started with torch 1.0, continued with {torch.__version__}" in capsys.readouterr().out


def kill_and_resume(path: Path, kills: int, seed: int, arguments: list[str]) -> int:
    """Train in processes of their own, each killed with SIGKILL at a random moment after it began to write, until
    ``kills`` have died; then let one finish. Returns how many died inside the training."""
    draw = random.Random(seed)
    died = 0
    while True:
        started = (path / "config.toml").is_file()
        command = ["--resume", str(path)] if started else [*arguments, "--out", str(path)]
        process = subprocess.Popen(
            [sys.executable, "-m", "equilip", "train", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            if died < kills:
                marks = {file.name: file.stat().st_mtime_ns for file in path.glob("*.*")} if path.is_dir() else {}
                # The import of torch is no part of the training: wait for the first sign of life, then a while.
                while process.poll() is None and not any(
                    marks.get(file.name) != file.stat().st_mtime_ns for file in path.glob("metrics.jsonl")
                ):
                    time.sleep(0.002)
                time.sleep(draw.uniform(0.0, 0.25))
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    died += 1
                    continue
            output = process.communicate(timeout=900)[0]  # a guard against hanging, not a measure of speed
            assert process.returncode == 0, output.decode()
            return died
        finally:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def compare_with_uninterrupted(tmp_path: Path, kills: int, seed: int, epochs: int) -> None:
    arguments = ["--gamma", "1.0", "--epsilon", "0.1", "--width", "24", "--epochs", str(epochs), "--batch", "16"]
    arguments += ["--schedule", "one-cycle", "--lr", "1e-2", "--shift", "1", "--validation", "0.1", "--eps", "0.5"]
    assert main(["train", *arguments, "--out", str(tmp_path / "whole")]) == 0
    died = kill_and_resume(tmp_path / "cut", kills, seed, arguments)
    assert died == kills, f"the training was over after {died} of {kills} kills; give it more epochs"
    assert_same(tmp_path / "whole", tmp_path / "cut")
    load_run(tmp_path / "cut")


def test_killed_twice(tmp_path: Path) -> None:
    compare_with_uninterrupted(tmp_path, kills=2, seed=0, epochs=8)


@pytest.mark.slow
def test_killed_twenty_times(tmp_path: Path) -> None:
    compare_with_uninterrupted(tmp_path, kills=20, seed=1, epochs=60)
