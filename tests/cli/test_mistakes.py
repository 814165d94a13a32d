"""Every mistake that people make with every command: one helpful sentence, exit status 2, and nothing half-written."""

from __future__ import annotations

import errno
import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import safetensors.torch
import torch

from equilip.cli import dispatch, main
from equilip.cli.options import Parser, add_common
from equilip.data import places
from equilip.train import runs

TINY = ["--limit", "60", "--width", "6", "--epochs", "2", "--batch", "20", "--gamma", "1.0"]

#: What each command that reads data is given beside --data; RUN stands for the run.
READERS = {
    "train": ["--width", "6", "--epochs", "1", "--out", "NEW"],
    "evaluate": ["RUN"],
    "certify": ["RUN", "--eps", "0.1"],
    "attack": ["RUN", "--eps", "0.1", "--limit", "3"],
    "compare": ["--families", "plain", "--seconds", "0.1", "--runs", "1", "--jobs", "1", "--out", "NEW"],
}

#: What each command that writes something is given.
WRITERS = {
    "train": [*TINY, "--out", "NEW"],
    "evaluate": ["RUN", "--limit", "20"],
    "certify": ["RUN"],
    "attack": ["RUN", "--eps", "0.1", "--limit", "3"],
    "import": ["FILE", "--kind", "mondeq-fc", "--out", "NEW"],
    "demo": ["--limit", "60", "--out", "NEW"],
}


def parser_of(command: str) -> Parser:
    """The parser of a command, with all of its options."""
    parser = Parser(prog=command)
    dispatch.load(dispatch.names()[command]).arguments(parser)
    add_common(parser)
    return parser


def takes(command: str, metavar: str) -> bool:
    """Whether a command has a positional argument of that name."""
    return any(not action.option_strings and action.metavar == metavar for action in parser_of(command)._actions)


