"""Published convolutional networks as ours: other padding, the same function.

Their hidden images have a ring of pixels around that the activation sets to zero, and their convolutions are circular
on the larger image. With kernels of 3 pixels no circle ever closes over anything but the ring, so on the pixels inside
it they are: B and the input layer with zero padding, AᵀA with the full convolution, and for the "UUᵀ" of their code
(two convolutions without padding) the K = V Vᵀ of :class:`equilip.operators.Recurrence`, which dominates the UUᵀ of
the input layer with zero padding. So their bound holds. With larger kernels the ring is too narrow, and it does not
(mathematics 1.4): such files are refused.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from equilip import data, nn
from equilip.data.catalogue import CHANNELS, SHAPES
from equilip.errors import FormatError, InputError
from equilip.operators import Plain, Shape
from equilip.solve import Settings


def module(
    tensors: dict[str, Tensor], gamma: float | None, epsilon: float, data_name: str | None, path: Path
) -> nn.LBENConv:
    """The network of an ``lben-conv`` (gamma None) or ``lben-conv-lip`` file."""
    A, U, C, psi = (tensors[name] for name in ("A.weight", "U.weight", "Wout.weight", "psi"))
    channels = A.shape[0]
    if A.shape[2:] != (3, 3) or U.shape[2:] != (3, 3):
        raise FormatError(
            f"{path}: kernels of {tuple(A.shape[2:])} pixels wrap around the ring of zeros that the published wiring "
            "leaves, so that its bound does not hold; only 3 x 3 is imported"
        )
    name, shape = _images(U.shape[1], data_name, path)
    size = shape[1] + 2
    pool = math.isqrt(size * size * channels // C.shape[1])
    if size % pool or channels * (size // pool) ** 2 != C.shape[1]:
        raise FormatError(
            f"{path}: Wout takes {C.shape[1]} numbers, which is no pooling of {channels} images of {size} x {size}"
        )
    metric = _metric(psi, (channels, size, size), path)
    model = nn.LBENConv(
        shape,
        channels,
        C.shape[0],
        gamma,
        metric=metric,
        pool=pool,
        pool_padding=1,
        epsilon=epsilon,
        input_layer=Plain,
        standardisation=data.standardisation(name).to(A.dtype, None),
        settings=Settings(),
        dtype=A.dtype,
    )
    sizes = {"log_a": "a", "log_u": "u", "log_g": "g"} if gamma is not None else {"log_a": "g"}
    with torch.no_grad():
        for own, theirs in sizes.items():
            value = tensors[theirs]
            if not float(value) > 0:
                raise FormatError(f"{path}: {theirs} must be positive, got {float(value):g}: nothing holds without")
            model.get_parameter(own).copy_(value.log())
        model.beta.copy_(tensors["b" if gamma is not None else "h"])
        for own, theirs in {"A": "A", "B": "B", "U": "U", "C": "Wout"}.items():
            model.get_parameter(own).copy_(tensors[f"{theirs}.weight"])
        model.b.copy_(tensors["U.bias"])
        model.c.copy_(tensors["Wout.bias"])
        if model.psi is not None:
            inner = psi[0, :, 1:-1, 1:-1] if psi.shape[2] > 1 else psi[0]
            model.psi.copy_(inner)
    return model


def _images(channels: int, name: str | None, path: Path) -> tuple[str, Shape]:
    """The data set that the network is for, and the shape of its images."""
    if name is None:
        name = {1: "mnist", 3: "cifar10"}.get(channels)
    if name is None or name not in CHANNELS:
        raise InputError(f"for which data set is {path}? say --data, one of {', '.join(CHANNELS)}")
    shape = SHAPES[name]
    if len(shape) != 3 or shape[0] != channels or shape[1] != shape[2]:
        raise InputError(f"the network takes images of {channels} channels, {name} has {shape}")
    return name, (shape[0], shape[1], shape[2])


def _metric(psi: Tensor, hidden: Shape, path: Path) -> nn.PixelMetric:
    metrics = {hidden: nn.FullMetric(), (hidden[0], 1, 1): nn.ChannelMetric(), (1, *hidden[1:]): nn.ImageMetric()}
    shape = tuple(psi.shape[1:])
    if shape == (1, 1, 1) and not bool(psi.any()):
        return nn.IdentityMetric()
    if shape not in metrics:
        raise FormatError(f"{path}: psi has shape {tuple(psi.shape)}, no metric on hidden images of {hidden}")
    return metrics[(shape[0], shape[1], shape[2])]
