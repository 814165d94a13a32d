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

#: More roundings than a number sees beside those of the sums that are counted.
SINGLE = 64

#: Rows evaluated together.
NUMBERS = 2_000_000


class Constructed:
    """Bounds the error of any point for one float64 form on the CPU whose W has its proof built in."""

    def __init__(self, form: Form, W: WithProof) -> None:
        self.form, self.W = form, W
        self.multipliers = W.multipliers
        self.lam = float(self.multipliers.amax())
        self.psi = 1 / float(self.multipliers.amin()) * INFLATE
        size, doubt = _absolute(W)
        self.X_size, self.X_doubt = size * INFLATE, doubt * INFLATE
        self.U_size = form.U.norm_bound() * INFLATE
        self.U_doubt = rounding.gamma(4 * form.in_size + SINGLE) * self.U_size
        self.unit = rounding.gamma(SINGLE)

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
        doubt = doubt + self.psi * self.X_doubt * size + self.U_doubt * magnitude
        ulp = torch.finfo(torch.float64).eps
        doubt = doubt + (form.activation.rounding + 1) * ulp * image.norm(dim=1) + ulp * r.norm(dim=1) + 1e-290
        moved = self.multipliers * r + W.split_adjoint(r)
        scale = self.lam + self.X_size
        bound = moved.norm(dim=1) + (scale * self.unit + self.X_doubt) * r.norm(dim=1) + scale * doubt
        bound = bound / W.epsilon * INFLATE
        return torch.where(bound.isfinite(), bound, torch.inf)


def _absolute(W: WithProof) -> tuple[float, float]:
    """Two factors of ‖z‖: the norm of X z with all numbers absolute, and what rounding can change X z or Xᵀ z by.

    A sum of k products is off by at most γ_k times the same sum of absolute values; the kernels are such sums too.
    """
    if isinstance(W, Tiers):
        # The norm bound of a convolution is that of its absolute values.
        parts = [_absolute(part) for part in W.parts]
        link = max(link.norm_bound() for link in W.links)
        products = max(4 * t[0].numel() for t in W.tensors)
        return (
            max(size for size, _ in parts) + link,
            max(doubt for _, doubt in parts) + rounding.gamma(products + SINGLE) * link,
        )
    assert isinstance(W, Recurrence)
    A, B = W.A.abs(), W.B.abs()

    def norm(kernel: Tensor) -> float:
        return Conv2d(kernel, W.shape, W.padding.of(kernel.shape[-1] // 2)).norm_bound()

    size = W.epsilon + norm(gram_kernel(A)) + 2 * norm(B)
    products = W.shape[0] * (2 * W.radius + 1) ** 2 + A[:, 0].numel()
    head = doubt = 0.0
    if W.ends is not None:
        twice = 2 * W.ends.gamma
        kernel = W.ends.input.kernel.abs()
        # The term of the input may carry Λ on both sides; for a weighted layer it does not, which only helps.
        size += norm(co_gram_kernel(kernel)) / twice * max(float(W.lam.amax()), 1.0) ** 2
        products += kernel[0].numel()
        # Means over pixels, a matrix, its adjoint, and the means' own.
        head = W.ends.head.norm_bound() ** 2 / twice
        sums = sum(t.shape[-1] + t.shape[0] for t in W.ends.head.tensors if t.dim() == 2)
        doubt = rounding.gamma(sums + W.shape[1] * W.shape[2] + SINGLE) * head
    return size + head, rounding.gamma(products + SINGLE) * size + doubt
