"""Checkpoints are read as tensors only, and every file that is not what it claims to be is refused by name."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from torch import Tensor

from equilip.errors import FormatError
from equilip.interop import KINDS, checkpoint
from equilip.interop.kinds import Kind

SIZES = {"n": 5, "p": 7, "q": 3} | {"one": 1, "d": 2, "h": 4, "w": 4, "c": 2, "i": 1, "k": 3, "l": 3, "m": 8}


def tensors(kind: Kind, prefix: str = "mon.linear_module.") -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {prefix + name: torch.randn([SIZES[letter] for letter in shape]) for name, shape in kind.tensors.items()}


def write(path: Path, kind: Kind, content: dict[str, Tensor]) -> Path:
    if kind.matlab:
        scipy.io.savemat(path, {name: tensor.numpy() for name, tensor in content.items()})
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reads_every_kind(tmp_path: Path, kind: Kind, dtype: torch.dtype) -> None:
    content = tensors(kind, "" if kind.matlab else "mon.linear_module.")
    found = checkpoint.read(write(tmp_path / "x.mat", kind, content), kind, dtype)
    assert found.keys() == kind.tensors.keys()
    for name, tensor in found.items():
        assert tensor.dtype == dtype
        original = next(value for key, value in content.items() if key.endswith(name))
        assert torch.equal(tensor, original.to(dtype))


def test_reads_a_state_dict_within_a_checkpoint(tmp_path: Path) -> None:
    kind = KINDS["mondeq-fc"]
    torch.save({"state_dict": tensors(kind), "epoch": 3}, tmp_path / "x.pt")
    assert checkpoint.read(tmp_path / "x.pt", kind, torch.float32).keys() == kind.tensors.keys()


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_missing_tensor_is_named(tmp_path: Path, kind: Kind) -> None:
    for name in kind.tensors:
        content = tensors(kind, "")
        del content[name]
        path = write(tmp_path / "x.mat", kind, content)
        with pytest.raises(FormatError, match=rf"is not of kind {kind.name}: it lacks {re.escape(name)}"):
            checkpoint.read(path, kind, torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_named(tmp_path: Path, value: float) -> None:
    kind = KINDS["lben-fc"]
    content = tensors(kind)
    content["mon.linear_module.V.weight"][0, 0] = value
    with pytest.raises(FormatError, match=r"V\.weight holds NaN or infinity"):
        checkpoint.read(write(tmp_path / "x", kind, content), kind, torch.float32)


def test_wrong_kind_is_recognised(tmp_path: Path) -> None:
    for own in ("lben-fc", "lben-ode-fc", "mondeq-fc", "unconstrained-fc"):
        path = write(tmp_path / "x", KINDS[own], tensors(KINDS[own]))
        for other in ("lben-fc", "lben-ode-fc", "mondeq-fc", "unconstrained-fc"):
            if other != own:
                with pytest.raises(FormatError, match=rf"it has the tensors of --kind {own}$"):
                    checkpoint.read(path, KINDS[other], torch.float32)


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    kind = KINDS["mondeq-fc"]
    content = tensors(kind)
    content["mon.linear_module.A.weight"] = torch.zeros(6, 6)
    with pytest.raises(FormatError, match=r"A\.weight has shape \(6, 6\), which does not fit U\.weight"):
        checkpoint.read(write(tmp_path / "x", kind, content), kind, torch.float32)
    content = tensors(kind)
    content["mon.linear_module.U.bias"] = torch.zeros(5, 5)
    with pytest.raises(FormatError, match=r"U\.bias has shape \(5, 5\); expected 1"):
        checkpoint.read(write(tmp_path / "x", kind, content), kind, torch.float32)


class Harmful:
    def __reduce__(self) -> tuple:
        return (print, ("this must never run",))


def test_code_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pt"
    torch.save({"psi": Harmful()}, path)
    with pytest.raises(FormatError, match="holds more than tensors"):
        checkpoint.read(path, KINDS["lben-fc"], torch.float32)
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(FormatError):
        checkpoint.read(path, KINDS["lben-fc"], torch.float32)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["lben-fc", "lmt-fc"])
def test_every_truncation_is_refused(tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    path = write(tmp_path / "whole.mat", kind, tensors(kind, ""))
    whole = path.read_bytes()
    cut = tmp_path / "cut.mat"
    for end in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        cut.write_bytes(whole[:end])
        with pytest.raises(FormatError, match=r"cut\.mat"):
            checkpoint.read(cut, kind, torch.float32)


@pytest.mark.parametrize("content", [[1, 2], {"psi": "text"}, {1: torch.zeros(2)}, torch.zeros(3)])
def test_what_is_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(FormatError, match=r"x\.pt"):
        checkpoint.read(tmp_path / "x.pt", KINDS["lben-fc"], torch.float32)


@pytest.mark.parametrize(
    "value", ["text", {"a": 1.0}, np.array([[1j]]), scipy.sparse.eye(3)], ids=["text", "struct", "complex", "sparse"]
)
def test_matlab_variables_that_are_no_numbers(tmp_path: Path, value: object) -> None:
    kind = KINDS["lmt-fc"]
    content = {name: tensor.numpy() for name, tensor in tensors(kind, "").items()}
    scipy.io.savemat(tmp_path / "x.mat", {**content, "W1": value})
    with pytest.raises(FormatError, match=r"x\.mat: W1 is not an array of real numbers"):
        checkpoint.read(tmp_path / "x.mat", kind, torch.float32)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="does not exist"):
        checkpoint.read(tmp_path / "x.pt", KINDS["lben-fc"], torch.float32)
    with pytest.raises(FormatError, match="is a folder; name the checkpoint in it"):
        checkpoint.read(tmp_path, KINDS["lben-fc"], torch.float32)
