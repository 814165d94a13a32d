"""Two-dimensional convolution (correlation, as torch calls it) with zero or circular padding, and its exact adjoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from equilip.errors import InputError
from equilip.operators.operator import Operator

#: Channels, height, width.
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Padding(ABC):
    """What surrounds an image: ``width`` rows and columns on every side."""

    width: int

    def __post_init__(self) -> None:
        if self.width < 0:
            raise InputError(f"a padding cannot be negative, got {self.width}")

    @abstractmethod
    def of(self, width: int) -> Padding:
        """The same kind of padding of another width."""

    @abstractmethod
    def pad(self, x: Tensor) -> Tensor:
        """(batch, c, h, w) -> (batch, c, h + 2 width, w + 2 width)."""

    @abstractmethod
    def fold(self, y: Tensor) -> Tensor:
        """The adjoint of ``pad``."""

    @abstractmethod
    def check(self, height: int, width: int) -> None:
        """InputError where an image of this size cannot be padded so."""


@dataclass(frozen=True)
class Zeros(Padding):
    """Zeros all around."""

    def of(self, width: int) -> Zeros:
        return Zeros(width)

    def pad(self, x: Tensor) -> Tensor:
        return functional.pad(x, (self.width,) * 4)

    def fold(self, y: Tensor) -> Tensor:
        return functional.pad(y, (-self.width,) * 4)

    def check(self, height: int, width: int) -> None:
        return


@dataclass(frozen=True)
class Circular(Padding):
    """The image goes on at its other end."""

    def of(self, width: int) -> Circular:
        return Circular(width)

    def pad(self, x: Tensor) -> Tensor:
        return functional.pad(x, (self.width,) * 4, mode="circular") if self.width else x

    def fold(self, y: Tensor) -> Tensor:
        return self._fold_last(self._fold_last(y).mT).mT if self.width else y

    def _fold_last(self, y: Tensor) -> Tensor:
        """What was padded at one end of the last axis comes back at the other."""
        p = self.width
        left, core, right = y[..., :p], y[..., p:-p], y[..., -p:]
        rest = core.shape[-1] - p
        return core + functional.pad(left, (rest, 0)) + functional.pad(right, (0, rest))

    def check(self, height: int, width: int) -> None:
        if self.width > min(height, width):
            raise InputError(
                f"an image of {height} x {width} pixels cannot be padded circularly by {self.width}; "
                "use a smaller kernel or zero padding"
            )


@dataclass(frozen=True, eq=False)
class Conv2d(Operator):
    """Images of ``shape`` (c, h, w), flattened, correlated with ``kernel`` (c', c, k, l) after padding.

    As ``torch.nn.functional.conv2d`` with the same padding on every side. Raises InputError for shapes that do not
    fit.
    """

    kernel: Tensor
    shape: Shape
    padding: Padding
    stride: int = 1
    kind = "conv2d"

    def __post_init__(self) -> None:
        if self.kernel.dim() != 4 or self.kernel.shape[1] != self.shape[0]:
            raise InputError(
                f"a kernel for images of {self.shape[0]} channels has shape (out, {self.shape[0]}, k, l), "
                f"got {tuple(self.kernel.shape)}"
            )
        if self.stride < 1:
            raise InputError(f"the stride must be at least 1, got {self.stride}")
        self.padding.check(*self.shape[1:])
        if min(self.out_shape) < 1:
            raise InputError(
                f"a kernel of {tuple(self.kernel.shape[2:])} does not fit into an image of {self.shape[1:]} "
                f"padded by {self.padding.width}"
            )

    @property
    def out_shape(self) -> Shape:
        """Channels, height and width of what comes out."""
        grown = (size + 2 * self.padding.width for size in self.shape[1:])
        h, w = ((g - k) // self.stride + 1 for g, k in zip(grown, self.kernel.shape[2:], strict=True))
        return self.kernel.shape[0], h, w

    @property
    def in_size(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def out_size(self) -> int:
        c, h, w = self.out_shape
        return c * h * w

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.kernel,)

    def rebuild(self, tensors: tuple[Tensor, ...]) -> Operator:
        return replace(self, kernel=tensors[0])

    def apply(self, x: Tensor) -> Tensor:
        image = x.unflatten(-1, self.shape)
        if isinstance(self.padding, Zeros):
            return functional.conv2d(image, self.kernel, padding=self.padding.width, stride=self.stride).flatten(1)
        return functional.conv2d(self.padding.pad(image), self.kernel, stride=self.stride).flatten(1)

    def adjoint(self, y: Tensor) -> Tensor:
        grown = functional.conv_transpose2d(y.unflatten(-1, self.out_shape), self.kernel, stride=self.stride)
        # Rows and columns at the end that no position of the kernel reached.
        h, w = (size + 2 * self.padding.width for size in self.shape[1:])
        grown = functional.pad(grown, (0, w - grown.shape[-1], 0, h - grown.shape[-2]))
        return self.padding.fold(grown).flatten(1)

    @property
    def repeats(self) -> int:
        """How often an output pixel may occur: more than once only where circular padding exceeds the kernel."""
        return repeats(self.shape[1:], self.kernel.shape[2:], self.padding)

    def norm_bound(self) -> float:
        """√(‖A‖₁ ‖A‖∞), rounded up: the largest sums of absolute values of the kernel by input and by output."""
        size = self.kernel.detach().double().abs().sum(dim=(2, 3))
        rows, columns = float(size.sum(1).amax()), float(size.sum(0).amax())
        return (rows * columns * self.repeats) ** 0.5 * (1 + (self.kernel.numel() + 4) * torch.finfo(torch.float64).eps)


def repeats(image: Sequence[int], kernel: Sequence[int], padding: Padding) -> int:
    """How often an output pixel of a convolution on images of (h, w) with a kernel of (k, l) may occur."""
    if not isinstance(padding, Circular):
        return 1
    tall, wide = (-(-(n + 2 * padding.width - k + 1) // n) for n, k in zip(image, kernel, strict=True))
    return tall * wide


def gram_kernel(kernel: Tensor) -> Tensor:
    """The kernel (c, c, 2k-1, 2l-1) of AᵀA for the full convolution A with ``kernel`` (m, c, k, l).

    Full: of an image between as many zeros that every overlap counts. Circular convolutions have the same.
    """
    swapped = kernel.transpose(0, 1)
    k, l = kernel.shape[2:]  # noqa: E741 - the letters of the shapes
    return functional.conv2d(swapped, swapped, padding=(k - 1, l - 1)).transpose(0, 1)


def co_gram_kernel(kernel: Tensor) -> Tensor:
    """The kernel (m, m, 2k-1, 2l-1) of V Vᵀ for the convolution V without padding with ``kernel`` (m, c, k, l)."""
    k, l = kernel.shape[2:]  # noqa: E741
    return functional.conv2d(kernel, kernel, padding=(k - 1, l - 1))


def adjoint_kernel(kernel: Tensor) -> Tensor:
    """The kernel (c, m, k, l) of the adjoint of a convolution of stride 1 with an odd ``kernel`` (m, c, k, l)."""
    return kernel.transpose(0, 1).flip(2, 3)
