"""What operators and norm bounds refuse to be made of, and what they say about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from equilip import norms
from equilip.errors import InputError
from equilip.operators import (
    AveragePool,
    Circulant,
    Circular,
    Contraction,
    Conv2d,
    Dense,
    Diagonal,
    Ends,
    Operator,
    Plain,
    Product,
    Recurrence,
    Sum,
    Weighted,
    Zeros,
    border_mask,
    exact_circular_norm,
    kernel_gram_bound,
)

IMAGE = (2, 4, 4)


def kernel(*shape: int) -> torch.Tensor:
    return torch.ones(*shape, dtype=torch.float64)


def pool(size: int) -> AveragePool:
    return AveragePool(IMAGE, size, torch.float64, torch.device("cpu"))


def recurrence(**changes: Any) -> Recurrence:
    parts: dict[str, Any] = {
        "shape": IMAGE,
        "lam": kernel(2, 1, 1),
        "A": kernel(3, 2, 3, 3),
        "B": kernel(2, 2, 3, 3),
        "padding": Zeros(0),
        "epsilon": 1.0,
        "ends": None,
    }
    return Recurrence(**parts | changes)


def ends(*, channels: int = 2, taps: int = 3, inputs: int = 32, gamma: float = 1.0) -> Ends:
    head: Operator = Dense(kernel(5, inputs))
    return Ends(Plain(kernel(channels, 1, taps, taps)), head, gamma)


REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "product": (
        lambda: Product(Dense(kernel(2, 3)), Dense(kernel(4, 5))),
        "cannot multiply: the right operator gives 4 numbers, the left one takes 3",
    ),
    "sum": (
        lambda: Sum((Dense(kernel(2, 3)), Dense(kernel(2, 4)))),
        "cannot add operators between different spaces: ",
    ),
    "matrix": (lambda: Dense(kernel(3)), "a dense operator needs a matrix, got a tensor of shape (3,)"),
    "vector": (lambda: Diagonal(kernel(3, 3)), "a diagonal operator needs a vector, got a tensor of shape (3, 3)"),
    "border": (
        lambda: border_mask(IMAGE, 3, dtype=torch.float64, device=torch.device("cpu")),
        "a border of 3 does not fit into an image of 4 x 4",
    ),
    "circulant": (
        lambda: Circulant(kernel(2, 3, 3)),
        "a circulant needs a kernel (out, in, h, w), got (2, 3, 3)",
    ),
    "padding": (lambda: Zeros(-1), "a padding cannot be negative, got -1"),
    "circular padding": (
        lambda: Conv2d(kernel(1, 2, 3, 3), IMAGE, Circular(5)),
        "an image of 4 x 4 pixels cannot be padded circularly by 5",
    ),
    "channels": (
        lambda: Conv2d(kernel(1, 3, 3, 3), IMAGE, Zeros(1)),
        "a kernel for images of 2 channels has shape (out, 2, k, l), got (1, 3, 3, 3)",
    ),
    "stride": (lambda: Conv2d(kernel(1, 2, 3, 3), IMAGE, Zeros(1), 0), "the stride must be at least 1, got 0"),
    "large kernel": (
        lambda: Conv2d(kernel(1, 2, 7, 7), IMAGE, Zeros(1)),
        "a kernel of (7, 7) does not fit into an image of (4, 4) padded by 1",
    ),
    "contraction": (
        lambda: Contraction(kernel(2, 2, 2, 2), IMAGE, Zeros(1)),
        "W takes images of (2, 4, 4) to images of the same shape by a kernel of odd size, not by (2, 2, 2, 2)",
    ),
    "pool": (lambda: pool(0), "pooling needs a size >= 1 and a padding below it, got 0 and 0"),
    "blocks": (lambda: pool(3), "is not made of blocks of 3; choose another pool"),
    "lam": (lambda: recurrence(lam=kernel(3, 1, 1)), "lam must have shape (2, 4, 4), or 1 in places, got (3, 1, 1)"),
    "even": (lambda: recurrence(A=kernel(3, 2, 2, 2)), "A must be a kernel of odd size"),
    "even input": (lambda: recurrence(ends=ends(taps=2)), "U must be a kernel of odd size"),
    "A and B": (
        lambda: recurrence(B=kernel(2, 3, 3, 3)),
        "A and B must act on 2 channels, got (3, 2, 3, 3) and (2, 3, 3, 3)",
    ),
    "epsilon": (lambda: recurrence(epsilon=0.0), "epsilon must be positive, got 0.0"),
    "gamma": (lambda: recurrence(ends=ends(gamma=float("nan"))), "gamma, the bound on the slope, must be positive"),
    "ends": (
        lambda: recurrence(ends=ends(inputs=7)),
        "the input layer and the output map are not for the hidden images of this W",
    ),
    "weighted ends": (
        lambda: recurrence(ends=Ends(Weighted(kernel(3, 1, 3, 3)), Dense(kernel(5, 32)), 1.0)),
        "the input layer and the output map are not for the hidden images of this W",
    ),
    "exact norm": (
        lambda: exact_circular_norm(Conv2d(kernel(2, 2, 3, 3), IMAGE, Zeros(1))),
        "the norm at the image's own frequencies is that of circular convolutions of stride 1 only",
    ),
    "gram of a kernel": (
        lambda: kernel_gram_bound(kernel(2, 2, 3)),
        "expected a kernel (m, c, k, l) and steps >= 0, got (2, 2, 3), 3",
    ),
    "steps": (
        lambda: norms.norm_bound(kernel(2, 2), -1),
        "expected matrices (..., m, n) and steps >= 0, got (2, 2), -1",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(InputError, match=re.escape(words)):
        make()
