"""Scalar nonlinearities: value, slope, slope interval and proximal map.

Every guarantee of this library asks one thing of an activation: that it acts elementwise and that every
secant slope lies in [0, 1] (mathematics 0). Such a σ is the proximal map of a convex function f, and the
splitting solvers need the proximal map of αf for other steps α (mathematics 1.7):

    prox_α(v) = σ(t)  where  (1 - α) σ(t) + α t = v.

Only for projections (relu, hardtanh) is that σ itself again; for tanh and its kin using σ in its place
converges to a wrong point. Activations whose slopes leave [0, 1] cannot be built here: :func:`refuse` names
their slope interval.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equilip.errors import ActivationError, FormatError, InputError

Step = float | Tensor

#: Slope intervals of the popular activations that no guarantee covers (mathematics 0).
REFUSED: dict[str, tuple[float, float]] = {
    "gelu": (-0.128905, 1.128905),
    "silu": (-0.099840, 1.099840),
    "mish": (-0.11253, 1.08850),
    "selu": (0.0, 1.758099),
    "hardswish": (-0.5, 1.5),
}


class Activation(ABC):
    """A nondecreasing function with slopes in [0, 1], applied to every neuron."""

    @abstractmethod
    def value(self, s: Tensor) -> Tensor:
        """σ(s), elementwise, same shape."""

    @abstractmethod
    def slope(self, s: Tensor) -> Tensor:
        """One element of σ's generalised derivative at s (at a kink: any value in between), same shape."""

    @abstractmethod
    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        """σ(t) for the t with (1 - α) σ(t) + α t = v; α > 0, a number or a tensor that broadcasts."""

    def reflection(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        """The map v -> 2 prox_α(v) - v, which Peaceman-Rachford applies at every step, made ready for one α."""
        return lambda v: 2 * self.prox(v, alpha) - v

    def reflection_(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        """The same map, free to overwrite its argument (and then not to be recorded by autograd)."""
        return self.reflection(alpha)

    @property
    @abstractmethod
    def interval(self) -> tuple[float, float]:
        """The smallest interval that holds every secant slope."""

    @property
    def binary(self) -> bool:
        """Whether every slope is 0 or 1 (the function is a projection or the identity)."""
        return False

    @property
    def rounding(self) -> float:
        """Bound on the relative rounding error of ``value``, in units of the last place (0: exact)."""
        return 4.0

    @property
    @abstractmethod
    def kind(self) -> str:
        """The name in files and on the command line."""

    def parameters(self) -> dict[str, float]:
        """The numbers that define it beside its kind."""
        return {}

    def to(self, dtype: torch.dtype) -> Activation:
        """The same function for numbers of another format."""
        return self


@dataclass(frozen=True)
class ReLU(Activation):
    """max(0, s)."""

    kind = "relu"
    interval = (0.0, 1.0)
    binary = True
    rounding = 0.0

    def value(self, s: Tensor) -> Tensor:
        return s.relu()

    def slope(self, s: Tensor) -> Tensor:
        # Several times faster than a comparison and a cast.
        return s.sign().relu()

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        return v.relu()

    def reflection(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        return torch.abs

    def reflection_(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        return Tensor.abs_


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """s for s > 0, a s below, with the slope a in [0, 1]."""

    negative_slope: float = 0.01
    kind = "leaky_relu"
    rounding = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.negative_slope <= 1.0:
            raise ActivationError(
                f"leaky relu with negative slope {self.negative_slope} is not monotone with slopes in [0, 1]; "
                "choose a negative slope between 0 and 1"
            )

    @property
    def interval(self) -> tuple[float, float]:
        return (self.negative_slope, 1.0)

    def value(self, s: Tensor) -> Tensor:
        return torch.where(s > 0, s, self.negative_slope * s)

    def slope(self, s: Tensor) -> Tensor:
        one = torch.ones((), dtype=s.dtype, device=s.device)
        return torch.where(s > 0, one, self.negative_slope * one)

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        a = self.negative_slope
        return torch.where(v > 0, v, v * (a / (a + alpha * (1 - a)))) if a < 1 else v

    def parameters(self) -> dict[str, float]:
        return {"negative_slope": self.negative_slope}


@dataclass(frozen=True)
class HardTanh(Activation):
    """s clamped to [lower, upper]: the projection onto that interval."""

    lower: float = -1.0
    upper: float = 1.0
    kind = "hardtanh"
    interval = (0.0, 1.0)
    binary = True
    rounding = 0.0

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ActivationError(f"hardtanh needs lower < upper, got [{self.lower}, {self.upper}]")

    def value(self, s: Tensor) -> Tensor:
        return s.clamp(self.lower, self.upper)

    def slope(self, s: Tensor) -> Tensor:
        return ((s > self.lower) & (s < self.upper)).to(s.dtype)

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        return self.value(v)

    def parameters(self) -> dict[str, float]:
        return {"lower": self.lower, "upper": self.upper}


@dataclass(frozen=True)
class Identity(Activation):
    """s itself: a linear network."""

    kind = "identity"
    interval = (1.0, 1.0)
    binary = True
    rounding = 0.0

    def value(self, s: Tensor) -> Tensor:
        return s

    def slope(self, s: Tensor) -> Tensor:
        return torch.ones_like(s)

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        return v


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


@dataclass(frozen=True, eq=False)
class Slopes(Activation):
    """σ_i(s) = j_i s with given slopes j in [0, 1], one for every sample and neuron; ``binary``: all 0 or 1.

    The adjoint of an equilibrium is an equilibrium with this activation (mathematics 1.8).
    """

    j: Tensor
    binary: bool = False
    kind = "slopes"
    interval = (0.0, 1.0)
    rounding = 1.0

    def value(self, s: Tensor) -> Tensor:
        return self.j * s

    def slope(self, s: Tensor) -> Tensor:
        return self.j.expand_as(s)

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        # j/(j + α(1 - j)): free of the division by j that gives NaN at inactive neurons.
        return v * self._factor(alpha)

    def _factor(self, alpha: Step) -> Tensor:
        return self.j if self.binary else self.j / (self.j + alpha * (1 - self.j))

    def reflection(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        return (2 * self._factor(alpha) - 1).mul

    def reflection_(self, alpha: Step) -> Callable[[Tensor], Tensor]:
        factor = 2 * self._factor(alpha) - 1
        return lambda v: v.mul_(factor)

    def to(self, dtype: torch.dtype) -> Slopes:
        return Slopes(self.j.to(dtype), self.binary)

    def rows(self, rows: Tensor | slice) -> Slopes:
        """The same for some of the samples."""
        return Slopes(self.j[rows], self.binary)


@dataclass(frozen=True)
class Blockwise(Activation):
    """Different activations for consecutive groups of neurons (what composing two networks gives)."""

    blocks: tuple[tuple[Activation, int], ...]
    kind = "blockwise"

    def _map(self, method: str, s: Tensor, *rest: Step) -> Tensor:
        parts = s.split([size for _, size in self.blocks], dim=-1)
        done = []
        start = 0
        for (activation, size), part in zip(self.blocks, parts, strict=True):
            own = [r[..., start : start + size] if isinstance(r, Tensor) and r.dim() > 0 else r for r in rest]
            done.append(getattr(activation, method)(part, *own))
            start += size
        return torch.cat(done, dim=-1)

    def value(self, s: Tensor) -> Tensor:
        return self._map("value", s)

    def slope(self, s: Tensor) -> Tensor:
        return self._map("slope", s)

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        return self._map("prox", v, alpha)

    @property
    def interval(self) -> tuple[float, float]:
        lower, upper = zip(*(activation.interval for activation, _ in self.blocks), strict=True)
        return (min(lower), max(upper))

    @property
    def binary(self) -> bool:
        return all(activation.binary for activation, _ in self.blocks)

    @property
    def rounding(self) -> float:
        return max(activation.rounding for activation, _ in self.blocks)


_KINDS: dict[str, type[Activation]] = {
    kind.kind: kind for kind in (ReLU, LeakyReLU, Tanh, ELU, Softplus, HardTanh, Sigmoid, Identity)
}


def refuse(name: str) -> ActivationError:
    """The error for an activation that this library cannot cover, naming its slope interval where known."""
    known = REFUSED.get(name.lower())
    if known is not None:
        return ActivationError(
            f"{name} has slopes in [{known[0]:g}, {known[1]:g}], outside [0, 1]: no guarantee here covers it; "
            f"use one of {', '.join(_KINDS)}"
        )
    return ActivationError(f"unknown activation {name!r}; use one of {', '.join(_KINDS)}")


def activation(name: str, **parameters: float) -> Activation:
    """The activation of that name ("relu", "tanh", ...), with its parameters.

    Raises ActivationError for names that are unknown or whose slopes leave [0, 1] (gelu, silu, ...).
    """
    kind = _KINDS.get(name.lower())
    if kind is None:
        raise refuse(name)
    try:
        return kind(**parameters)
    except TypeError:
        raise InputError(f"{name} takes no parameters {sorted(parameters)}") from None


def from_module(module: torch.nn.Module) -> Activation:
    """The activation that a torch module such as ``torch.nn.ReLU()`` stands for; ActivationError if none."""
    match module:
        case torch.nn.ReLU():
            return ReLU()
        case torch.nn.LeakyReLU():
            return LeakyReLU(float(module.negative_slope))
        case torch.nn.ReLU6():
            return HardTanh(0.0, 6.0)
        case torch.nn.Hardtanh():
            return HardTanh(float(module.min_val), float(module.max_val))
        case torch.nn.ELU():
            return ELU(float(module.alpha))
        case torch.nn.Tanh():
            return Tanh()
        case torch.nn.Sigmoid():
            return Sigmoid()
        case torch.nn.Softplus() if module.beta == 1:
            return Softplus()
        case torch.nn.Identity():
            return Identity()
    raise refuse(type(module).__name__)


def blocks(sigma: Activation, size: int) -> tuple[tuple[Activation, int], ...]:
    """σ on ``size`` neurons as consecutive (activation, number of neurons) groups."""
    if isinstance(sigma, Blockwise):
        if sum(count for _, count in sigma.blocks) != size:
            raise InputError(f"the activation's blocks cover {sum(c for _, c in sigma.blocks)} neurons, not {size}")
        return sigma.blocks
    return ((sigma, size),)


def join(parts: list[tuple[Activation, int]]) -> Activation:
    """One activation out of consecutive groups; equal neighbours are merged."""
    merged: list[tuple[Activation, int]] = []
    for sigma, size in parts:
        for own, count in blocks(sigma, size):
            if merged and merged[-1][0] == own:
                merged[-1] = (own, merged[-1][1] + count)
            elif count:
                merged.append((own, count))
    if not merged:  # no neurons: any activation will do
        return parts[0][0] if parts else ReLU()
    return merged[0][0] if len(merged) == 1 else Blockwise(tuple(merged))


def slope_bounds(sigma: Activation, size: int) -> tuple[Tensor, Tensor]:
    """The slope interval of every neuron: two float64 tensors of shape (size,)."""
    lower, upper = [], []
    for own, count in blocks(sigma, size):
        lower += [own.interval[0]] * count
        upper += [own.interval[1]] * count
    return torch.tensor(lower, dtype=torch.float64), torch.tensor(upper, dtype=torch.float64)


def describe(sigma: Activation, size: int) -> list[dict[str, Any]]:
    """σ as plain data, floats as exact hexadecimal strings: what the form's file stores."""
    return [
        {"kind": own.kind, "size": count, **{k: float(v).hex() for k, v in own.parameters().items()}}
        for own, count in blocks(sigma, size)
    ]


def restore(description: list[dict[str, Any]]) -> Activation:
    """The inverse of :func:`describe`; FormatError when the description makes no sense."""
    try:
        parts = []
        for block in description:
            numbers = {k: float.fromhex(v) for k, v in block.items() if k not in ("kind", "size")}
            size = block["size"]
            if type(size) is not int or size < 0:
                raise FormatError(f"a group of {size!r} neurons")
            parts.append((activation(block["kind"], **numbers), size))
        return join(parts)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise FormatError(f"the file's activation cannot be understood: {error}") from error
