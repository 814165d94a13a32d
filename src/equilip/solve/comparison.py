"""What the comparison matrix proves about an equation, entry by entry (linf.md 1).

Let M hold the diagonal of W and the absolute values off it, and let u be the largest slope of every neuron. If some
w > 0 has w - u M w > 0, then I - uM is an M-matrix: its inverse has no negative entry. There is exactly one
equilibrium for every input, and when the preactivations are pushed by t and the equation is missed by r, so that
δ = D (W δ + t) + r with slopes D in [0, u], then

    |δ| <= (I - uM)⁻¹ (u |t| + max(1, 1 - u w_ii) |r|).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from equilip.activations import slope_bounds
from equilip.form import Form
from equilip.rounding import UNIT_ROUNDOFF, Array, comparison_slack, gamma

#: Weights that are tried: (I - uM)⁻¹ applied to 1 once, twice, ...
_TRIES = 3


@dataclass(frozen=True, eq=False)
class Comparison:
    """W (n, n), the slopes u (n,), a weight w (n,) > 0 and its proven slack (n,): w - u M w >= slack > 0."""

    W: Array
    slope: Array
    weight: Array
    slack: Array

    @classmethod
    def of(cls, form: Form) -> Comparison | None:
        """The comparison of a form, float64; None where it is not proved to be an M-matrix."""
        W = form.W.dense().detach().cpu().double().numpy()
        slope = slope_bounds(form.activation, form.hidden_size)[1].numpy()
        return cls.make(np.ascontiguousarray(W), slope)

    @classmethod
    def make(cls, W: Array, slope: Array) -> Comparison | None:
        n = slope.shape[0]
        size = slope[:, None] * np.abs(W)
        np.fill_diagonal(size, slope * np.diagonal(W))
        with np.errstate(all="ignore"):
            weight = np.ones(n)
            for _ in range(_TRIES):
                try:
                    weight = np.asarray(np.linalg.solve(np.eye(n) - size, weight), dtype=np.float64)
                except np.linalg.LinAlgError:
                    return None
                if not (np.isfinite(weight).all() and (weight > 0).all()):
                    return None
                slack = comparison_slack(W, weight, slope)
                if (slack > 0).all():
                    return cls(W, slope, weight, slack)
                # A slack of 1 drowns in the rounding of neurons that live on a much larger scale. The next weight has a
                # slack of the size of this one in every neuron.
                weight = weight / weight.max()
        return None

    @property
    def misses(self) -> Array:
        """max(1, 1 - u w_ii) (n,), rounded up: how much more missing the equation counts than pushing it."""
        return np.maximum(1.0, (1.0 - self.slope * np.diagonal(self.W)) * (1.0 + 4.0 * UNIT_ROUNDOFF))

    def bound(self, right: Array) -> Array:
        """Upper bounds of (I - uM)⁻¹ right, (batch, n), for right (batch, n) >= 0 (NaN counts as infinite).

        An approximate solution y, raised by (I - uM)⁻¹ of what it lacks, and then by θ w until the inequality
        (I - uM)(y + θ w) >= right is proved: θ is zero but where the inverse is not accurate.
        """
        n = self.slope.shape[0]
        if not n:
            return np.zeros_like(right)
        with np.errstate(all="ignore"):
            y = np.maximum(right @ self._inverse.T, 0.0)
            # Twice what it lacks, most of which is the room for rounding, of y itself and of what is added.
            y = y + np.maximum(2.0 * self._short(y, right) @ self._inverse.T, 0.0)
            theta = np.max(self._short(y, right) / self.slack, axis=1) * (1.0 + 4.0 * UNIT_ROUNDOFF)
            raised = (y + theta[:, None] * self.weight) * (1.0 + 4.0 * UNIT_ROUNDOFF)
        return np.where(np.isnan(raised), np.inf, raised)

    def _short(self, y: Array, right: Array) -> Array:
        """Upper bounds of what (I - uM) y lacks of ``right``, (batch, n), for y (batch, n) >= 0."""
        n = self.slope.shape[0]
        # Rounding of y - uMy, each entry a sum of n + 1 products.
        error = gamma(n + 8) * (y + y @ self._size.T) * (1.0 + gamma(n + 8)) + 1e-300
        return np.maximum(right - (y - y @ self._scaled.T) + error, 0.0) * (1.0 + 4.0 * UNIT_ROUNDOFF)

    @cached_property
    def _scaled(self) -> Array:
        """uM, each entry with one rounding."""
        size = self.slope[:, None] * np.abs(self.W)
        np.fill_diagonal(size, self.slope * np.diagonal(self.W))
        return size

    @cached_property
    def _size(self) -> Array:
        """u|W|."""
        return np.abs(self._scaled)

    @cached_property
    def _inverse(self) -> Array:
        return np.asarray(np.linalg.inv(np.eye(self.slope.shape[0]) - self._scaled), dtype=np.float64)
