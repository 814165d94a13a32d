"""How to differentiate through an equilibrium: four ways, one choice of the same function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._C._functorch import TransformType, get_interpreter_stack

from equilip.errors import InputError
from equilip.solve.implicit import Equilibrium, Task

if TYPE_CHECKING:
    from equilip.solve.iteration import Equation


class Gradient(ABC):
    """Turns a task into a z that carries gradients."""

    #: Whether the gradient is that of the equilibrium, up to the tolerance.
    exact: bool
    adjoint_tolerance: float | None = None

    @abstractmethod
    def attach(self, task: Task, equation: Equation, start: Tensor | None) -> Tensor:
        """Solve the equation; z (batch, n) with its gradients."""


def _solve(task: Task, equation: Equation, start: Tensor | None) -> Tensor:
    if torch._C._are_functorch_transforms_active():
        transforms = [transform.key() for transform in get_interpreter_stack()]
        if transforms.count(TransformType.Jvp) > 1:
            raise InputError(
                "forward mode over forward mode is silently wrong for such functions in torch (pytorch issue 197867); "
                "take torch.func.hessian, or jacrev for one of the two"
            )
    z, _ = Equilibrium.apply(task, equation.bias, start, *equation.W.tensors)  # type: ignore[no-untyped-call]
    return z


@dataclass(frozen=True)
class Implicit(Gradient):
    """Exact, by the implicit function theorem: one adjoint solve, no memory of the iterations, every order.

    ``tolerance``: relative residual of the adjoint equation; None takes the forward solve's.
    """

    tolerance: float | None = None
    exact = True

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise InputError(f"the adjoint tolerance must lie between 0 and 1, got {self.tolerance}")

    @property
    def adjoint_tolerance(self) -> float | None:  # type: ignore[override]
        return self.tolerance

    def attach(self, task: Task, equation: Equation, start: Tensor | None) -> Tensor:
        return _solve(task, equation, start)


@dataclass(frozen=True)
class JacobianFree(Gradient):
    """A biased gradient: that of one step at the equilibrium, as if W's effect on z through itself were nil.

    Cheap, often a descent direction, never the gradient (mathematics 7). Guarantees of the network do not
    depend on how it was trained.
    """

    exact = False

    def attach(self, task: Task, equation: Equation, start: Tensor | None) -> Tensor:
        return Phantom(steps=1, damping=1.0).attach(task, equation, start)


@dataclass(frozen=True)
class Phantom(Gradient):
    """A biased gradient: that of ``steps`` damped steps z ← (1 - damping) z + damping σ(W z + bias) from z.

    More steps and less damping come nearer to the gradient only where this iteration contracts
    (mathematics 7); for other W it may not even point downhill.
    """

    steps: int = 5
    damping: float = 0.5
    exact = False

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.damping <= 1:
            raise InputError(f"phantom gradients need steps >= 1 and 0 < damping <= 1, got {self}")

    def attach(self, task: Task, equation: Equation, start: Tensor | None) -> Tensor:
        with torch.no_grad():
            # Detached, for forward mode takes no notice of no_grad.
            z = found = _solve(task, equation, start).detach()
        for _ in range(self.steps):
            z = torch.lerp(z, equation.activation.value(equation.W.plus(z, equation.bias)), self.damping)
        # The value stays the solver's, which is more accurate than steps of this iteration.
        return z + (found - z).detach()


@dataclass(frozen=True)
class Unrolled(Gradient):
    """The gradient of the solver's own iterations, which converges to the exact one as they do.

    Memory grows with the number of iterations; for checking the other choices, and for research. Raises InputError for
    Anderson and Refined, whose iterations mix states or precisions in ways that have no such derivative.
    """

    exact = True

    def attach(self, task: Task, equation: Equation, start: Tensor | None) -> Tensor:
        return task.plan.unroll(task, equation, start)
