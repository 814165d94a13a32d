"""The optional writer for TensorBoard, with a stand-in for the package."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from equilip.cli import main

TRAIN = ["train", "--gamma", "1", "--eps", "0.5", "--limit", "40", "--width", "6", "--epochs", "2"]


def test_every_number_of_every_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "board")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None: ...
        def close(self) -> None:
            written.append(("closed", 0, 0))

    module = types.ModuleType("torch.utils.tensorboard.writer")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    package = types.ModuleType("torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", module)
    assert main([*TRAIN, "--out", str(tmp_path / "run"), "--tensorboard", str(tmp_path / "board")]) == 0
    names = {name for name, _, step in written if step == 2}
    assert {"loss", "test_error_percent", "certified_by_gamma_percent/0.5", "lr", "max_residual"} <= names
    assert written[-1][0] == "closed"


def test_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    assert main([*TRAIN, "--out", str(tmp_path / "run"), "--tensorboard", str(tmp_path / "board")]) == 2
    assert "pip install 'equilip[tensorboard]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
