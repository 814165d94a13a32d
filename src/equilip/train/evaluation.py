"""The test error of a form, and how far its equilibria can be trusted."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equilip.errors import ConfigError
from equilip.form import Form
from equilip.solve import Settings, Solution, equilibrium


@dataclass(frozen=True)
class Evaluation:
    """What one pass over labelled data shows.

    test_error_percent: share of the n samples whose largest output is not the label. A sample without an
        equilibrium has no output, so it counts as wrong.
    max_residual: largest relative residual ‖z - σ(Wz + Uξ + b)‖ / ‖z‖ of the samples that converged.
    max_error_bound: largest proven distance to the true equilibrium, None where nothing could be proved.
    unconverged: samples for which the solver found no equilibrium. iterations: steps it took.
    """

    test_error_percent: float
    n: int
    max_residual: float | None
    max_error_bound: float | None
    unconverged: int
    iterations: int
    tolerance: float
    dtype: str
    seconds: float

    def as_table(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return asdict(self)


def evaluate(form: Form, x: Tensor, y: Tensor, settings: Settings | None = None) -> Evaluation:
    """Solve ``form`` for the raw inputs x, (n, p), and compare with the labels y, (n,).

    Computes in the dtype and on the device of the form. Samples that do not converge are counted, whatever
    the settings say; an ill-posed W raises IllPosedError unless the settings allow it.
    """
    if x.dim() != 2 or x.shape[1] != form.in_size:
        raise ConfigError(f"the network takes {form.in_size} numbers; the data has {tuple(x.shape)[1:]}")
    if not len(x):
        raise ConfigError("there is no sample to evaluate")
    settings = Settings() if settings is None else settings
    start = time.perf_counter()
    with torch.no_grad():
        solution = equilibrium(form, x.to(form.device, form.dtype), replace(settings, raise_on_failure=False))
        wrong = count_wrong(solution, y.to(form.device))
        bound = float(solution.error.max())
        residual = solution.residual[solution.converged]
    return Evaluation(
        test_error_percent=100.0 * wrong / len(y),
        n=len(y),
        max_residual=float(residual.max()) if len(residual) else None,
        max_error_bound=bound if math.isfinite(bound) else None,
        unconverged=int((~solution.converged).sum()),
        iterations=solution.iterations,
        tolerance=solution.tolerance,
        dtype=str(form.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - start,
    )


def count_wrong(solution: Solution, y: Tensor) -> int:
    """How many samples are not classified as y; one without an equilibrium never is."""
    right = (solution.y.argmax(1) == y) & solution.converged
    return len(y) - int(right.sum())
