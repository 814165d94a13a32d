"""The page on monotonic networks runs as it stands: its Python and its commands, in the order in which they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from equilip.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "monotonic.md"


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|console)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "console", "python"]
    for language, text in blocks:
        if language == "python":
            exec(compile(text, PAGE.name, "exec"), {})
            continue
        for line in text.splitlines():
            assert main(shlex.split(line.removeprefix("$ "))[1:]) == 0, line
    said = capsys.readouterr().out
    for line in re.findall(r"    (monotone: .*|  output .*)\n", PAGE.read_text(encoding="utf-8")):
        assert line.strip() in said
    assert said.rstrip().endswith("True")
