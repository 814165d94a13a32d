"""How far a point can be from the true equilibrium of a network whose proof is built into W (mathematics 10.3, 10.4).

With X = Λ (I - W), whose symmetric part is at least ε by construction, the lemma of :mod:`equilip.solve.proof` reads

    ‖z - z*‖ <= ‖(Λ + Xᵀ) r‖ / ε,    r = σ(W z + U ξ + b) - z.

Everything is evaluated in float64 with direct convolutions. Their rounding is bounded by norms: a computed
X z differs from the exact one by at most γ_k times ‖ |X| ‖ ‖z‖, |X| being made of the absolute values of the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equilip import rounding
from equilip.form import Form
from equilip.operators import Conv2d, Recurrence, Tiers, WithProof
from equilip.operators.convolution import co_gram_kernel, gram_kernel

#: Covers the roundings of the norms and sums of the bound itself.
INFLATE = 1 + 2.0**-30

#: Rows evaluated together.
NUMBERS = 2_000_000


class Constructed:
    """Bounds the error of any point for one float64 form on the CPU whose W has its proof built in."""

    def __init__(self, form: Form, W: WithProof) -> None:
        self.form, self.W = form, W
        n, p, q = form.hidden_size, form.in_size, form.out_size
        self.unit = rounding.gamma(n + p + q + _products(W) + 64)
        self.multipliers = W.multipliers
        self.lam = float(self.multipliers.amax())
        self.psi = 1 / float(self.multipliers.amin()) * INFLATE
        self.X_size = _absolute(W) * INFLATE
        self.U_size = form.U.norm_bound() * INFLATE

    def error(self, x: Tensor, z: Tensor) -> Tensor:
        """(batch,) float64: a bound on ‖z - z*(x)‖₂ for raw inputs x and any z, both float64 on the CPU."""
        size = max(1, NUMBERS // self.form.hidden_size)
        parts = [self._error(*rows) for rows in zip(x.split(size), z.split(size), strict=True)]
        return torch.cat(parts) if parts else z.new_zeros(0)

    def _error(self, x: Tensor, z: Tensor) -> Tensor:
        form, W = self.form, self.W
        xi = form.standardise(x)
        bias = form.bias(xi)
        s = z + bias - W.split(z) / self.multipliers
        image = form.activation.value(s)
        r = image - z
        size = z.norm(dim=1)
        standardised = form.standardisation
        magnitude = xi.norm(dim=1)
        if standardised is not None:  # ξ itself is rounded: by three units of (|x| + |mean|) / std
            magnitude = ((x.abs() + standardised.mean.abs()) / standardised.std).norm(dim=1)
        doubt = self.unit * (size * (2 + self.psi * self.X_size) + self.U_size * magnitude + form.b.norm())
        ulp = torch.finfo(torch.float64).eps
        doubt = doubt + (form.activation.rounding + 1) * ulp * image.norm(dim=1) + ulp * r.norm(dim=1) + 1e-290
        moved = self.multipliers * r + W.split_adjoint(r)
        scale = self.lam + self.X_size
        bound = moved.norm(dim=1) + scale * (self.unit * r.norm(dim=1) + doubt)
        bound = bound / W.epsilon * INFLATE
        return torch.where(bound.isfinite(), bound, torch.inf)


def _products(W: WithProof) -> int:
    """At least as many products as stand in any sum of which X is made, its kernels' own included."""
    if isinstance(W, Tiers):
        return max(map(_products, W.parts)) + max(4 * t[0].numel() for t in W.tensors)
    assert isinstance(W, Recurrence)
    return W.shape[0] * (2 * W.radius + 1) ** 2 + W.A[:, 0].numel()


def _absolute(W: WithProof) -> float:
    """A bound on the norm of X with all numbers in its definition replaced by their absolute values."""
    if isinstance(W, Tiers):
        # The norm bound of a convolution is that of its absolute values.
        return max(map(_absolute, W.parts)) + max(link.norm_bound() for link in W.links)
    assert isinstance(W, Recurrence)
    A, B = W.A.abs(), W.B.abs()

    def norm(kernel: Tensor) -> float:
        return Conv2d(kernel, W.shape, W.padding.of(kernel.shape[-1] // 2)).norm_bound()

    total = W.epsilon + norm(gram_kernel(A)) + 2 * norm(B)
    if W.ends is not None:
        twice = 2 * W.ends.gamma
        total += W.ends.head.norm_bound() ** 2 / twice
        # The term of the input may carry Λ on both sides; for a weighted layer it does not, which only helps.
        total += norm(co_gram_kernel(W.ends.input.kernel.abs())) / twice * max(float(W.lam.amax()), 1.0) ** 2
    return total
