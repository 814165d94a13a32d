"""The commands that the how-to pages show run as they stand, in the order in which they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from equilip.cli import main

NAMES = ("train", "data", "certify", "attack", "linf", "report", "convolution", "compare")
PAGES = [Path(__file__).parents[2] / "docs" / "how-to" / f"{name}.md" for name in NAMES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert commands
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "equilip"
        assert main(arguments) == 0, command
