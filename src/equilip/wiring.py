"""Convolutional forms: how their maps belong together, and how they are kept in files.

The proof of such a form is that its input layer and its output map are the very ones that its W was made with
(mathematics 1.4). :func:`form` makes forms for which that is so, :func:`parts` takes a form apart again and refuses
any for which it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equilip.activations import Activation
from equilip.errors import FormatError, InputError
from equilip.form import Form, Standardisation
from equilip.operators import (
    AveragePool,
    Circular,
    Conv2d,
    Dense,
    Ends,
    InputLayer,
    Operator,
    Padding,
    Plain,
    Product,
    Reciprocal,
    Recurrence,
    Shape,
    Weighted,
    Zero,
    Zeros,
)

PADDINGS: dict[str, Padding] = {"zeros": Zeros(0), "circular": Circular(0)}
LAYERS: dict[str, type[InputLayer]] = {"weighted": Weighted, "plain": Plain}


@dataclass(frozen=True, eq=False)
class Wiring:
    """All that defines a convolutional form beside its activation, biases and standardisation.

    hidden: (c, h, w). lam: (c or 1, h or 1, w or 1). A (m, c, k, k), B (c, c, k, k), U (c, c_in, k, k), C (q, pooled).
    gamma: None where no bound is built in. layer: how U enters.
    """

    hidden: Shape
    lam: Tensor
    A: Tensor
    B: Tensor
    U: Tensor
    C: Tensor
    padding: Padding
    epsilon: float
    gamma: float | None
    layer: type[InputLayer]
    pool: int = 1
    pool_padding: int = 0

    @property
    def input_shape(self) -> Shape:
        return self.U.shape[1], *self.hidden[1:]


def form(
    wiring: Wiring, b: Tensor, c: Tensor, activation: Activation, standardisation: Standardisation | None = None
) -> Form:
    """The form of this wiring with biases b (n,), or (channels,) for one of each channel, and c (q,)."""
    pool = AveragePool(wiring.hidden, wiring.pool, wiring.C.dtype, wiring.C.device, wiring.pool_padding)
    head: Operator = Product(Dense(wiring.C), pool)
    layer = wiring.layer(wiring.U)
    ends = None if wiring.gamma is None else Ends(layer, head, wiring.gamma)
    W = Recurrence(wiring.hidden, wiring.lam, wiring.A, wiring.B, wiring.padding, wiring.epsilon, ends)
    U = layer.operator(wiring.hidden, wiring.padding, wiring.lam)
    if b.shape == wiring.hidden[:1] and W.in_size != len(b):
        b = b[:, None].expand(len(b), W.in_size // len(b)).reshape(-1)
    D = Zero((wiring.C.shape[0], U.in_size), b.dtype, b.device)
    return Form(W, U, b, head, D, c, activation, lam=W.multipliers, standardisation=standardisation)


def parts(form: Form) -> Wiring:
    """What a convolutional form is made of.

    Raises InputError for a form that is none, and for one whose input layer or output map is not the one that its W
    was made with: nothing is proved about such a network by its construction.
    """
    W, U, C = form.W, form.U, form.C
    if not isinstance(W, Recurrence) or not isinstance(form.D, Zero):
        raise InputError("this is not a convolutional network with its proof built in")
    if not isinstance(C, Product) or not isinstance(C.left, Dense) or not isinstance(C.right, AveragePool):
        raise InputError("the output map of a convolutional network is a linear map after average pooling")
    layer: type[InputLayer] = Plain
    if isinstance(U, Product) and isinstance(U.left, Reciprocal):
        layer, U = Weighted, U.right
    if not isinstance(U, Conv2d):
        raise InputError("the input layer of a convolutional network is a convolution")
    found = Wiring(
        W.shape,
        W.lam,
        W.A,
        W.B,
        U.kernel,
        C.left.matrix,
        W.padding,
        W.epsilon,
        None if W.ends is None else W.ends.gamma,
        layer,
        C.right.size,
        C.right.padding,
    )
    again = form_of(found, form)
    same = _same(again.U, form.U) and _same(again.C, form.C)
    if W.ends is not None:
        own = W.ends.input.operator(W.shape, W.padding, W.lam)
        same = same and _same(own, form.U) and _same(W.ends.head, form.C)
    if not same:
        raise InputError(
            "the input layer or the output map is not the one that W was made with, so its construction proves "
            "nothing; make the network by nn.LBENConv"
        )
    return found


def form_of(wiring: Wiring, like: Form) -> Form:
    """The form of this wiring with another form's biases, activation and standardisation."""
    return form(wiring, like.b, like.c, like.activation, like.standardisation)


