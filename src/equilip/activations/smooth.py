"""Activations with curves, whose proximal maps are solved for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.activations.activation import Activation, Step
from equilip.errors import ActivationError


class SmoothActivation(Activation):
    """An activation whose proximal map has no closed form: it is solved for, in a proven bracket."""

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        if isinstance(alpha, float) and alpha == 1.0:
            return self.value(v)
        alpha_ = torch.as_tensor(alpha, dtype=v.dtype, device=v.device)
        with torch.no_grad():
            t = self._solve(v.detach(), alpha_.detach())
        forward_mode = torch.autograd.forward_ad._current_level >= 0
        if forward_mode or (torch.is_grad_enabled() and (v.requires_grad or alpha_.requires_grad)):
            # Two tracked Newton steps from the exact root carry the first three derivatives of t(v, α).
            t = self._newton(self._newton(t, v, alpha_), v, alpha_)
        return self.value(t)

    def _newton(self, t: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
        excess = (1 - alpha) * self.value(t) + alpha * t - v
        return t - excess / ((1 - alpha) * self.slope(t) + alpha)

    def _solve(self, v: Tensor, alpha: Tensor) -> Tensor:
        """The root t of h(t) = (1 - α) σ(t) + α t - v.

        h' lies in [min(1, α), max(1, α)] because σ' lies in [0, 1], so from any t the root is between
        t - h/min(1, α) and t - h/max(1, α): a bracket from one evaluation. Newton steps that leave the
        bracket are replaced by its middle.
        """
        slow, fast = alpha.clamp(max=1.0), alpha.clamp(min=1.0)
        t = v.clone()
        lower = torch.full_like(v, -math.inf)
        upper = torch.full_like(v, math.inf)
        resolution = 32 * torch.finfo(v.dtype).eps
        for _ in range(200):
            curved, straight = (1 - alpha) * self.value(t), alpha * t
            excess, slope = curved + straight - v, (1 - alpha) * self.slope(t) + alpha
            near, far = t - excess / fast, t - excess / slow
            lower = torch.maximum(lower, torch.minimum(near, far))
            upper = torch.minimum(upper, torch.maximum(near, far))
            proposal = t - excess / slope
            inside = (proposal >= lower) & (proposal <= upper)
            proposal = torch.where(inside, proposal, 0.5 * (lower + upper))
            # What is left of h is its own rounding, for α far from 1 far more than the last place of t; a step
            # as small as this one ends, like every step of Newton, a square closer than it began.
            noise = resolution * (curved.abs() + straight.abs() + v.abs()) + torch.finfo(v.dtype).tiny
            settled = (proposal - t).abs() * slope <= noise
            t = proposal
            if bool((settled | ~t.isfinite()).all()):
                break
        return t


@dataclass(frozen=True)
class Tanh(SmoothActivation):
    """tanh(s)."""

    kind = "tanh"
    interval = (0.0, 1.0)

    def value(self, s: Tensor) -> Tensor:
        return s.tanh()

    def slope(self, s: Tensor) -> Tensor:
        # 1 - tanh² cancels in the tails; 1/cosh² does not, and does not overflow once |s| is capped.
        return (
            s.clamp(-300.0, 300.0).cosh().square().reciprocal()
            if s.dtype == torch.float64
            else (s.clamp(-40.0, 40.0).cosh().square().reciprocal())
        )


@dataclass(frozen=True)
class Sigmoid(SmoothActivation):
    """1 / (1 + exp(-s)), whose slopes reach only 1/4."""

    kind = "sigmoid"
    interval = (0.0, 0.25)

    def value(self, s: Tensor) -> Tensor:
        return s.sigmoid()

    def slope(self, s: Tensor) -> Tensor:
        return s.sigmoid() * (-s).sigmoid()


@dataclass(frozen=True)
class Softplus(SmoothActivation):
    """log(1 + exp(s))."""

    kind = "softplus"
    interval = (0.0, 1.0)

    def value(self, s: Tensor) -> Tensor:
        return torch.logaddexp(s, torch.zeros_like(s))

    def slope(self, s: Tensor) -> Tensor:
        return s.sigmoid()


@dataclass(frozen=True)
class ELU(SmoothActivation):
    """s for s > 0, a (exp(s) - 1) below, with a in (0, 1]."""

    alpha: float = 1.0
    kind = "elu"
    interval = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha <= 1.0:
            raise ActivationError(f"elu with alpha {self.alpha} has slopes outside [0, 1]; choose 0 < alpha <= 1")

    def value(self, s: Tensor) -> Tensor:
        return torch.where(s > 0, s, self.alpha * s.clamp(max=0.0).expm1())

    def slope(self, s: Tensor) -> Tensor:
        return torch.where(s > 0, torch.ones_like(s), self.alpha * s.clamp(max=0.0).exp())

    def parameters(self) -> dict[str, float]:
        return {"alpha": self.alpha}
