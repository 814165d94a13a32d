"""Solve a form for a batch: the one entry that everything else calls."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equilip.errors import ConvergenceError, InputError, ToleranceError
from equilip.form import Form
from equilip.solve import loop
from equilip.solve.implicit import Task
from equilip.solve.iteration import Equation
from equilip.solve.plan import Pace, Plan
from equilip.solve.proof import Prover
from equilip.solve.settings import Settings
from equilip.solve.solution import Solution, Status


def equilibrium(
    form: Form,
    x: Tensor,
    settings: Settings | None = None,
    *,
    start: Tensor | None = None,
    plan: Plan | None = None,
    pace: Pace | None = None,
    prover: Callable[[], Prover] | None = None,
) -> Solution:
    """The equilibrium z and the output y for every row of x: (batch, in_size), raw units.

    Differentiable in x and in the form's tensors, by ``settings.gradient``. ``start``: where to begin, (batch, n),
    zero if None; it changes how long the solve takes, not what it finds. ``plan`` and ``prover`` hand over what
    was prepared for this very form in an earlier call, ``pace`` what earlier solves of slowly changing forms taught.

    Raises InputError for inputs of the wrong shape or with NaN, IllPosedError where no multipliers prove that
    there is exactly one equilibrium, ConvergenceError where a sample missed the tolerance, and its kind
    ToleranceError where the number format is what stands in the way (``settings`` can turn these off).
    """
    settings = Settings() if settings is None else settings
    if x.dim() != 2 or x.shape[1] != form.in_size:
        raise InputError(f"expected inputs of shape (batch, {form.in_size}), got {tuple(x.shape)}")
    if x.dtype != form.dtype:
        raise InputError(f"the inputs are {x.dtype} and the network is {form.dtype}; convert one of them")
    if start is not None and (start.shape != (x.shape[0], form.hidden_size) or start.dtype != form.dtype):
        expected = f"shape {(x.shape[0], form.hidden_size)} and {form.dtype}"
        raise InputError(f"start must have {expected}, got {tuple(start.shape)} and {start.dtype}")
    xi = form.standardise(x)
    bias = form.bias(xi)
    plan = Plan(settings, form.lam, pace) if plan is None else plan
    task = Task(form.W, form.activation, plan, settings.gradient.adjoint_tolerance, plan.expected_adjoint)
    z = settings.gradient.attach(task, Equation(form.W, form.activation, bias), start)
    y = form.output(z, xi)

    report = loop.join(task.reports)

    def own() -> Prover:
        return Prover(form) if prover is None else prover()

    solution = Solution(
        z=z,
        y=y,
        residual=report.residual,
        iterations=report.iterations,
        status=report.status,
        tolerance=plan.goal(form.dtype),
        _prove=lambda: own().error(x, z),
        _prove_by_neuron=lambda: own().error_by_neuron(x, z),
    )
    if report.status is not Status.CONVERGED and settings.raise_on_failure:
        raise _failure(solution, form.dtype)
    return solution


def _failure(solution: Solution, dtype: torch.dtype) -> ConvergenceError:
    missed = int((~solution.converged).sum())
    worst = float(solution.residual.nan_to_num(nan=torch.inf).amax())
    message = (
        f"{missed} of {len(solution.converged)} samples missed the tolerance {solution.tolerance:g}: "
        f"{solution.status.value} (largest relative residual {worst:.3g} after {solution.iterations} iterations)"
    )
    if solution.status is Status.RESOLUTION:
        return ToleranceError(
            f"{message}; {str(dtype).removeprefix('torch.')} resolves about {worst:.1g} here: "
            "ask for a larger tolerance or use float64",
            solution,
        )
    return ConvergenceError(
        f"{message}; raise max_iterations or the tolerance, or take what was reached with raise_on_failure=False",
        solution,
    )
