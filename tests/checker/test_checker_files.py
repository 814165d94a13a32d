"""What every network of images has at both ends: each number that does not fit is refused, and says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from equilip.checker.files import MAX_INPUTS, Record, parse_ends
from equilip.checker.verdict import Refused


def ends() -> dict[str, Any]:
    """Three neurons, two inputs, two means to read and one output."""
    tensors = {"C": np.ones((1, 2)), "b": np.zeros(3), "c": np.zeros(1), "mean": np.zeros(2), "std": np.ones(2)}
    return {"tensors": tensors, "n": 3, "p": 2, "pooled": 2}


def activation(size: int) -> Record:
    return {"activation": [{"kind": "relu", "size": size}]}


def test_what_fits_is_taken() -> None:
    std, blocks = parse_ends(activation(3), **ends())
    assert std is not None
    assert std.tolist() == [1.0, 1.0]
    assert blocks == ((3, 0.0, 1.0),)
    plain = ends()
    del plain["tensors"]["std"], plain["tensors"]["mean"]
    assert parse_ends(activation(3), **plain)[0] is None


@pytest.mark.parametrize(
    ("name", "tensor", "why"),
    [
        ("C", np.ones((1, 3)), "C has shape"),
        ("C", np.ones((0, 2)), "C has shape"),
        ("C", np.ones(2), "C has shape"),
        ("b", np.zeros(2), "b has shape"),
        ("c", np.zeros(2), "c has shape"),
        ("mean", np.zeros((2, 1)), "mean has shape"),
        ("std", np.ones(3), "std has shape"),
        ("std", np.array([1.0, 0.0]), "std must be positive"),
        ("std", np.array([1.0, -1.0]), "std must be positive"),
        ("std", np.array([1.0, np.nan]), "std must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, tensor: np.ndarray, why: str) -> None:
    given = ends()
    given["tensors"][name] = tensor
    with pytest.raises(Refused, match=why):
        parse_ends(activation(3), **given)


def test_neurons_without_activation_and_too_many_inputs_are_refused() -> None:
    with pytest.raises(Refused, match="do not cover the 3 neurons"):
        parse_ends(activation(2), **ends())
    with pytest.raises(Refused, match="more than this program checks"):
        parse_ends(activation(3), **(ends() | {"p": MAX_INPUTS + 1}))