COMMANDS = sorted(dispatch.names())
OF_A_RUN = [command for command in COMMANDS if takes(command, "RUN")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", "--data", "digits", *TINY, "--out", str(out), "--json"]) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A published file, to be imported."""
    torch.manual_seed(0)
    shapes = {"U.weight": (5, 64), "U.bias": (5,), "A.weight": (5, 5), "B.weight": (5, 5)}
    shapes |= {"Wout.weight": (10, 5), "Wout.bias": (10,)}
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


@pytest.fixture
def failing(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line that must fail, and returns its one sentence."""

    def said(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        sentence = shown.err.splitlines()[-1]
        assert sentence.startswith("equilip: ")
        assert "fault of equilip" not in sentence, "a mistake of the user is no fault of equilip"
        return sentence

    return said


def given(arguments: list[str], **places_: Path) -> list[str]:
    return [str(places_.get(argument, argument)) for argument in arguments]


# What every command refuses


def required(command: str) -> list[str]:
    """The least that a command's parser is content with."""
    words = []
    for action in parser_of(command)._actions:
        if action.required:
            value = {"kind": "mondeq-fc", "experiment": "lben-mnist"}.get(action.dest, "x")
            words += [*action.option_strings[:1], value]
    return words


REQUIRED = {command: required(command) for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option(command: str, failing: Any) -> None:
    assert "unknown option --jsno; did you mean '--json'?" in failing(command, *REQUIRED[command], "--jsno")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("option", "value"), [("--seed", "-1"), ("--seed", "x"), ("--seed", str(2**70))])
def test_a_seed_that_is_none(command: str, option: str, value: str, failing: Any) -> None:
    said = failing(command, *REQUIRED[command], option, value)
    assert re.search(r"whole number from 0 to|between 0 and 2\^63|invalid int value", said)


@pytest.mark.parametrize("command", [name for name in COMMANDS if REQUIRED[name]])
def test_nothing_of_what_it_needs(command: str, failing: Any) -> None:
    assert re.search(f"the following arguments are required: .*; see equilip {command} --help", failing(command))


# Runs that are none


@pytest.mark.parametrize("command", OF_A_RUN)
def test_a_wrong_path(command: str, tmp_path: Path, run: Path, failing: Any) -> None:
    assert "none is not a run directory: it does not exist" in failing(command, tmp_path / "none")
    assert "config.toml is not a run directory: it is a file" in failing(command, run / "config.toml")
    (tmp_path / "empty").mkdir()
    assert "it has no config.toml; `equilip train --out` makes one" in failing(command, tmp_path / "empty")
    assert not any((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("command", OF_A_RUN)
def test_a_run_of_another_version(command: str, run: Path, failing: Any) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text().replace(runs.FORMAT, "equilip.run/9"))
    said = failing(command, run)
    assert "is of format 'equilip.run/9'; this version of equilip reads 'equilip.run/1'" in said
    assert "use the version of equilip that wrote it, or train again" in said


def test_training_on_from_a_run_of_another_version(run: Path, failing: Any) -> None:
    config = run / "config.toml"
    config.write_text(config.read_text().replace(runs.FORMAT, "equilip.run/9"))
    for option in (["--resume", run], ["--config", config]):
        assert "use the version of equilip that wrote it" in failing("train", *option)


@pytest.mark.parametrize("command", ["evaluate", "certify", "attack"])
def test_files_of_another_version_or_cut(command: str, run: Path, failing: Any) -> None:
    for name, old in (("model.safetensors", b"equilip.model/1"), ("form.safetensors", b"equilip.form/1")):
        whole = (run / name).read_bytes()
        assert old in whole
        (run / name).write_bytes(whole.replace(old, old[:-1] + b"9"))
        assert f"{name} has format '{old[:-1].decode()}9'; this version of equilip reads" in failing(command, run)
        (run / name).write_bytes(whole[: len(whole) // 2])
        assert re.search(f"{name} is not a .* of equilip, or it is damaged", failing(command, run))
        (run / name).unlink()
        assert f"has no {name}: the training did not finish; continue it with" in failing(command, run)
        (run / name).write_bytes(whole)


def test_a_certificate_that_is_none(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, why in (
        (tmp_path / "none.json", "cannot read .*No such file"),
        (run, "cannot read .*certificate.json.*No such file"),
        (run / "config.toml", "not JSON"),
        (run / "form.safetensors", "not JSON"),
    ):
        assert main(["verify", str(path)]) == 2
        assert re.match(f"UNREADABLE: .*{why}", capsys.readouterr().out)


def test_resuming_what_cannot_be_resumed(run: Path, tmp_path: Path, checkpoint: Path, failing: Any) -> None:
    said = failing("train", "--resume", run, "--epochs", 3, "--out", tmp_path)
    assert "was started; leave out --epochs, --out" in said
    assert main(["import", str(checkpoint), "--kind", "mondeq-fc", "--out", str(tmp_path / "imported")]) == 0
    assert "holds an imported network: there is no training" in failing("train", "--resume", tmp_path / "imported")
    said = failing("train", "--config", tmp_path / "imported" / "config.toml", "--out", tmp_path / "new")
    assert "describes an imported network, not a training that could be repeated" in said
    (run / "metrics.jsonl").write_text("{}\n")
    assert "metrics.jsonl does not hold the metrics of a training" in failing("train", "--resume", run)


def test_more_memory_than_there_is(tmp_path: Path, failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equilip.train.session.build", lambda *_, **__: torch.empty(2**50))
    said = failing("train", "--limit", 40, "--width", 2**25, "--out", tmp_path / "new")
    assert "there is not enough memory for this; take fewer neurons" in said
    assert not (tmp_path / "new").exists()


# Data that cannot be used

X = np.random.default_rng(0).random((60, 64)).astype(np.float32)
Y = np.arange(60) % 10
WITH_NAN = np.where(np.arange(60)[:, None] == 3, np.float32(np.nan), X)

DATA: dict[str, tuple[dict[str, Any], str]] = {
    "nan": ({"X": WITH_NAN, "y": Y}, r"X holds 64 NaN or infinite numbers, the first in row 3.*fill them in or drop"),
    "labels": ({"X": X, "y": Y.astype(str)}, r"y holds text \(0\); labels are whole numbers from 0: encode them"),
    "objects": ({"X": X, "y": Y.astype(object)}, r"holds Python objects \(labels as text.*encode labels"),
    "fractions": ({"X": X, "y": Y + 0.5}, r"y holds numbers of type float64.*convert with y.astype\(int\)"),
    "gaps": ({"X": X, "y": 2 * Y}, r"labels run from 0 to 18.*number the classes from 0 to 9"),
    "parts": ({"train_x": X, "train_y": Y, "test_x": X[:, :7], "test_y": Y}, "64 columns in .* and 7 columns in"),
    "names": ({"x": X, "labels": Y}, r"lacks X, y; it holds labels, x. Write X and y"),
    "lengths": ({"X": X, "y": Y[:-1]}, r"y has shape \(59,\); expected one label for each of the 60 samples"),
}


@pytest.mark.parametrize("command", sorted(READERS))
@pytest.mark.parametrize("mistake", sorted(DATA))
def test_arrays_that_cannot_be_used(command: str, mistake: str, trained: Path, tmp_path: Path, failing: Any) -> None:
    arrays, message = DATA[mistake]
    np.savez(tmp_path / "mine.npz", **arrays)
    arguments = given(READERS[command], RUN=trained, NEW=tmp_path / "new")
    said = failing(command, *arguments, "--data", f"npz:{tmp_path / 'mine.npz'}")
    assert str(tmp_path / "mine.npz") in said
    assert re.search(message, said)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", sorted(READERS))
def test_files_that_cannot_be_read(command: str, trained: Path, tmp_path: Path, failing: Any) -> None:
    arguments = given(READERS[command], RUN=trained, NEW=tmp_path / "new")
    np.savez(tmp_path / "whole.npz", X=X, y=Y)
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:-300])
    (tmp_path / "table.csv").write_text("a,b,class\n1,2,0\n")
    for path, message in (
        ("none.npz", "does not exist; check the path behind npz:"),
        ("cut.npz", "is not a file of numpy.savez, or it is damaged .* write one with numpy.savez"),
        ("table.csv", "is not a file of numpy.savez.*write one with numpy.savez"),
        (".", "is a folder; name the file in it behind npz:"),
    ):
        assert re.search(message, failing(command, *arguments, "--data", f"npz:{tmp_path / path}"))
    said = failing(command, *arguments, "--data", "mnist", "--data-dir", tmp_path / "none")
    assert "none does not exist; check --data-dir" in said
    said = failing(command, *arguments, "--data", "mnist", "--data-dir", tmp_path)
    assert "lacks train-images-idx3-ubyte" in said
    assert "or leave out --data-dir to download them" in said
    assert "unknown data set 'minst'; choose one of digits, mnist" in failing(command, *arguments, "--data", "minst")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["evaluate", "certify", "attack"])
def test_data_of_another_network(command: str, trained: Path, tmp_path: Path, failing: Any) -> None:
    arguments = given(READERS[command], RUN=trained)
    np.savez(tmp_path / "narrow.npz", X=X[:, :7], y=Y)
    said = failing(command, *arguments, "--data", f"npz:{tmp_path / 'narrow.npz'}")
    assert f"the network in {trained} takes 64 numbers, npz:{tmp_path / 'narrow.npz'} has 7; name the right" in said
    np.savez(tmp_path / "classes.npz", X=X, y=np.arange(60) % 12)
    said = failing(command, *arguments, "--data", f"npz:{tmp_path / 'classes.npz'}")
    assert f"the network in {trained} tells 10 classes apart, npz:{tmp_path / 'classes.npz'} has 12" in said


@pytest.mark.parametrize("command", ["evaluate", "certify", "attack"])
def test_no_data_at_all(command: str, tmp_path: Path, checkpoint: Path, failing: Any) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "U.weight": torch.randn(5, 3)}, checkpoint)
    out = tmp_path / "imported"
    assert main(["import", str(checkpoint), "--kind", "mondeq-fc", "--out", str(out)]) == 0
    said = failing(command, *given(READERS[command], RUN=out))
    assert f"{out} does not say which data it is for; name it with --data" in said


class Line:
    """Stands for pooch's downloader: a line that breaks in the middle of a file."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, url: str, output: str, _: object) -> None:
        Path(output).write_bytes(b"half of it")
        raise self.error


@pytest.mark.parametrize("command", sorted(READERS))
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "check the network, or get the files"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "No space left on device; make room there, or get the files",
        ),
    ],
    ids=["interrupted", "full"],
)
def test_a_download_that_breaks_off(
    command: str,
    error: OSError,
    message: str,
    trained: Path,
    tmp_path: Path,
    failing: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(places, "cache", lambda: tmp_path / "cache")
    monkeypatch.setattr("pooch.HTTPDownloader", lambda **_: Line(error))
    said = failing(command, *given(READERS[command], RUN=trained, NEW=tmp_path / "new"), "--data", "mnist")
    assert message in said
    assert "train-images-idx3-ubyte.gz of MNIST" in said
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert not (tmp_path / "new").exists()


# Disks that are full


class Full(io.RawIOBase):
    """A file on a full disk."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def write(self, content: Any) -> int:
        self.stream.write(bytes(content)[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        self.stream.close()
        super().close()


@contextmanager
def full_after(writes: int) -> Iterator[None]:
    """A disk that takes that many more files of equilip, and then only half of one."""
    left = [writes]
    fdopen = os.fdopen

    def opened(handle: int, mode: str, *more: Any, **options: Any) -> Any:
        stream = fdopen(handle, mode, *more, **options)
        if mode != "wb":
            return stream
        left[0] -= 1
        return stream if left[0] >= 0 else Full(stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("equilip.form.os.fdopen", opened)
        yield


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("command", sorted(WRITERS))
def test_a_full_disk(command: str, run: Path, tmp_path: Path, checkpoint: Path, failing: Any) -> None:
    before = contents(tmp_path)
    arguments = given(WRITERS[command], RUN=run, FILE=checkpoint, NEW=tmp_path / "new")
    with full_after(0):
        said = failing(command, *arguments)
    assert re.search("No space left on device; (nothing was left half-written: free some space|choose another)", said)
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_a_disk_that_fills_up_while_it_imports(tmp_path: Path, checkpoint: Path, failing: Any) -> None:
    arguments = given(WRITERS["import"], FILE=checkpoint, NEW=tmp_path / "new")
    for writes in range(1, 4):
        with full_after(writes):
            assert "No space left on device" in failing("import", *arguments)
        assert not (tmp_path / "new").exists(), writes
    with full_after(4):
        assert main(["import", *arguments]) == 0


def test_a_disk_that_fills_up_while_it_trains(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whenever it happens, what is there is whole, and the training goes on from it to the same weights."""
    writes = 0
    while True:
        writes += 1
        out = tmp_path / f"run{writes}"
        with full_after(writes):
            if main(["train", "--data", "digits", *TINY, "--out", str(out)]) == 0:
                break
        said = capsys.readouterr()
        assert "No space left on device; nothing was left half-written: free some space, or write elsewhere" in said.err
        if writes == 1:
            assert not any(out.iterdir()), "config.toml is what makes it a run"
            continue
        assert said.out.splitlines()[-1] == f"stopped; continue with: equilip train --resume {out}"
        assert not [path for path in out.iterdir() if path.name.startswith(".")]
        for path in out.glob("*.safetensors"):
            safetensors.torch.load_file(path)
        assert main(["train", "--resume", str(out)]) == 0
        assert runs.stored_sha256(out) == runs.stored_sha256(trained)
    assert writes >= 7, "config, metrics, two checkpoints, form and model"


def test_folders_that_cannot_be_written(run: Path, tmp_path: Path, checkpoint: Path, failing: Any) -> None:
    (tmp_path / "file").write_text("mine")
    for command in ("train", "import", "demo"):
        arguments = given(WRITERS[command], RUN=run, FILE=checkpoint, NEW=tmp_path / "file" / "new")
        assert re.search("cannot write to .*choose another --out", failing(command, *arguments))
    for command in ("train", "import"):
        arguments = given(WRITERS[command], RUN=run, FILE=checkpoint, NEW=run)
        assert "is not empty; choose another --out, or say --overwrite" in failing(command, *arguments)
    assert (tmp_path / "file").read_text() == "mine"


def test_every_command_that_reads_data_is_tried() -> None:
    reading = {command for command in COMMANDS if {"--data", "--data-dir"} <= set(parser_of(command).known())}
    assert reading == READERS.keys()
