"""What holds of a network's slope by construction, in raw units and differentiable: what losses train against.

These are promises in exact arithmetic, good for training. What holds for the stored numbers is proved by
:mod:`equilip.certify`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip import activations, nn
from equilip.errors import InputError
from equilip.operators import Zero


class Slopes(ABC):
    """Bounds on the slopes of a network's outputs and of their differences, for its present parameters."""

    model: torch.nn.Module

    @property
    def per_raw(self) -> float:
        """How much a raw perturbation can grow by the standardisation, 1 / min(std)."""
        own = getattr(self.model, "input", None)
        return 1 / float(own.std.min()) if isinstance(own, nn.Standardise) else 1.0

    @abstractmethod
    def whole(self) -> Tensor:
        """(): the bound on the slope of all outputs together, in raw units."""

    @abstractmethod
    def pairs(self) -> Tensor:
        """(q, q): bounds on the slopes of the differences of two outputs, in raw units; 0 on the diagonal."""


@dataclass(frozen=True, eq=False)
class BoundedSlopes(Slopes):
    """The slopes of a network whose outputs together have slope at most ``model.gamma``."""

    model: nn.LBEN

    def whole(self) -> Tensor:
        model = self.model
        gamma = model.psi.new_tensor(model.gamma) if model.log_gamma is None else model.log_gamma.exp()
        return gamma * self.per_raw

    def pairs(self) -> Tensor:
        """As promised, by one factorisation.

        For the rows c = C_i - C_j and d = D_i - D_j the bound is ‖X‖ ‖y‖ + ‖Xᵀy + d‖ (mathematics 9.4), where
        P = R Rᵀ, X = R⁻¹ΛU and y = R⁻¹cᵀ, and never above √2 times the whole bound. It costs about as much as
        the form itself, and an eigenvalue problem of size n.
        """
        model = self.model
        form = model.form()
        assert form.lam is not None
        W, C, lam = form.W.dense(), form.C.dense(), form.lam
        LW = lam[:, None] * W
        cap = math.sqrt(2) * self.whole() * (1 - torch.eye(len(C), dtype=C.dtype, device=C.device))
        R, failed = torch.linalg.cholesky_ex(torch.diag(2 * lam) - LW - LW.mT)
        if failed:
            # So little slack that rounding ate it: the promise of the whole remains.
            return cap
        X = torch.linalg.solve_triangular(R, lam[:, None] * form.U.dense(), upper=False)
        y = torch.linalg.solve_triangular(R, C.mT, upper=False)
        norm = torch.linalg.eigvalsh(X @ X.mT)[-1].sqrt()
        through = X.mT @ y
        if not isinstance(form.D, Zero):
            through = through + form.D.dense().mT
        found = norm * _distances(y.mT @ y) + _distances(through.mT @ through)
        return torch.minimum(found * self.per_raw, cap)


@dataclass(frozen=True, eq=False)
class LayeredSlopes(Slopes):
    """The slopes of an ordinary network: the product of its layers' norms, its activations having slopes in [0, 1].

    Lipschitz-margin training (Tsuzuki and others, 2018) trains against these. Proved bounds are much smaller.
    """

    model: nn.FeedForward

    def whole(self) -> Tensor:
        return self._product(list(self.model.weights))

    def pairs(self) -> Tensor:
        *before, last = self.model.weights
        eye = torch.eye(len(last), dtype=last.dtype, device=last.device)
        return self._product(before) * _distances(last @ last.mT) * (1 - eye)

    def _product(self, weights: list[Tensor]) -> Tensor:
        norms = [_norm(weight) for weight in weights]
        return self.per_raw * (torch.stack(norms).prod() if norms else self.model.biases[0].new_ones(()))


