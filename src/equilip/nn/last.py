"""A last layer whose rows have norm 1 (mathematics 4.5)."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.nn.guarantee import Guarantee
from equilip.nn.layer import AffineLayer
from equilip.norms import norm_bound


class NormalisedRows(AffineLayer):
    """y = A x + b, the rows of A those of W divided by their norms; for outputs that are compared in pairs.

    Each output has slope at most 1, the difference of two at most ‖a_i - a_j‖ <= 2 (:meth:`pair_slopes`), and all of
    them together at most ‖A‖ <= √out_features, which is what ``guarantee`` promises. Rows of zeros stay zero.
    """

    def matrix(self) -> Tensor:
        W = self.weight.double()
        # Scaled first, so that no square leaves the range of numbers.
        largest = W.detach().abs().amax(1, keepdim=True)
        W = W / torch.where(largest > 0, largest, torch.ones_like(largest))
        square = W.square().sum(1, keepdim=True)
        norm = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
        return (W / (norm * (1 + 4 * torch.finfo(self.weight.dtype).eps))).to(self.weight.dtype)

    def pair_slopes(self) -> Tensor:
        """‖a_i - a_j‖ (out, out), the bound on the slope of y_i - y_j, rounded up; 0 on the diagonal."""
        A = self.matrix().double()
        found = (A[:, None] - A).norm(dim=2) * (1 + 4 * A.shape[1] * torch.finfo(torch.float64).eps)
        return found.to(self.weight.dtype) * (1 + 2 * torch.finfo(self.weight.dtype).eps)

    def guarantee(self) -> Guarantee:
        with torch.no_grad():
            return Guarantee(float(norm_bound(self.matrix())), self.weight.new_zeros(0))
