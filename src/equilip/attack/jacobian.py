"""The Jacobian of a form where its neurons have given slopes: exact at a point of a piecewise linear network.

With slopes j, z changes by j (W dz + U dξ), so dy = M U dξ + D dξ with M = C j (I - W j)⁻¹. Norms need the q by q
matrix of products only, and for it U and D enter through a few products formed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from equilip.attack.target import FormTarget
from equilip.form import Form
from equilip.solve.newton import LARGEST_BATCHED


@dataclass(frozen=True, eq=False)
class Linearised:
    """W (n, n), U (n, p), C (q, n) and D (q, p) in float64, U and D for one unit of the input."""

    form: Form
    W: Tensor
    U: Tensor
    C: Tensor
    D: Tensor

    @classmethod
    def of(cls, form: Form, *, raw: bool) -> Linearised:
        """For standardised inputs, or for raw ones. ``form`` is in float64 on the CPU."""
        W, U, C, D = (getattr(form, name).dense() for name in ("W", "U", "C", "D"))
        if raw and form.standardisation is not None:
            U, D = U / form.standardisation.std, D / form.standardisation.std
        return cls(form, W, U, C, D)

    @cached_property
    def input_gram(self) -> Tensor:
        """U Uᵀ, (n, n)."""
        return self.U @ self.U.mT

    @cached_property
    def cross_gram(self) -> Tensor:
        """D Uᵀ, (q, n)."""
        return self.D @ self.U.mT

    @cached_property
    def through_gram(self) -> Tensor:
        """D Dᵀ, (q, q)."""
        return self.D @ self.D.mT

    def inverse(self, slopes: Tensor) -> Tensor:
        """(I - W j)⁻¹ for slopes j (batch, n): (batch, n, n)."""
        n = self.W.shape[0]
        matrices = torch.eye(n, dtype=self.W.dtype) - self.W * slopes[:, None, :]
        if n > LARGEST_BATCHED:
            return torch.stack([torch.linalg.inv(matrix) for matrix in matrices])
        return torch.linalg.inv(matrices)

    def jacobian(self, slopes: Tensor) -> Tensor:
        """J (batch, q, p) for slopes (batch, n)."""
        matrices = torch.eye(self.W.shape[0], dtype=self.W.dtype) - slopes[:, :, None] * self.W
        if self.W.shape[0] > LARGEST_BATCHED:
            M = torch.stack([torch.linalg.solve(m, self.C, left=False) for m in matrices])
        else:
            M = torch.linalg.solve(matrices, self.C.expand(len(slopes), -1, -1), left=False)
        return (M * slopes[:, None, :]) @ self.U + self.D

    def steepest(self, slopes: Tensor) -> tuple[Tensor, Tensor]:
        """The largest singular value of J (batch,) and the unit input direction (batch, p) that attains it."""
        norms, directions = [], []
        # In parts, for the Jacobians of many points are large.
        for part in slopes.split(64):
            J = self.jacobian(part)
            top = torch.linalg.eigh(J @ J.mT).eigenvectors[:, :, -1]
            v = (J.mT @ top[:, :, None])[:, :, 0]
            norm = torch.linalg.vector_norm(v, dim=1)
            norms.append(norm)
            directions.append(v / norm.clamp(min=torch.finfo(v.dtype).tiny)[:, None])
        return torch.cat(norms), torch.cat(directions)


def slopes_at(target: FormTarget, x: Tensor) -> Tensor:
    """The neurons' slopes (batch, n) at raw inputs (batch, p)."""
    form = target.exact
    return form.activation.slope(form.W.plus(target.judge(x).z, form.bias(form.standardise(x))))
