"""How far a point can be from the true equilibrium: a bound that counts every rounding (mathematics 10.3, 10.4).

Nothing here trusts a solver. With ẑ = σ(W z + U ξ + b) and r = ẑ - z, strong monotonicity with the proven
constant m in the metric Λ gives

    ‖z - z*‖_Λ <= ‖Λ^-½ (W - 2I)ᵀ Λ r‖ / m,

because (z + r - z*)ᵀ Λ (W(z - z*) - (z + r - z*)) >= 0 for every slope in [0, 1]. Where W has no cycles,
|z - z*| <= |r| + |W| |z - z*| bounds each neuron in turn instead. Everything is evaluated in float64 from the
stored numbers (float32 numbers are float64 numbers), and the evaluation's own rounding is added to r.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from equilip import rounding
from equilip.form import Form
from equilip.operators import Contraction, WithProof
from equilip.solve.channels import ChannelProver
from equilip.solve.comparison import Comparison
from equilip.solve.constructed import Constructed
from equilip.solve.multipliers import find_metric
from equilip.solve.substitution import levels

#: Covers the few roundings of norms and sums of nonnegative numbers in the bounds themselves.
INFLATE = 1 + 2.0**-40


class Prover:
    """Bounds the error of any point for one form; made once, used for many batches."""

    def __init__(self, form: Form) -> None:
        form = form.detach().to(torch.float64, torch.device("cpu"))
        self.form = form
        #: What bounds the error instead, where W has its proof built in, or contracts channel by channel.
        self.constructed = Constructed(form, form.W) if isinstance(form.W, WithProof) else None
        self.channels = ChannelProver(form) if isinstance(form.W, Contraction) else None
        if self.constructed is not None or self.channels is not None:
            return
        W = form.W.dense()
        n, p = form.hidden_size, form.in_size
        # Every entry of s is a sum of n + p + 1 products; standardising ξ adds two roundings, casting none.
        self.unit = rounding.gamma(n + p + 8)
        self.W_rows = W.norm(dim=1)
        self.U_rows = form.U.dense().norm(dim=1)
        order = levels(W)
        self.depth = None if order is None else len(order)
        if self.depth is not None:
            self.W_abs = W.abs()
            return
        metric = find_metric(form.W, form.lam)
        lam = torch.ones(n, dtype=torch.float64) if metric is None else metric.lam
        self.m = rounding.well_posedness_margin(W.numpy(), lam.numpy())
        root = lam.sqrt()
        # Λ^-½ (W - 2I)ᵀ Λ^½ acts on Λ^½ r; its Frobenius norm bounds what rounding does to the product.
        shifted = W.clone()
        shifted.diagonal().sub_(2.0)
        self.root = root
        self.map = root[:, None] * shifted / root
        self.frobenius = float(torch.linalg.matrix_norm(self.map)) * INFLATE
        self.smallest = float(root.amin())

    @property
    def well_posed(self) -> bool:
        """Whether it is proven that there is exactly one equilibrium for every input."""
        if self.constructed is not None:
            return True
        if self.channels is not None:
            return self.channels.comparison is not None
        return self.depth is not None or self.m > 0

    def error(self, x: Tensor, z: Tensor) -> Tensor:
        """(batch,) float64: a bound on ‖z - z*(x)‖₂ for raw inputs x (batch, p) and any z (batch, n)."""
        x, z = x.detach().to("cpu", torch.float64), z.detach().to("cpu", torch.float64)
        if self.constructed is not None:
            return self.constructed.error(x, z)
        if self.channels is not None:
            return self.channels.error(x, z)
        if not self.well_posed:
            return torch.full_like(z[:, 0], torch.inf) if z.shape[1] else z.new_zeros(z.shape[0])
        residual, doubt = self._residual(x, z)
        bound = self._by_levels(residual, doubt) if self.depth is not None else self._by_metric(residual, doubt)
        bound = bound * INFLATE
        return torch.where(bound.isfinite(), bound, torch.inf)

    @cached_property
    def comparison(self) -> Comparison | None:
        """The comparison matrix's proof; None where W is not proved to contract in any weighted ℓ∞ norm."""
        return Comparison.of(self.form)

    def error_by_neuron(self, x: Tensor, z: Tensor) -> Tensor:
        """(batch, n) float64: bounds on |z - z*(x)| neuron by neuron (linf.md 1); infinite without a ``comparison``."""
        x, z = x.detach().to("cpu", torch.float64), z.detach().to("cpu", torch.float64)
        if self.channels is not None:
            return self.channels.error_by_neuron(x, z)
        if self.comparison is None:
            return torch.full_like(z, torch.inf)
        residual, doubt = self._residual(x, z)
        missed = (residual.abs() + doubt).numpy() * self.comparison.misses * INFLATE
        return torch.from_numpy(self.comparison.bound(missed))

    def _residual(self, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """σ(W z + U ξ + b) - z as computed, and how far each entry may be from its exact value: (batch, n) twice."""
        form = self.form
        xi = form.standardise(x)
        s = form.W.plus(z, form.bias(xi))
        image = form.activation.value(s)
        residual = image - z
        evaluation = self.unit * (
            self.W_rows * z.norm(dim=1, keepdim=True) + self.U_rows * xi.norm(dim=1, keepdim=True) + form.b.abs()
        )
        ulp = np.finfo(np.float64).eps
        return residual, evaluation + (form.activation.rounding + 1) * ulp * image.abs() + ulp * residual.abs() + 1e-300

    def _by_metric(self, residual: Tensor, doubt: Tensor) -> Tensor:
        weighted = residual * self.root
        image = (weighted @ self.map).norm(dim=1)
        unit = rounding.gamma(residual.shape[1] + 8)
        rounded = self.frobenius * (unit * weighted.norm(dim=1) + (doubt * self.root).norm(dim=1))
        return (image * (1 + unit) + rounded) * INFLATE / self.m / self.smallest

    def _by_levels(self, residual: Tensor, doubt: Tensor) -> Tensor:
        own = residual.abs() + doubt
        bound = own
        unit = 1 + rounding.gamma(residual.shape[1] + 4)
        for _ in range(self.depth or 0):
            bound = (own + bound @ self.W_abs.mT) * unit
        return bound.norm(dim=1)
