"""Runs to report on: a complete one, made once as people make it, and copies of it to be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from equilip.cli import main

TINY = ["--limit", "60", "--width", "8", "--epochs", "3", "--batch", "20"]


def made(out: Path, *options: str) -> Path:
    """A run with everything that commands leave in it."""
    assert main(["train", *TINY, *options, "--out", str(out), "--json"]) == 0
    for command in (["evaluate"], ["certify"], ["attack", "--eps", "0.1", "0.3", "0.8", "--limit", "40"]):
        assert main([command[0], str(out), *command[1:], "--json"]) == 0
    return out


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("runs") / "bounded", "--gamma", "2.0", "--eps", "0.1", "--validation", "0.2")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("runs") / "plain", "--model", "feedforward")


@pytest.fixture
def run(complete: Path, tmp_path: Path) -> Path:
    """A copy of the complete run, to be written to."""
    return Path(shutil.copytree(complete, tmp_path / "run"))


@pytest.fixture(scope="session")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with results in the maximum norm as well."""
    options = ("--model", "nemon", "--loss", "boxes", "--loss-eps", "0.03")
    out = made(tmp_path_factory.mktemp("runs") / "boxed", *options)
    assert main(["certify", str(out), "--norm", "linf", "--json"]) == 0
    assert main(["attack", str(out), "--norm", "linf", "--eps", "0.02", "0.1", "--limit", "40", "--json"]) == 0
    return out
