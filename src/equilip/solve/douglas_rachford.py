"""Douglas-Rachford splitting: Peaceman-Rachford averaged with standing still, robust when μ is tiny."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from equilip.operators import Operator
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.metric import Metric
from equilip.solve.peaceman_rachford import PeacemanRachford, PeacemanRachfordRun, PreparedPeacemanRachford


class DouglasRachfordRun(PeacemanRachfordRun):
    """t ← ½ t + ½ PR(t)."""

    advance = Run.advance

    def step(self, state: Tensor) -> Tensor:
        return 0.5 * (state + super().step(state))


@dataclass(frozen=True, eq=False)
class PreparedDouglasRachford(Prepared):
    """What Peaceman-Rachford prepares, with the rate of the average."""

    base: PreparedPeacemanRachford
    rate: float

    def run(self, equation: Equation, tolerance: float) -> DouglasRachfordRun:
        return DouglasRachfordRun(equation, self.base.RT, self.base.alpha)

    def transpose(self) -> PreparedDouglasRachford:
        return replace(self, base=self.base.transpose())


@dataclass(frozen=True)
class DouglasRachford(Solver):
    """t ← ½ t + ½ PR(t), which converges for every α > 0 even where Peaceman-Rachford only does not diverge."""

    alpha: float | None = None

    def __post_init__(self) -> None:
        PeacemanRachford(self.alpha)  # raises InputError for a step that makes no sense

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedDouglasRachford:
        base = PeacemanRachford(self.alpha).prepare(W, metric)
        return PreparedDouglasRachford(base, (1 + base.rate) / 2)
