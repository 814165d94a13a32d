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
from equilip.solve import Plan, Prover, Settings, Solution, equilibrium

#: Numbers of hidden neurons, over all samples, that are solved at a time: 400 MB in float64.
NUMBERS = 50_000_000


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
    settings = replace(settings, raise_on_failure=False)
    plan, prover = Plan(settings, form.lam, fixed=True), Prover(form)
    wrong = unconverged = iterations = 0
    bound, tolerance = 0.0, 0.0
    residuals: list[float] = []
    size = max(1, NUMBERS // max(form.hidden_size, 1))
    with torch.no_grad():
        for rows, labels in zip(x.split(size), y.split(size), strict=True):
            inputs = rows.to(form.device, form.dtype)
            solution = equilibrium(form, inputs, settings, plan=plan, prover=lambda: prover)
            wrong += count_wrong(solution, labels.to(form.device))
            bound = max(bound, float(solution.error.max()))
            residuals += solution.residual[solution.converged].tolist()
            unconverged += int((~solution.converged).sum())
            iterations, tolerance = max(iterations, solution.iterations), solution.tolerance
    return Evaluation(
        test_error_percent=100.0 * wrong / len(y),
        n=len(y),
        max_residual=max(residuals) if residuals else None,
        max_error_bound=bound if math.isfinite(bound) else None,
        unconverged=unconverged,
        iterations=iterations,
        tolerance=tolerance,
        dtype=str(form.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - start,
    )


def count_wrong(solution: Solution, y: Tensor) -> int:
    """How many samples are not classified as y; one without an equilibrium never is."""
    right = (solution.y.argmax(1) == y) & solution.converged
    return len(y) - int(right.sum())
