"""What a caller may choose about a solve."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from equilip.errors import InputError
from equilip.solve.auto import Auto
from equilip.solve.gradient import Gradient, Implicit
from equilip.solve.iteration import Solver


@dataclass(frozen=True)
class Settings:
    """How to solve z = σ(W z + bias), and how to differentiate through the answer.

    tolerance: largest relative residual ‖z - σ(W z + bias)‖ / ‖z‖ of every sample. None: 1e-4 in float32 and
        1e-8 in float64, or what the number format can resolve for these weights if that is coarser.
    max_iterations: a limit for every sample; reaching it is a failure.
    raise_on_failure: raise ConvergenceError when a sample misses the tolerance; otherwise it is only flagged.
    require_well_posed: refuse a W for which no multipliers prove that there is exactly one equilibrium.
    """

    solver: Solver = field(default_factory=Auto)
    gradient: Gradient = field(default_factory=Implicit)
    tolerance: float | None = None
    max_iterations: int = 2000
    raise_on_failure: bool = True
    require_well_posed: bool = True

    def __post_init__(self) -> None:
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise InputError(f"the tolerance is a relative residual between 0 and 1, got {self.tolerance}")
        if self.max_iterations < 1:
            raise InputError(f"max_iterations must be at least 1, got {self.max_iterations}")

    def goal(self, dtype: torch.dtype, resolution: float) -> float:
        """The tolerance to use where residuals below ``resolution`` cannot be told from rounding."""
        if self.tolerance is not None:
            return self.tolerance
        return max(1e-4 if dtype == torch.float32 else 1e-8, 4 * resolution)
