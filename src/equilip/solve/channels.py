"""The comparison matrix of a convolution, in one weight for each channel (linf.md 6).

Row (c, pixel) of the comparison matrix applied to weights v that are the same at all pixels is at most
own_c v_c + Σ size_cc' v_c': own the centre tap, size the sums of absolute values of the other taps. Border pixels, and
taps that circular padding leads to one pixel, only make it less. So what this matrix of channels proves, W's own does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equilip import rounding
from equilip.activations import slope_bounds
from equilip.form import Form
from equilip.operators import Contraction, Conv2d
from equilip.rounding import Array
from equilip.solve.comparison import Comparison


@dataclass(frozen=True, eq=False)
class ChannelComparison:
    """``comparison``: that of the channels. own (c,): the centre taps. slope: the largest of any neuron."""

    W: Contraction
    comparison: Comparison
    own: Array
    slope: float

    @classmethod
    def of(cls, form: Form, slope: float | None = None) -> ChannelComparison | None:
        """That of a form, with its own slopes or larger ones; None where it is not proved to be an M-matrix."""
        assert isinstance(form.W, Contraction)
        W = form.W
        slope = float(slope_bounds(form.activation, form.hidden_size)[1].max()) if slope is None else slope
        own, size = (part.cpu().numpy() for part in W.channels())
        # Sums of a kernel's taps, rounded up; taking the centre from its sum loses no more than another rounding.
        sums = size + rounding.gamma(W.kernel[0, 0].numel() + 8) * (size + np.diag(np.abs(own))) + 1e-300
        # One entry more than what is proved of the sums is the rounding of own + sums.
        total = sums + np.diag(own) + np.diag(np.abs(own) + np.diagonal(sums)) * 2.0**-50
        comparison = Comparison.make(np.ascontiguousarray(total), np.full(len(own), slope))
        return None if comparison is None else cls(W, comparison, own, slope)

    @property
    def misses(self) -> Array:
        """max(1, 1 - u w_ii) of every channel, (c,), rounded up."""
        return np.maximum(1.0, (1.0 - self.slope * self.own) * (1.0 + 4.0 * rounding.UNIT_ROUNDOFF))

    def bound(self, right: Tensor) -> Tensor:
        """Upper bounds of (I - uM)⁻¹ right, (batch, n), for right (batch, n) >= 0; NaN counts as infinite."""
        largest = right.unflatten(-1, self.W.shape).flatten(-2).nan_to_num(nan=torch.inf).amax(-1)
        return self.W.spread(torch.from_numpy(self.comparison.bound(largest.numpy())))

    def missed(self, residual: Tensor) -> Tensor:
        """How far neurons are at most from the equilibrium, the equation missed by ``residual`` (batch, n) >= 0."""
        return self.bound(residual * self.W.spread(torch.from_numpy(self.misses)))


def input_sums(U: Conv2d) -> Array:
    """(c, c_in): the sum of absolute values of the kernel between two channels, rounded up."""
    sums = U.kernel.detach().cpu().double().abs().sum(dim=(2, 3)).numpy()
    return np.asarray(sums * (1.0 + rounding.gamma(U.kernel[0, 0].numel() + 4)) + 1e-300)


class ChannelProver:
    """Bounds the error of any point for one float64 form on the CPU whose W is a Contraction."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.comparison = ChannelComparison.of(form)
        W, U = form.W, form.U
        assert isinstance(W, Contraction)
        self.W_size = Contraction(W.kernel.abs(), W.shape, W.padding)
        self.U_size = U.rebuild(tuple(t.abs() for t in U.tensors))
        self.unit = rounding.gamma(W.kernel[0].numel() + sum(t[0].numel() for t in U.tensors) + 16)

    def error_by_neuron(self, x: Tensor, z: Tensor) -> Tensor:
        """(batch, n): bounds on |z - z*(x)| for raw inputs x and any z; infinite where nothing is proved."""
        if self.comparison is None:
            return torch.full_like(z, torch.inf)
        form = self.form
        xi = form.standardise(x)
        image = form.activation.value(form.W.plus(z, form.bias(xi)))
        residual = (image - z).abs()
        magnitude = xi.abs()
        if form.standardisation is not None:
            magnitude = (x.abs() + form.standardisation.mean.abs()) / form.standardisation.std
        # Absolute values of everything, with their own rounding in the factor.
        evaluation = 2 * self.unit * (self.W_size.apply(z.abs()) + self.U_size.apply(magnitude) + form.b.abs())
        ulp = torch.finfo(torch.float64).eps
        doubt = evaluation + (form.activation.rounding + 1) * ulp * image.abs() + ulp * residual + 1e-300
        return self.comparison.missed((residual + doubt) * (1 + 2.0**-40))

    def error(self, x: Tensor, z: Tensor) -> Tensor:
        """(batch,): a bound on ‖z - z*(x)‖₂."""
        bound = self.error_by_neuron(x, z).norm(dim=1) * (1 + rounding.gamma(z.shape[1] + 8))
        return torch.where(bound.isfinite(), bound, torch.inf)
