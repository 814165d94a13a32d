"""Matrices held to a slope of 1 in the norms of the sum (ℓ1) and of the largest entry (ℓ∞): mathematics 8."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import Enum

import torch
from torch import Tensor

from equilip.nn.guarantee import Guarantee
from equilip.nn.layer import AffineLayer
from equilip.norms import norm_bound


class Norm(Enum):
    """How long a vector is: the sum of its absolute values, or the largest of them."""

    SUM = "l1"
    LARGEST = "linf"


class ConstrainedLinear(AffineLayer, ABC):
    """y = A x + b, A (out, in) the weight, its parts divided by their size where that is above 1.

    ``takes`` and ``gives``: the norms between which A has slope at most 1, for the stored numbers: sizes are summed in
    float64, and what rounding may add to the quotients is divided away too. In ℓ2 it promises ‖A‖.
    """

    takes: Norm
    gives: Norm

    @abstractmethod
    def sizes(self, magnitudes: Tensor) -> Tensor:
        """What has to be at most 1, as a tensor that divides the weight: of its absolute values, (out, in)."""

    def matrix(self) -> Tensor:
        W = self.weight.double()
        room = 1 + 4 * torch.finfo(self.weight.dtype).eps
        return (W / (self.sizes(W.abs()) * room).clamp(min=1.0)).to(self.weight.dtype)

    def guarantee(self) -> Guarantee:
        with torch.no_grad():
            return Guarantee(float(norm_bound(self.matrix())), self.weight.new_zeros(0))


class RowSums(ConstrainedLinear):
    """Rows with Σ_j |A_ij| <= 1: the largest entry of the output moves by at most that of the input."""

    takes = gives = Norm.LARGEST

    def sizes(self, magnitudes: Tensor) -> Tensor:
        return magnitudes.sum(1, keepdim=True)


class ColumnSums(ConstrainedLinear):
    """Columns with Σ_i |A_ij| <= 1: the sum of the outputs' changes is at most that of the inputs'."""

    takes = gives = Norm.SUM

    def sizes(self, magnitudes: Tensor) -> Tensor:
        return magnitudes.sum(0, keepdim=True)


class Entries(ConstrainedLinear):
    """Entries with |A_ij| <= 1: the largest change of an output is at most the sum of the inputs' changes."""

    takes, gives = Norm.SUM, Norm.LARGEST

    def sizes(self, magnitudes: Tensor) -> Tensor:
        return magnitudes
