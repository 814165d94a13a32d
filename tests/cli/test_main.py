"""The command line itself: fast help, one-sentence errors, nearest names, JSON alone on standard output."""

from __future__ import annotations

import argparse
import errno
import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

from equilip.cli import dispatch, main, sentence
from equilip.cli.options import Parser, add_fields, chosen, count
from equilip.cli.output import Output
from equilip.errors import ConfigError, InputError
from equilip.train.config import option


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "equilip", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for name in ("train", "evaluate", "certify", "verify", "attack", "report", "import", "demo"):
        assert f"\n  {name} " in shown


@pytest.mark.parametrize("name", sorted(dispatch.names()))
def test_help_of_every_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    for option_ in ("--json", "--seed", "--device", "--debug"):
        assert option_ in shown


def test_help_imports_neither_torch_nor_sklearn() -> None:
    names = [[], *([name] for name in dispatch.names())]
    code = (
        "import sys\nfrom equilip.cli import main\n"
        f"for name in {names!r}: assert main([*name, '--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'rich', 'pooch'} & sys.modules.keys()\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_console_script_and_module_return_the_exit_status() -> None:
    assert run("--version").returncode == 0
    failed = run("trian")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr == "equilip: unknown command 'trian'; did you mean 'train'?\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--jsno"], "unknown option '--jsno'"),
        (["train", "--gama", "1"], "unknown option --gama; did you mean '--gamma'?"),
        (["train", "--gama=1"], "unknown option --gama; did you mean '--gamma'?"),
        (["train", "--gamm", "1"], "unknown option --gamm; did you mean '--gamma'?"),
        (["train", "--width", "many"], "argument --width: invalid int value: 'many'; see equilip train --help"),
        (["train", "--model", "lbne"], "argument --model: unknown value 'lbne'; did you mean 'lben'?"),
        (["train", "--gamma", "-1"], "gamma must be a positive number, got -1"),
        (["train", "surplus"], "unexpected argument 'surplus'; see equilip train --help"),
        (
            ["train", "--data", "minst"],
            "unknown data set 'minst'; choose one of digits, mnist, fashion-mnist, cifar10, svhn",
        ),
        (["evaluate"], "the following arguments are required: RUN; see equilip evaluate --help"),
        (["evaluate", "x", "--limit", "0"], "argument --limit: '0' is not a whole number of at least 1"),
        (["import", "x", "--kind", "lben"], "argument --kind: unknown value 'lben'; did you mean 'lben-fc'?"),
    ],
)
def test_mistakes_get_one_sentence(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"equilip: {message}")
    assert shown.err.count("\n") == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--gamma", "-1", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_sentences() -> None:
    assert sentence(InputError("one\n  two")) == "one two"
    denied = PermissionError(errno.EACCES, "Permission denied", "/x")
    assert sentence(denied) == "/x: Permission denied; change its permissions, or name another place"
    assert sentence(NotADirectoryError(errno.ENOTDIR, "Not a directory", "/x")) == "/x: Not a directory; check the path"
    assert sentence(OSError(errno.EIO, "Input/output error", "/x")) == "/x: Input/output error"
    assert "--limit" in sentence(MemoryError())
    assert "report" in sentence(ZeroDivisionError("oh"))


@dataclass(frozen=True)
class Sample:
    step_epochs: int = option(10, "steps")
    rate: float | None = option(None, "rate")
    kind: str = option("a", "kind", ("a", "b"))
    far: tuple[float, ...] = option((), "distances")
    free: bool = option(False, "freedom")


def test_options_from_fields() -> None:
    parser = Parser(prog="x")
    add_fields(parser, Sample)
    options = parser.parse(["--step-epochs", "3", "--kind", "b"])
    assert chosen(options, Sample) == {"step_epochs": 3, "kind": "b"}
    options = parser.parse(["--far", "0.3", "1.58", "--free"])
    assert chosen(options, Sample) == {"far": [0.3, 1.58], "free": True}
    assert chosen(parser.parse(["--no-free"]), Sample) == {"free": False}
    with pytest.raises(ConfigError, match="invalid float"):
        parser.parse(["--rate", "x"])


def test_count() -> None:
    assert count("3") == 3
    for text in ("0", "-1", "x", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError):
            count(text)


def test_json_is_alone_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=True)
    output.line("for people")
    output.facts("facts", [("a", "1")])
    with output.progress("work", 2) as progress:
        progress.step("half done", "half")
    output.result({"a": float("inf"), "b": [1.5, {"c": float("nan")}]})
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {"a": None, "b": [1.5, {"c": None}]}
    assert "for people" in shown.err
    assert "half done" in shown.err


def test_tables_are_plain_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table("title", ("name", "value"), [("a", "10"), ("long", "2")])
    assert capsys.readouterr().out == "title\n  name  value\n  a        10\n  long      2\n"
    Output().facts("title", [("a", "10"), ("long", "2")])
    assert capsys.readouterr().out == "title\n  a     10\n  long   2\n"


def test_tables_and_progress_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Output, "terminal", property(lambda self: True))
    output = Output()
    output.table("title", ("name", "value"), [("a", "10")])
    with output.progress("work", 1) as progress:
        progress.step("all of it is done", "done")
    shown = capsys.readouterr().out
    assert "title" in shown
    assert "10" in shown
    assert "work" in shown
    assert "done" in shown
    assert "all of it" not in shown
