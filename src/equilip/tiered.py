"""Forms of multi-tier monotone networks: how their maps belong together, and how they are kept in files.

The input enters the first tier of hidden images and the output reads the last. The proof is in W alone
(:class:`equilip.operators.Tiers`), so a file holds kernels and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from equilip.activations import Activation
from equilip.errors import FormatError, InputError
from equilip.form import Form, Standardisation
from equilip.operators import (
    AveragePool,
    Conv2d,
    Dense,
    Padding,
    Part,
    Product,
    Shape,
    Tiers,
    Transposed,
    Zero,
    tier_shapes,
)
from equilip.wiring import PADDINGS


@dataclass(frozen=True, eq=False)
class Kernels:
    """All that defines such a form beside its activation, biases and standardisation.

    image: (c_in, h, w) of the input. A, B: of every tier, (c, c, k, k); K: of every tier but the last, (c', c, k, k).
    U (c_0, c_in, l, l) with l odd, C (q, pooled). padding: its kind; the widths follow from the kernels.
    """

    image: Shape
    A: tuple[Tensor, ...]
    B: tuple[Tensor, ...]
    K: tuple[Tensor, ...]
    U: Tensor
    C: Tensor
    padding: Padding
    epsilon: float
    pool: int = 1

    @property
    def hidden(self) -> tuple[Shape, ...]:
        """The images of every tier."""
        return tier_shapes(self.image, tuple(A.shape[0] for A in self.A))


def form(
    kernels: Kernels, b: Tensor, c: Tensor, activation: Activation, standardisation: Standardisation | None = None
) -> Form:
    """The form with biases b (n,), or one for each channel of every tier, and c (q,). InputError where nothing fits."""
    W = Tiers(kernels.hidden, kernels.A, kernels.B, kernels.K, kernels.padding, kernels.epsilon)
    U, C, n = kernels.U, kernels.C, W.in_size
    if U.dim() != 4 or U.shape[2] != U.shape[3] or U.shape[3] % 2 == 0:
        raise InputError(f"U must be a kernel of odd size, (out, in, k, k), got {tuple(U.shape)}")
    first = Part(0, W.sizes[0], n, U.dtype, U.device)
    last = Part(n - W.sizes[-1], n, n, C.dtype, C.device)
    enter = Conv2d(U, kernels.image, kernels.padding.of(U.shape[-1] // 2))
    pool = AveragePool(kernels.hidden[-1], kernels.pool, C.dtype, C.device)
    channels = [shape[0] for shape in kernels.hidden]
    if len(b) == sum(channels) != n:
        parts = zip(b.split(channels), W.sizes, strict=True)
        b = torch.cat([own[:, None].expand(len(own), size // len(own)).flatten() for own, size in parts])
    D = Zero((len(C), enter.in_size), b.dtype, b.device)
    return Form(
        W, Product(Transposed(first), enter), b, Product(Dense(C), Product(pool, last)), D, c, activation,
        lam=W.multipliers, standardisation=standardisation,
    )  # fmt: skip


def parts(form: Form) -> Kernels:
    """What such a form is made of. InputError for one whose input layer or output map is of another kind."""
    W, U, C = form.W, form.U, form.C
    if not (
        isinstance(W, Tiers)
        and isinstance(U, Product)
        and isinstance(U.left, Transposed)
        and isinstance(U.left.base, Part)
        and (U.left.base.start, U.left.base.stop) == (0, W.sizes[0])
        and isinstance(U.right, Conv2d)
        and U.right.stride == 1
        and U.right.padding == W.padding.of(U.right.kernel.shape[-1] // 2)
        and U.right.kernel.shape[2] == U.right.kernel.shape[3]
        and isinstance(C, Product)
        and isinstance(C.left, Dense)
        and isinstance(C.right, Product)
        and isinstance(C.right.left, AveragePool)
        and (C.right.left.shape, C.right.left.padding) == (W.shapes[-1], 0)
        and isinstance(C.right.right, Part)
        and C.right.right.stop == W.in_size
        and isinstance(form.D, Zero)
    ):
        raise InputError("this is not a multi-tier network as nn.MultiTierMonotone makes them")
    pool = C.right.left.size
    return Kernels(U.right.shape, W.A, W.B, W.K, U.right.kernel, C.left.matrix, W.padding, W.epsilon, pool)


def describe(kernels: Kernels) -> dict[str, Any]:
    """What a file's header says of the operators."""
    padding = next(name for name, kind in PADDINGS.items() if type(kind) is type(kernels.padding))
    return {
        "W": {
            "kind": "tiers",
            "hidden": [list(shape) for shape in kernels.hidden],
            "padding": padding,
            "epsilon": kernels.epsilon.hex(),
        },
        "U": {"kind": "first"},
        "C": {"kind": "last", "pool": kernels.pool},
        "D": "zero",
    }


def tensors(kernels: Kernels) -> dict[str, Tensor]:
    """What a file holds of the operators: the kernels of all tiers, one pair of channels after the other."""
    joined = {name: torch.cat([t.flatten(0, 1) for t in getattr(kernels, name)]) for name in ("A", "B", "K")}
    return {**joined, "U": kernels.U, "C": kernels.C}


def restore(described: Any, found: dict[str, Tensor]) -> Kernels:
    """What :func:`describe` and :func:`tensors` were made from. FormatError where they are of nothing."""
    try:
        W, U, C = described["W"], described["U"], described["C"]
        keys = (W.keys(), U.keys(), C.keys())
        expected = ({"kind", "hidden", "padding", "epsilon"}, {"kind"}, {"kind", "pool"})
        if keys != expected or (W["kind"], U["kind"], C["kind"], described["D"]) != ("tiers", "first", "last", "zero"):
            raise FormatError(f"unknown operators {described!r}")
        hidden = tuple(tuple(shape) for shape in W["hidden"])
        sizes = [*(size for shape in hidden for size in shape), C["pool"]]
        if not hidden or any(len(shape) != 3 for shape in hidden) or not all(type(s) is int and s > 0 for s in sizes):
            raise FormatError(f"hidden images of {W['hidden']!r} and a pool of {C['pool']!r}")
        channels = [shape[0] for shape in hidden]
        square = [(c, c) for c in channels]
        steps = [(after, before) for before, after in pairwise(channels)]
        kernels = Kernels(
            (found["U"].shape[1], *hidden[0][1:]),
            _apart(found["A"], square), _apart(found["B"], square), _apart(found["K"], steps),
            found["U"], found["C"], PADDINGS[W["padding"]], float.fromhex(W["epsilon"]), C["pool"],
        )  # fmt: skip
        if kernels.hidden != hidden:
            raise FormatError(f"hidden images of {hidden!r}, which are no tiers")
        return kernels
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError) as error:
        raise FormatError(f"it does not describe a multi-tier network: {error}") from error


def _apart(joined: Tensor, channels: Sequence[tuple[int, int]]) -> tuple[Tensor, ...]:
    """The kernels between these channels that ``tensors`` joined."""
    pieces = joined.split([math.prod(pair) for pair in channels])
    return tuple(piece.unflatten(0, pair) for piece, pair in zip(pieces, channels, strict=True))