def _same(one: Operator, other: Operator) -> bool:
    """Whether two operators are the same map, number for number."""
    if type(one) is not type(other) or (one.in_size, one.out_size) != (other.in_size, other.out_size):
        return False
    if isinstance(one, Product) and isinstance(other, Product):
        return _same(one.left, other.left) and _same(one.right, other.right)
    if isinstance(one, Conv2d) and isinstance(other, Conv2d):
        plan = (one.shape, one.padding, one.stride) == (other.shape, other.padding, other.stride)
        return plan and torch.equal(one.kernel, other.kernel)
    if isinstance(one, AveragePool) and isinstance(other, AveragePool):
        return (one.shape, one.size, one.padding) == (other.shape, other.size, other.padding)
    return all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


def describe(wiring: Wiring) -> dict[str, Any]:
    """What a file's header says of the operators."""
    padding = next(name for name, kind in PADDINGS.items() if type(kind) is type(wiring.padding))
    layer = next(name for name, kind in LAYERS.items() if kind is wiring.layer)
    return {
        "W": {
            "kind": "convolutional",
            "hidden": list(wiring.hidden),
            "padding": padding,
            "epsilon": wiring.epsilon.hex(),
            "gamma": None if wiring.gamma is None else wiring.gamma.hex(),
        },
        "U": {"kind": layer},
        "C": {"kind": "pooled", "pool": wiring.pool, "padding": wiring.pool_padding},
        "D": "zero",
    }


def tensors(wiring: Wiring) -> dict[str, Tensor]:
    """What a file holds of the operators."""
    return {"A": wiring.A, "B": wiring.B, "U": wiring.U, "C": wiring.C, "lam": wiring.lam}


def restore(described: Any, found: dict[str, Tensor]) -> Wiring:
    """What :func:`describe` and :func:`tensors` were made from. FormatError where they are of nothing."""
    try:
        W, U, C = described["W"], described["U"], described["C"]
        keys = W.keys() | {"U." + k for k in U} | {"C." + k for k in C}
        expected = {"kind", "hidden", "padding", "epsilon", "gamma", "U.kind", "C.kind", "C.pool", "C.padding"}
        if keys != expected or (W["kind"], C["kind"], described["D"]) != ("convolutional", "pooled", "zero"):
            raise FormatError(f"unknown operators {described!r}")
        hidden = tuple(W["hidden"])
        if len(hidden) != 3 or not all(type(size) is int and size > 0 for size in hidden):
            raise FormatError(f"hidden images of shape {hidden!r}")
        if not all(type(C[key]) is int for key in ("pool", "padding")):
            raise FormatError(f"pooling of {C!r}")
        gamma = None if W["gamma"] is None else float.fromhex(W["gamma"])
        lam = found["lam"]
        if lam.dim() != 3 or not bool((lam > 0).all()):
            raise FormatError("the multipliers lam are not all positive")
        return Wiring(
            hidden, lam, found["A"], found["B"], found["U"], found["C"],
            PADDINGS[W["padding"]], float.fromhex(W["epsilon"]), gamma, LAYERS[U["kind"]], C["pool"], C["padding"],
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"it does not describe a convolutional network: {error}") from error
