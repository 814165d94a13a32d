"""The layers that a chain is made of: functions whose slope is bounded layer by layer, and how files describe them.

A form has one equation for the whole network; where that would be too large, a :class:`equilip.chain.Chain` keeps its
layers apart. docs/formats.md says what stands in files.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from equilip import activations
from equilip.activations import Activation
from equilip.errors import FormatError, InputError
from equilip.operators import Circulant, Circular, Conv2d, Dense, Operator, Shape, Zeros


@dataclass(frozen=True, eq=False)
class Link(ABC):
    """A function of vectors, (batch, in_size) -> (batch, out_size); images are flattened, channels first."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name in files."""

    @property
    @abstractmethod
    def in_size(self) -> int: ...

    @property
    def out_size(self) -> int:
        return self.in_size

    @property
    def neurons(self) -> int:
        """Arguments of activations."""
        return 0

    @abstractmethod
    def apply(self, x: Tensor) -> Tensor:
        """The function, differentiable."""

    def describe(self) -> dict[str, Any]:
        """What a file's header says beside the kind."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """What a file holds."""
        return {}

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Self:
        """The same function of numbers of another format, or on another device."""
        changed: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Operator):
                changed[field.name] = value.to(dtype, device)
            elif isinstance(value, Tensor):
                changed[field.name] = value.to(device=device, dtype=dtype)
        return replace(self, **changed)


@dataclass(frozen=True, eq=False)
class Linear(Link):
    """A x + b; b (channels,) or None."""

    map: Operator
    bias: Tensor | None
    kind = "linear"

    def __post_init__(self) -> None:
        check_map(self.map)

    @property
    def in_size(self) -> int:
        return self.map.in_size

    @property
    def out_size(self) -> int:
        return self.map.out_size

    def apply(self, x: Tensor) -> Tensor:
        y = self.map.apply(x)
        return y if self.bias is None else y + spread(self.bias, self.map)

    def describe(self) -> dict[str, Any]:
        return {"map": describe_map(self.map)}

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.map.tensors[0], **_optional(bias=self.bias)}


@dataclass(frozen=True, eq=False)
class Pointwise(Link):
    """σ(x) of ``size`` numbers."""

    activation: Activation
    size: int
    kind = "activation"

    @property
    def in_size(self) -> int:
        return self.size

    @property
    def neurons(self) -> int:
        return self.size

    def apply(self, x: Tensor) -> Tensor:
        return self.activation.value(x)

    def describe(self) -> dict[str, Any]:
        return {"activation": describe_activation(self.activation, self.size)}


@dataclass(frozen=True, eq=False)
class Potential(Link):
    """x - 2 Wᵀ T⁻¹ σ(W x + b); T and b (channels,) of W, T positive."""

    map: Operator
    metric: Tensor
    bias: Tensor
    activation: Activation
    kind = "potential"

    def __post_init__(self) -> None:
        check_map(self.map)

    @property
    def in_size(self) -> int:
        return self.map.in_size

    @property
    def neurons(self) -> int:
        return self.map.out_size

    def apply(self, x: Tensor) -> Tensor:
        z = self.activation.value(self.map.apply(x) + spread(self.bias, self.map))
        return x - self.map.adjoint(z * spread(2 / self.metric, self.map))

    def describe(self) -> dict[str, Any]:
        own = describe_activation(self.activation, self.map.out_size)
        return {"map": describe_map(self.map), "activation": own}

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.map.tensors[0], "metric": self.metric, "bias": self.bias}


@dataclass(frozen=True, eq=False)
class Sandwich(Link):
    """C σ(V x + b), V and C both dense or both circular convolutions; b (channels,) of V.

    lam (channels,), where known, are the multipliers that prove its slope: a hint.
    """

    map: Operator
    back: Operator
    bias: Tensor
    activation: Activation
    lam: Tensor | None = None
    kind = "sandwich"

    def __post_init__(self) -> None:
        check_map(self.map)
        check_map(self.back)

    @property
    def in_size(self) -> int:
        return self.map.in_size

    @property
    def out_size(self) -> int:
        return self.back.out_size

    @property
    def neurons(self) -> int:
        return self.map.out_size

    def apply(self, x: Tensor) -> Tensor:
        return self.back.apply(self.activation.value(self.map.apply(x) + spread(self.bias, self.map)))

    def describe(self) -> dict[str, Any]:
        own = describe_activation(self.activation, self.map.out_size)
        return {"map": describe_map(self.map), "back": describe_map(self.back), "activation": own}

    def tensors(self) -> dict[str, Tensor]:
        own = {"weight": self.map.tensors[0], "back": self.back.tensors[0], "bias": self.bias}
        return {**own, **_optional(lam=self.lam)}


@dataclass(frozen=True, eq=False)
class Pool(Link):
    """Means over blocks of size x size pixels, times the size where ``scaled``."""

    shape: Shape
    size: int
    scaled: bool
    kind = "pool"

    @property
    def in_size(self) -> int:
        return math.prod(self.shape)

    @property
    def out_size(self) -> int:
        return self.in_size // self.size**2

    def apply(self, x: Tensor) -> Tensor:
        y = functional.avg_pool2d(x.unflatten(-1, self.shape), self.size).flatten(1)
        return y * self.size if self.scaled else y

    def describe(self) -> dict[str, Any]:
        return {"image": list(self.shape), "size": self.size, "scaled": self.scaled}


@dataclass(frozen=True, eq=False)
class SpaceToDepth(Link):
    """Blocks of size x size pixels become channels, as torch.nn.PixelUnshuffle."""

    shape: Shape
    size: int
    kind = "space_to_depth"

    @property
    def in_size(self) -> int:
        return math.prod(self.shape)

    def apply(self, x: Tensor) -> Tensor:
        return functional.pixel_unshuffle(x.unflatten(-1, self.shape), self.size).flatten(1)

    def describe(self) -> dict[str, Any]:
        return {"image": list(self.shape), "size": self.size}


@dataclass(frozen=True, eq=False)
class PadChannels(Link):
    """Zeros after the other numbers."""

    inputs: int
    outputs: int
    kind = "pad_channels"

    @property
    def in_size(self) -> int:
        return self.inputs

    @property
    def out_size(self) -> int:
        return self.outputs

    def apply(self, x: Tensor) -> Tensor:
        return functional.pad(x, (0, self.outputs - self.inputs))

    def describe(self) -> dict[str, Any]:
        return {"inputs": self.inputs, "outputs": self.outputs}


@dataclass(frozen=True, eq=False)
class Sort(Link):
    """Groups of neighbouring channels sorted at every pixel, the smallest first."""

    shape: Shape
    group: int
    kind = "sort"

    @property
    def in_size(self) -> int:
        return math.prod(self.shape)

    def apply(self, x: Tensor) -> Tensor:
        c, h, w = self.shape
        return x.reshape(len(x), c // self.group, self.group, h * w).sort(dim=2).values.flatten(1)

    def describe(self) -> dict[str, Any]:
        return {"image": list(self.shape), "group": self.group}


@dataclass(frozen=True, eq=False)
class Scale(Link):
    """One number times x."""

    factor: float
    size: int
    kind = "scale"

    @property
    def in_size(self) -> int:
        return self.size

    def apply(self, x: Tensor) -> Tensor:
        return self.factor * x

    def describe(self) -> dict[str, Any]:
        return {"factor": float(self.factor).hex(), "size": self.size}


def check_map(operator: Operator) -> None:
    """InputError for maps that files of chains do not know."""
    match operator:
        case Dense() | Conv2d(padding=Zeros()) | Circulant(stride=1):
            return
        case Conv2d(padding=Circular()):
            if all(
                n == out * operator.stride for n, out in zip(operator.shape[1:], operator.out_shape[1:], strict=True)
            ):
                return
            raise InputError(
                f"a circular convolution of {operator.shape} that gives images {operator.out_shape} has no place in a "
                f"chain: pad so that stride {operator.stride} gives one pixel for every {operator.stride}"
            )
    raise InputError(f"an operator of kind {operator.kind} has no place in a chain; use a matrix or a convolution")


def channels(operator: Operator) -> int:
    """Rows of a matrix, output channels of a convolution."""
    return operator.tensors[0].shape[0]


def spread(numbers: Tensor, operator: Operator) -> Tensor:
    """One number for each of a map's output channels as one for each output."""
    return numbers.repeat_interleave(operator.out_size // channels(operator))


def describe_map(operator: Operator) -> dict[str, Any]:
    """What a file says of a map beside its numbers."""
    if isinstance(operator, Conv2d):
        padding = "circular" if isinstance(operator.padding, Circular) else "zeros"
        width, stride = operator.padding.width, operator.stride
        return {
            "kind": "convolution",
            "image": list(operator.shape),
            "padding": padding,
            "width": width,
            "stride": stride,
        }
    if isinstance(operator, Circulant):
        image = list(operator.shape)
        return {"kind": "convolution", "image": image, "padding": "circular", "width": 0, "stride": 1}
    return {"kind": "dense"}


def restore_map(described: dict[str, Any], numbers: Tensor) -> Operator:
    """What :func:`describe_map` was made from. FormatError for anything else, InputError for what does not fit."""
    if described == {"kind": "dense"} and numbers.dim() == 2:
        return Dense(numbers)
    if described.keys() != {"kind", "image", "padding", "width", "stride"} or described["kind"] != "convolution":
        raise FormatError(f"unknown map {described!r}")
    shape, circular = restore_shape(described["image"]), described["padding"] == "circular"
    width, stride = restore_size(described["width"], 0), restore_size(described["stride"])
    if described["padding"] not in ("zeros", "circular") or numbers.dim() != 4:
        raise FormatError(f"unknown padding {described['padding']!r}, or a kernel of shape {tuple(numbers.shape)}")
    if circular and not width and stride == 1 and tuple(numbers.shape[1:]) == shape:
        return Circulant(numbers)
    return Conv2d(numbers, shape, Circular(width) if circular else Zeros(width), stride)


def describe_activation(activation: Activation, size: int) -> dict[str, Any]:
    """One block of neurons, as in other forms."""
    described = activations.describe(activation, size)
    if len(described) != 1:
        raise InputError("a layer of a chain has one activation for all its neurons")
    return described[0]


def restore_shape(value: Any) -> Shape:
    c, h, w = (restore_size(size) for size in value)
    return c, h, w


def restore_size(value: Any, smallest: int = 1) -> int:
    if type(value) is not int or value < smallest:
        raise FormatError(f"{value!r} is no size")
    return value


def restore(described: dict[str, Any], found: dict[str, Tensor]) -> Link:
    """The link that a file describes. FormatError, InputError, KeyError, TypeError or ValueError where it is none."""
    rest, own = dict(described), dict(found)
    kind = rest.pop("kind")
    link: Link
    match kind:
        case "linear":
            link = Linear(restore_map(rest.pop("map"), own.pop("weight")), own.pop("bias", None))
        case "activation":
            sigma = rest.pop("activation")
            link = Pointwise(activations.restore([sigma]), restore_size(sigma["size"]))
        case "potential":
            A, sigma = restore_map(rest.pop("map"), own.pop("weight")), rest.pop("activation")
            link = Potential(A, own.pop("metric"), own.pop("bias"), activations.restore([sigma]))
        case "sandwich":
            maps = (restore_map(rest.pop("map"), own.pop("weight")), restore_map(rest.pop("back"), own.pop("back")))
            sigma = activations.restore([rest.pop("activation")])
            link = Sandwich(*maps, own.pop("bias"), sigma, own.pop("lam", None))
        case "pool":
            link = Pool(restore_shape(rest.pop("image")), restore_size(rest.pop("size")), bool(rest.pop("scaled")))
        case "space_to_depth":
            link = SpaceToDepth(restore_shape(rest.pop("image")), restore_size(rest.pop("size")))
        case "pad_channels":
            link = PadChannels(restore_size(rest.pop("inputs")), restore_size(rest.pop("outputs")))
        case "sort":
            link = Sort(restore_shape(rest.pop("image")), restore_size(rest.pop("group")))
        case "scale":
            link = Scale(float.fromhex(rest.pop("factor")), restore_size(rest.pop("size")))
        case _:
            raise FormatError(f"unknown kind of layer {kind!r}")
    if rest or own:
        raise FormatError(f"a layer of kind {kind} has no {sorted([*rest, *own])}")
    return link


def _optional(**tensors: Tensor | None) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}