@dataclass(frozen=True, eq=False)
class SequentialSlopes(Slopes):
    """The same for a ``torch.nn.Sequential`` of Linear, activations, Residual, Flatten, Dropout (as in eval),
    Standardise (first) and layers with a guarantee, the last of which is Linear or has a ``matrix``.

    Raises InputError for other modules, and ActivationError for activations with slopes outside [0, 1].
    """

    model: torch.nn.Sequential

    def __post_init__(self) -> None:
        with torch.no_grad():
            nn.sequential_form(self.model)  # says what is wrong where this is no such network
        self._split()

    @property
    def per_raw(self) -> float:
        first = next(iter(self.model), None)
        return 1 / float(first.std.min()) if isinstance(first, nn.Standardise) else 1.0

    def whole(self) -> Tensor:
        before, last = self._split()
        return self._bound(before) * _norm(last)

    def pairs(self) -> Tensor:
        before, last = self._split()
        eye = torch.eye(len(last), dtype=last.dtype, device=last.device)
        return self._bound(before) * _distances(last @ last.mT) * (1 - eye)

    def _split(self) -> tuple[list[torch.nn.Module], Tensor]:
        *before, last = self.model
        if isinstance(last, torch.nn.Linear):
            return before, last.weight
        if isinstance(last, nn.AffineLayer):
            return before, last.matrix()
        raise InputError(f"the last layer must be linear, as torch.nn.Linear is, not {type(last).__name__}")

    def _bound(self, modules: Iterable[torch.nn.Module]) -> float | Tensor:
        """The product of the slopes of some modules, the standardisation's among them."""
        found: float | Tensor = self.per_raw
        for place, module in enumerate(modules):
            if not (place == 0 and isinstance(module, nn.Standardise)):
                found = found * _layer_bound(module)
        return found


@dataclass(frozen=True, eq=False)
class StackedSlopes(Slopes):
    """The slopes of a stack of 1-Lipschitz layers: gamma, and for pairs the distances of the last layer's rows."""

    model: nn.Stack

    def whole(self) -> Tensor:
        gamma = self.model.scale()
        if isinstance(gamma, float):
            gamma = next(self.model.parameters()).new_tensor(gamma)
        return gamma * self.per_raw

    def pairs(self) -> Tensor:
        last = self.model.layers[-1]
        q, whole = self.model.out_features, self.whole()
        apart = 1 - torch.eye(q, dtype=whole.dtype, device=whole.device)
        if not isinstance(last, nn.AffineLayer):
            return math.sqrt(2) * whole * apart
        A = last.matrix()
        return (whole * _distances(A @ A.mT)).clamp(max=math.sqrt(2) * whole) * apart


@dataclass(frozen=True, eq=False)
class ConstructedSlopes(Slopes):
    """The slopes of a convolutional network: gamma, and for pairs √2 times as much."""

    model: nn.LBENConv

    def whole(self) -> Tensor:
        assert self.model.gamma is not None
        return self.model.c.new_tensor(self.model.gamma * self.per_raw)

    def pairs(self) -> Tensor:
        whole = self.whole()
        return math.sqrt(2) * whole * (1 - torch.eye(self.model.out_features, dtype=whole.dtype, device=whole.device))


def _norm(weight: Tensor) -> Tensor:
    """‖weight‖, (), from the smaller of its two products with itself: much faster than its singular values."""
    gram = weight @ weight.mT if weight.shape[0] <= weight.shape[1] else weight.mT @ weight
    return torch.linalg.eigvalsh(gram)[-1].clamp(min=torch.finfo(weight.dtype).tiny ** 0.5).sqrt()


def _layer_bound(module: torch.nn.Module) -> float | Tensor:
    """A bound on the slope of one module of a sequence."""
    if isinstance(module, torch.nn.Flatten | torch.nn.Dropout):
        return 1.0
    if isinstance(module, torch.nn.Linear):
        return _norm(module.weight)
    if isinstance(module, nn.LipschitzLayer):
        bound = module.guarantee().bound
        assert bound is not None
        return bound
    if isinstance(module, torch.nn.Sequential):
        product = math.prod((_layer_bound(own) for own in module), start=1.0)
        return 1 + product if isinstance(module, nn.Residual) else product
    activations.from_module(module)
    return 1.0


def _distances(gram: Tensor) -> Tensor:
    """‖v_i - v_j‖ (q, q) of vectors whose products are ``gram``; never exactly 0, where roots have no slope."""
    square = gram.diagonal()[:, None] + gram.diagonal() - gram - gram.mT
    return square.clamp(min=torch.finfo(gram.dtype).tiny ** 0.5).sqrt()


def slopes(model: torch.nn.Module) -> Slopes | None:
    """The slopes of a model that has a bound by construction, or whose layers give one; None for every other.

    Raises what :class:`SequentialSlopes` raises for a ``torch.nn.Sequential`` that it cannot bound.
    """
    if isinstance(model, nn.FeedForward):
        return LayeredSlopes(model)
    if isinstance(model, nn.Stack):
        return StackedSlopes(model)
    if isinstance(model, torch.nn.Sequential):
        return SequentialSlopes(model)
    if isinstance(model, nn.LBENConv):
        return None if model.gamma is None else ConstructedSlopes(model)
    return BoundedSlopes(model) if isinstance(model, nn.LBEN) and model.gamma is not None else None
