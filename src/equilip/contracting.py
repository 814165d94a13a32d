"""Forms of convolutional networks that contract in a weighted maximum norm, and how they are kept in files (linf.md 6).

W and U are convolutions, y = C pool(z) + c. The proof needs the kernels only, so a file holds them and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from equilip.activations import Activation
from equilip.errors import FormatError, InputError
from equilip.form import Form, Standardisation
from equilip.operators import AveragePool, Contraction, Conv2d, Dense, Padding, Product, Shape, Zero
from equilip.wiring import PADDINGS


@dataclass(frozen=True, eq=False)
class Kernels:
    """All that defines such a form beside its activation, biases and standardisation.

    image: (c_in, h', w') of the input; hidden: (c, h, w). W (c, c, k, k), U (c, c_in, l, l) with l odd, read at every
    ``stride``-th pixel, C (q, pooled). padding: its kind; the widths follow from the kernels.
    """

    image: Shape
    hidden: Shape
    W: Tensor
    U: Tensor
    C: Tensor
    padding: Padding
    stride: int = 1
    pool: int = 1
    pool_padding: int = 0


def form(
    kernels: Kernels, b: Tensor, c: Tensor, activation: Activation, standardisation: Standardisation | None = None
) -> Form:
    """The form with biases b (n,), or (channels,), one for each channel, and c (q,). InputError where nothing fits."""
    W = Contraction(kernels.W, kernels.hidden, kernels.padding.of(kernels.W.shape[-1] // 2))
    U = Conv2d(kernels.U, kernels.image, kernels.padding.of(kernels.U.shape[-1] // 2), kernels.stride)
    if U.out_shape != kernels.hidden:
        raise InputError(f"the input layer makes images of {U.out_shape}, and the hidden ones are {kernels.hidden}")
    pool = AveragePool(kernels.hidden, kernels.pool, kernels.C.dtype, kernels.C.device, kernels.pool_padding)
    if b.shape == kernels.hidden[:1] and W.in_size != len(b):
        b = W.spread(b)
    D = Zero((kernels.C.shape[0], U.in_size), b.dtype, b.device)
    return Form(W, U, b, Product(Dense(kernels.C), pool), D, c, activation, standardisation=standardisation)


def parts(form: Form) -> Kernels:
    """What such a form is made of. InputError for one whose input layer or output map is of another kind."""
    W, U, C = form.W, form.U, form.C
    if not (
        isinstance(W, Contraction)
        and isinstance(U, Conv2d)
        and type(U.padding) is type(W.padding)
        and U.kernel.shape[2] == U.kernel.shape[3] == 2 * U.padding.width + 1
        and isinstance(C, Product)
        and isinstance(C.left, Dense)
        and isinstance(C.right, AveragePool)
        and isinstance(form.D, Zero)
    ):
        raise InputError("this is not a convolutional contracting network as nn.NEMONConv makes them")
    return Kernels(
        U.shape, W.shape, W.kernel, U.kernel, C.left.matrix, W.padding, U.stride, C.right.size, C.right.padding
    )


def describe(kernels: Kernels) -> dict[str, Any]:
    """What a file's header says of the operators."""
    padding = next(name for name, kind in PADDINGS.items() if type(kind) is type(kernels.padding))
    return {
        "W": {"kind": "contraction", "hidden": list(kernels.hidden), "padding": padding},
        "U": {"kind": "convolution", "image": list(kernels.image), "stride": kernels.stride},
        "C": {"kind": "pooled", "pool": kernels.pool, "padding": kernels.pool_padding},
        "D": "zero",
    }


def tensors(kernels: Kernels) -> dict[str, Tensor]:
    """What a file holds of the operators."""
    return {"W": kernels.W, "U": kernels.U, "C": kernels.C}


def restore(described: Any, found: dict[str, Tensor]) -> Kernels:
    """What :func:`describe` and :func:`tensors` were made from. FormatError where they are of nothing."""
    try:
        W, U, C = described["W"], described["U"], described["C"]
        keys = (W.keys(), U.keys(), C.keys())
        expected = ({"kind", "hidden", "padding"}, {"kind", "image", "stride"}, {"kind", "pool", "padding"})
        kinds = (W["kind"], U["kind"], C["kind"], described["D"])
        if keys != expected or kinds != ("contraction", "convolution", "pooled", "zero"):
            raise FormatError(f"unknown operators {described!r}")
        sizes = [*W["hidden"], *U["image"], U["stride"], C["pool"]]
        if len(W["hidden"]) != 3 or len(U["image"]) != 3 or not all(type(s) is int and s > 0 for s in sizes):
            raise FormatError(f"images of {W['hidden']!r} and {U['image']!r}, stride and pool {sizes[6:]}")
        if type(C["padding"]) is not int:
            raise FormatError(f"pooling of {C!r}")
        return Kernels(
            tuple(U["image"]), tuple(W["hidden"]), found["W"], found["U"], found["C"],
            PADDINGS[W["padding"]], U["stride"], C["pool"], C["padding"],
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"it does not describe a convolutional network: {error}") from error
