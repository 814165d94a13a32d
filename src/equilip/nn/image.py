"""What layers of images share: they take images or the same numbers in a row, and know how large both are."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from equilip.activations import ReLU
from equilip.errors import InputError
from equilip.form import Form
from equilip.nn.guarantee import Guarantee
from equilip.nn.layer import LipschitzLayer
from equilip.nn.module import check_sizes
from equilip.operators import Dense, Operator, Padding, Shape, Zeros


class ImageLayer(LipschitzLayer):
    """(..., c, h, w) -> (..., c', h', w'), or flattened (..., c h w) -> (..., c' h' w'), as forms have it.

    ``in_shape`` and ``out_shape`` are (channels, height, width), fixed from the start: an image's size is part of
    what a form is, and nothing is made at the first call.
    """

    in_shape: Shape
    out_shape: Shape

    def _shapes(self, in_shape: Shape, out_shape: Shape) -> None:
        self.in_shape, self.out_shape = in_shape, out_shape
        self.in_features, self.out_features = math.prod(in_shape), math.prod(out_shape)

    def forward(self, x: Tensor) -> Tensor:
        images = x.dim() >= 3 and tuple(x.shape[-3:]) == self.in_shape
        if not images and (not x.dim() or x.shape[-1] != self.in_features):
            raise InputError(f"expected images {self.in_shape}, or flattened, got a tensor of shape {tuple(x.shape)}")
        before = x.shape[:-3] if images else x.shape[:-1]
        y = self.rows(x.reshape(-1, self.in_features))
        return y.reshape(*before, *(self.out_shape if images else (self.out_features,)))

    @abstractmethod
    def rows(self, x: Tensor) -> Tensor:
        """(batch, in_features) -> (batch, out_features), channels first."""


class LinearImageLayer(ImageLayer):
    """A linear map of images and a number added to every channel: a form without neurons."""

    bias: torch.nn.Parameter | None

    @abstractmethod
    def operator(self) -> Operator:
        """The linear map, differentiable in the parameters."""

    @abstractmethod
    def _like(self) -> Tensor:
        """A tensor of the layer's dtype and device."""

    def _offset(self) -> Tensor:
        """What is added to every output, (out_features,)."""
        if self.bias is None:
            return self._like().new_zeros(self.out_features)
        return self.bias.repeat_interleave(self.out_shape[1] * self.out_shape[2])

    def rows(self, x: Tensor) -> Tensor:
        y = self.operator().apply(x)
        return y if self.bias is None else y + self._offset()

    def form(self) -> Form:
        none = self._like().new_zeros
        return Form(
            W=Dense(none(0, 0)), U=Dense(none(0, self.in_features)), b=none(0), C=Dense(none(self.out_features, 0)),
            D=self.operator(), c=self._offset(), activation=ReLU(),
        )  # fmt: skip

    def guarantee(self) -> Guarantee:
        return Guarantee(1.0, self._like().new_zeros(0))


def padding_of(padding: int | Padding) -> Padding:
    """A number is so many rows and columns of zeros, as torch has it."""
    return Zeros(padding) if isinstance(padding, int) else padding


def image_shape(channels: int, image_size: int | tuple[int, int]) -> Shape:
    """(c, h, w) from channels and image size, one number for square ones. InputError names what is wrong."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_sizes(channels=channels, height=height, width=width)
    return channels, height, width
