"""Layers whose slope is at most 1 for any parameters (mathematics 4), each an equation as all networks here are."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from equilip import form as forms
from equilip.activations import Activation, ReLU
from equilip.form import Form
from equilip.nn.guarantee import Guarantee
from equilip.nn.module import check_sizes, uniform
from equilip.norms import norm_bound

#: Gram steps for bounds that are shown and not trained through: as good as exact.
PROVED_STEPS = 40


class LipschitzLayer(torch.nn.Module, ABC):
    """A layer (..., in_features) -> (..., out_features) that says which form it is, and what that form promises.

    It belongs in a ``torch.nn.Sequential`` as torch's own layers do, and :func:`equilip.nn.sequential_form` makes the
    whole one form. Its matrices are made from its parameters at every call and never kept, so none is ever stale.
    """

    in_features: int
    out_features: int

    @abstractmethod
    def form(self) -> Form:
        """The form of the current parameters, differentiable in them."""

    @abstractmethod
    def guarantee(self) -> Guarantee:
        """The bound and the multipliers that prove it in exact arithmetic."""

    @abstractmethod
    def proved_bound(self) -> float:
        """A bound on the slope that is proved for the numbers that :meth:`form` holds, rounding included."""


class AffineLayer(LipschitzLayer):
    """y = A x + b with ‖A‖₂ <= 1, A (out, in) made from the parameters; b (out,) where there is a bias.

    Parameters: weight (out, in), bias (out,) or None. Raises InputError for sizes that are not positive.
    """

    bias: torch.nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        check_sizes(in_features=in_features, out_features=out_features)
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

        def draw(*shape: int) -> torch.nn.Parameter:
            return uniform(*shape, fan_in=in_features, device=device, dtype=dtype, generator=generator)

        self.weight = draw(out_features, in_features)
        self.register_parameter("bias", draw(out_features) if bias else None)

    @abstractmethod
    def matrix(self) -> Tensor:
        """A (out, in), differentiable in the parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x, self.matrix(), self.bias)

    def form(self) -> Form:
        A = self.matrix()
        return forms.affine(A, A.new_zeros(self.out_features) if self.bias is None else self.bias)

    def guarantee(self) -> Guarantee:
        return Guarantee(1.0, self.weight.detach().new_zeros(0))

    def proved_bound(self) -> float:
        with torch.no_grad():
            return float(norm_bound(self.matrix().double(), PROVED_STEPS))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class PotentialLayer(LipschitzLayer):
    """y = x - 2 Wᵀ T⁻¹ σ(W x + b), a step down the gradient of a convex potential, with diag(T) - W Wᵀ >= 0.

    It is the form U = W, C = -2 WᵀT⁻¹, D = 1; with Λ = 2 T⁻¹ its LMI (mathematics 1.2) at γ = 1 is that inequality.
    What T is makes the layer. Parameters: weight (hidden, features), bias (hidden,).

    features: inputs and outputs. hidden_features: neurons, as many as features if left out. activation: any with
    slopes in [0, 1]. Raises InputError for sizes that are not positive.
    """

    def __init__(
        self,
        features: int,
        hidden_features: int | None = None,
        *,
        activation: Activation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        hidden = features if hidden_features is None else hidden_features
        check_sizes(features=features, hidden_features=hidden)
        super().__init__()
        self.in_features = self.out_features = features
        self.hidden_features = hidden
        self.activation = ReLU() if activation is None else activation

        def draw(*shape: int) -> torch.nn.Parameter:
            return uniform(*shape, fan_in=features, device=device, dtype=dtype, generator=generator)

        self.weight = draw(hidden, features)
        self.bias = draw(hidden)

    @abstractmethod
    def metric(self) -> Tensor:
        """T (hidden,), positive, differentiable in the parameters."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.activation.value(torch.nn.functional.linear(x, self.weight, self.bias))
        return x - z @ (2 * self.weight / self.metric()[:, None])

    def form(self) -> Form:
        T, W = self.metric(), self.weight
        eye = torch.eye(self.in_features, dtype=W.dtype, device=W.device)
        return forms.dense(
            W.new_zeros(len(W), len(W)), W, self.bias, -(2 * W / T[:, None]).mT, W.new_zeros(self.out_features),
            D=eye, activation=self.activation, lam=2 / T,
        )  # fmt: skip

    def guarantee(self) -> Guarantee:
        return Guarantee(1.0, 2 / self.metric().detach())

    def proved_bound(self) -> float:
        with torch.no_grad():
            W, T = self.weight.double(), self.metric().double()
            balanced = float((W * (2 / T).sqrt()[:, None]).norm())
            return step_bound(balanced, float(W.norm()), self.weight.dtype, W.numel())

    def extra_repr(self) -> str:
        return f"{self.in_features}, hidden_features={self.hidden_features}, activation={self.activation.kind}"


def step_bound(balanced: float, weight: float, dtype: torch.dtype, numbers: int) -> float:
    """1 plus what the rounding of 2 T⁻¹W to ``dtype`` adds to the slope of x - (2 T⁻¹W)ᵀσ(W x + b), given T >= W Wᵀ.

    ``balanced`` bounds the norm of |√(2/T) W|, which is on both sides of σ where its neurons are scaled so; ``weight``
    that of |W|, which meets what numbers near zero lose beside. Both up to 1e-9; there are as many ``numbers``.
    """
    info = torch.finfo(dtype)
    return 1.0 + (2 * info.eps * balanced**2 + numbers * info.tiny * weight) * (1 + 1e-6)
