"""What every trainable network here shares: parameters make a form, and forward solves it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from equilip.activations import Activation
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.nn.guarantee import Guarantee
from equilip.nn.node import NetworkNode, Rule
from equilip.nn.standardise import Standardise
from equilip.solve import Implicit, Pace, Plan, Prover, Settings, Solution, Status, equilibrium

if TYPE_CHECKING:
    from equilip.nn.explicit import Explicit


#: Matrices of more numbers are not made: beyond 8,000 neurons nothing is proved with them.
LARGEST_MATRIX = 8000**2


@dataclass(frozen=True, eq=False)
class Realised:
    """The form of one state of the parameters, made ready to be solved again and again."""

    values: tuple[Tensor, ...]
    settings: Settings
    form: Form
    plan: Plan
    prover: Prover | None = None

    def serves(self, tensors: tuple[Tensor, ...], settings: Settings) -> bool:
        """Whether these parameters still have the values that the form was made from.

        The values are compared, not version counters: those miss ``.to`` and writes through ``.data``.
        """
        return self.settings == settings and all(
            kept.dtype == own.dtype and kept.device == own.device and torch.equal(kept, own)
            for kept, own in zip(self.values, tensors, strict=True)
        )


class EquilibriumModule(torch.nn.Module, ABC):
    """A network whose parameters define a form.

    In ``eval()`` the form is made once and kept for as long as every parameter keeps its value, whatever changes
    it. In ``train()`` every call makes it anew. Gradients are the same in both.
    """

    in_features: int
    hidden_features: int
    out_features: int
    activation: Activation
    U: torch.nn.Parameter
    b: torch.nn.Parameter
    C: torch.nn.Parameter
    c: torch.nn.Parameter

    def __init__(self, standardisation: Standardisation | None, settings: Settings | None) -> None:
        super().__init__()
        self.settings = Settings() if settings is None else settings
        self.input = None
        if standardisation is not None:
            self.input = Standardise(standardisation.mean, standardisation.std)
        self._pace = Pace()
        self._plan: Plan | None = None
        self._realised: Realised | None = None

    @abstractmethod
    def form(self) -> Form:
        """The form of the current parameters, differentiable in them."""

    @abstractmethod
    def guarantee(self) -> Guarantee | None:
        """What the parametrisation promises; None if nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """The output of the equilibrium: (..., in_features) raw -> (..., out_features).

        Raises what :func:`equilip.solve.equilibrium` raises.
        """
        rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
        y = self._training_output(rows)
        if y is None:
            y = self.solve(rows).y
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], self.out_features)

    def rule(self) -> tuple[Rule, tuple[Tensor, ...]] | None:
        """The rule by which the current parameters make W, and those parameters, where there is one."""
        return None

    def _training_output(self, x: Tensor) -> Tensor | None:
        """The output with its gradient in one node, the fast way to train; None where only the general way serves."""
        if not (self.training and torch.is_grad_enabled() and isinstance(self.settings.gradient, Implicit)):
            return None
        if torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
            return None
        rule = self.rule()
        if rule is None or x.shape[1] != self.in_features or x.dtype != self.b.dtype:
            return None
        if self._plan is None or self._plan.settings is not self.settings:
            self._plan = Plan(self.settings, None, self._pace)
        plan = self._plan
        xi = x if self.input is None else self.input(x)
        y: Tensor = NetworkNode.apply(  # type: ignore[no-untyped-call]
            rule[0], plan, self.activation, xi, self.b, self.U, self.C, self.c, *rule[1]
        )
        # Where the solve failed, or the input is not finite, the general way says what is wrong, or flags it.
        return y if plan.last is Status.CONVERGED else None

    def solve(self, x: Tensor, settings: Settings | None = None, *, start: Tensor | None = None) -> Solution:
        """z, y, residuals and proven errors for the rows of x: (batch, in_features), raw."""
        settings = self.settings if settings is None else settings
        if self.training or torch._C._are_functorch_transforms_active():
            # Transformed parameters (torch.func) are not the module's own: nothing made from them may be kept.
            pace = self._pace if self.training and not torch._C._are_functorch_transforms_active() else None
            return equilibrium(self.form(), x, settings, start=start, pace=pace)
        realised = self._realise(settings)
        form = realised.form
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            form = self.form()
        return equilibrium(form, x, settings, start=start, plan=realised.plan, prover=self._prover)

    def train(self, mode: bool = True) -> Self:
        """As torch's; each call forgets what earlier solves taught, so that training runs repeat exactly."""
        self._pace = Pace()
        self._plan = None
        self._realised = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or a pickle takes along: everything but what solves have taught and left behind."""
        return self.__dict__ | {"_pace": Pace(), "_plan": None, "_realised": None}

    def freeze(self) -> Explicit:
        """The explicit twin: a module that holds the realised matrices, for serving and export."""
        from equilip.nn.explicit import Explicit

        with torch.no_grad():
            return Explicit(self.form().detach(), settings=self.settings).eval()

    def _realise(self, settings: Settings) -> Realised:
        tensors = (*self.parameters(), *self.buffers())
        kept = self._realised
        if kept is None or not kept.serves(tensors, settings):
            with torch.no_grad():
                form = self.form().detach()
            values = tuple(t.detach().clone() for t in tensors)
            plan = Plan(settings, form.lam, fixed=True)
            plan.prepared(form.W)  # of this form, for a later one with gradients would keep its graph alive in there
            kept = Realised(values, settings, form, plan)
            self._realised = kept
        return kept

    def _prover(self) -> Prover:
        kept = self._realise(self.settings)
        if kept.prover is None:
            kept = replace(kept, prover=Prover(kept.form))
            self._realised = kept
        assert kept.prover is not None
        return kept.prover

    def _standardisation(self) -> Standardisation | None:
        return None if self.input is None else self.input.standardisation()


def check_sizes(**sizes: int) -> None:
    """InputError naming the first size that is not a positive whole number."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise InputError(f"{name} must be a positive whole number, got {size!r}")


def check_small(rows: int, columns: int) -> None:
    """InputError where a matrix of this size would be made."""
    if rows * columns > LARGEST_MATRIX:
        raise InputError(
            f"one form of this network has a matrix of {rows} x {columns} numbers, too many to make; "
            "certify.lipschitz(stack.chain()) is the product of a Stack's layers' bounds, each proved, for any size"
        )


def uniform(
    *shape: int,
    fan_in: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    generator: torch.Generator | None,
) -> torch.nn.Parameter:
    """A parameter as torch.nn.Linear initialises its own: uniform in ±1/√fan_in."""
    bound = 1 / math.sqrt(fan_in)
    values = torch.empty(*shape, device=device, dtype=dtype).uniform_(-bound, bound, generator=generator)
    return torch.nn.Parameter(values)
