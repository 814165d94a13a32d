"""The three parts every solver is made of: an equation, a solver prepared for its W, and a run on one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from torch import Tensor

from equilip.activations import Activation, Slopes
from equilip.operators import Operator
from equilip.solve.metric import Metric

State = TypeVar("State")


class Equation(NamedTuple):
    """z = σ(W z + bias) for a batch: bias is (batch, n)."""

    W: Operator
    activation: Activation
    bias: Tensor

    def narrow(self, rows: Tensor | slice) -> Equation:
        """The same equation for some of the samples."""
        sigma = self.activation
        return Equation(self.W, sigma.rows(rows) if isinstance(sigma, Slopes) else sigma, self.bias[rows])


class Run(ABC, Generic[State]):
    """One solver on one batch: where it starts, how it steps, and what point a state stands for."""

    equation: Equation
    #: What one step costs, in applications of W; reported as iterations.
    cost: int = 1
    #: After how many steps the tolerance is expected to be reached, where the method knows better than its rate.
    planned: int | None = None

    @abstractmethod
    def start(self, z: Tensor | None) -> State:
        """The state that stands for the point z (batch, n), or for zero."""

    @abstractmethod
    def step(self, state: State) -> State: ...

    def advance(self, state: State, steps: int) -> State:
        """Several steps; a method overrides it where it can do them faster."""
        for _ in range(steps):
            state = self.step(state)
        return state

    @abstractmethod
    def read(self, state: State) -> Tensor:
        """The point (batch, n) that the state stands for."""

    @abstractmethod
    def narrow(self, rows: Tensor) -> Run[State]:
        """The same run for some of the samples."""

    @abstractmethod
    def select(self, state: State, rows: Tensor) -> State:
        """The state of some of the samples."""


class Prepared(ABC):
    """A solver prepared for one W: the step size is chosen, factorisations are done."""

    #: Factor by which the error shrinks with a step, as far as theory tells.
    rate: float

    @abstractmethod
    def run(self, equation: Equation, tolerance: float) -> Run[Any]: ...

    def stages(self, equation: Equation, tolerance: float) -> Stages:
        """What to run on this equation, in turn, and the most iterations for each (None: the caller's limit)."""
        yield self, None

    @abstractmethod
    def transpose(self) -> Prepared:
        """The same for Wᵀ, sharing every factorisation: what the adjoint equation needs."""

    def renewed(self, W: Operator) -> Prepared | None:
        """The same step size prepared for a W near by, from this one's work; None where that does not serve."""
        return None


class Solver(ABC):
    """A method for z = σ(W z + bias)."""

    #: Whether the derivative of its iterations converges to that of the equilibrium.
    unrolls: bool = True

    @abstractmethod
    def prepare(self, W: Operator, metric: Metric | None) -> Prepared:
        """Choose the step from the metric and factorise. IllPosedError where the method needs a metric and has none."""


Stages = Iterator[tuple[Prepared, int | None]]
