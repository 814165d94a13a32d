"""One thread, one report for the whole suite, printed and written at its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from rich.console import Console

from benchmarks.problems import ROOT
from benchmarks.table import Report

REPORT = pytest.StashKey[Report]()
#: Ignored by git.
FOLDER = ROOT / ".benchmarks"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash[REPORT]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(config: pytest.Config) -> None:
    report = config.stash[REPORT]
    if not report.tables:
        return
    console = Console(width=160)
    report.show(console)
    console.print(", ".join(f"{key} {value}" for key, value in report.machine().items()), highlight=False)
    for path in report.write(FOLDER):
        console.print(f"wrote {path}", highlight=False)
