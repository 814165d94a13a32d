"""A form made ready to be solved many times: its metric, its prepared solver, its proof of well-posedness."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.operators import Operator
from equilip.solve import loop
from equilip.solve.implicit import Task, check_finite
from equilip.solve.iteration import Equation, Prepared
from equilip.solve.loop import Outcome
from equilip.solve.metric import Metric, require
from equilip.solve.multipliers import find_metric
from equilip.solve.settings import Settings
from equilip.solve.solution import Status
from equilip.solve.substitution import levels

#: Training steps for which one reading of the spectrum serves; every step size converges, this one stays fast.
FRESH = 64


@dataclass
class Pace:
    """What one solve teaches the next while weights change slowly: the spectrum, and how many steps it takes.

    Nothing in it touches correctness: residuals are read before any answer is returned.
    """

    metric: Metric | None = None
    age: int = 0
    forward: int | None = None
    adjoint: int | None = None


class Plan:
    """Solves equations with one W after another (training), or with the same W many times (serving)."""

    def __init__(
        self, settings: Settings, lam: Tensor | None, pace: Pace | None = None, *, fixed: bool = False
    ) -> None:
        """``fixed``: the caller vouches that W never changes in value, whatever tensors hold it."""
        self.settings = settings
        self.fixed = fixed
        self.lam = None if lam is None else lam.detach()
        self.pace = pace
        self._tensors: tuple[Tensor, ...] | None = None
        self._prepared: Prepared | None = None
        #: What was prepared last for slowly changing weights, and can be renewed as long as the metric serves.
        self._latest: Prepared | None = None
        self._resolution = 0.0
        #: How the last forward equation ended.
        self.last = Status.CONVERGED

    def prepared(self, W: Operator) -> Prepared:
        """The solver prepared for W; made once for the same tensors. IllPosedError if W is not well-posed."""
        tensors = W.tensors
        if self._prepared is not None and self.fixed:
            return self._prepared
        if self._prepared is None or self._tensors is None or not _same(self._tensors, tensors):
            self._prepared = self.prepare(W)
            self._tensors = tensors
        return self._prepared

    def prepare(self, W: Operator) -> Prepared:
        """The solver prepared for W, anew. IllPosedError if W is not well-posed and has to be."""
        if self._latest is not None and self.pace is not None and not self.due:
            prepared = self._latest.renewed(W)
            if prepared is not None:
                self.pace.age += 1
                self._latest = prepared
                return prepared
        metric = self._metric(W)
        scale = metric.L if metric is not None else W.norm_bound()
        self._resolution = torch.finfo(W.tensors[0].dtype).eps * max(scale, 1.0)
        acyclic = metric is None and levels(W.dense().detach()) is not None
        if self.settings.require_well_posed and not acyclic:
            metric = require(metric)
        prepared = self.settings.solver.prepare(W, metric)
        if self.pace is not None:
            self._latest = prepared
        return prepared

    def _metric(self, W: Operator) -> Metric | None:
        pace = self.pace
        if pace is None or (pace.metric is None and self.lam is None):
            with torch.no_grad():
                return find_metric(W, self.lam)
        if self.due:
            with torch.no_grad():
                pace.metric = find_metric(W, self.lam)
        pace.age += 1
        return pace.metric

    def goal(self, dtype: torch.dtype) -> float:
        return self.settings.goal(dtype, self._resolution)

    @property
    def due(self) -> bool:
        """Whether the spectrum will be read at the next ``prepare``."""
        return self.pace is None or self.pace.metric is None or self.pace.age % FRESH == 0

    @property
    def expected_adjoint(self) -> int | None:
        """After how many steps to read an adjoint's residual; fixed when its forward equation is solved."""
        return None if self.pace is None else self.pace.adjoint

    def run(self, prepared: Prepared, equation: Equation, start: Tensor | None) -> Outcome:
        """Solve the forward equation."""
        with torch.inference_mode():
            outcome = self.iterate(prepared, equation, start)
        return _ordinary(outcome)

    def run_linear(
        self, prepared: Prepared, equation: Equation, tolerance: float | None, expected: int | None
    ) -> Outcome:
        """Solve an adjoint or tangent equation."""
        with torch.inference_mode():
            outcome = self.iterate_linear(prepared, equation, tolerance, expected)
        return _ordinary(outcome)

    def iterate(self, prepared: Prepared, equation: Equation, start: Tensor | None) -> Outcome:
        """As ``run``, for callers in inference mode, which spares every operation a look at autograd."""
        expected = None if self.pace is None else self.pace.forward
        outcome = self._iterate(prepared, equation, start, self.goal(equation.bias.dtype), expected)
        self.last = outcome.report.status
        if self.pace is not None:
            self.pace.forward = loop.learn(outcome.report, self.pace.forward)
        return outcome

    def iterate_linear(
        self, prepared: Prepared, equation: Equation, tolerance: float | None, expected: int | None
    ) -> Outcome:
        """As ``run_linear``, for callers in inference mode."""
        goal = self.goal(equation.bias.dtype) if tolerance is None else tolerance
        outcome = self._iterate(prepared, equation, None, goal, expected)
        if self.pace is not None:
            self.pace.adjoint = loop.learn(outcome.report, self.pace.adjoint)
        return outcome

    def _iterate(
        self, prepared: Prepared, equation: Equation, start: Tensor | None, tolerance: float, expected: int | None
    ) -> Outcome:
        return loop.solve(
            prepared,
            equation,
            start,
            tolerance=tolerance,
            limit=self.settings.max_iterations,
            expected=expected,
        )

    def unroll(self, task: Task, equation: Equation, start: Tensor | None) -> Tensor:
        """Solve with the iterations recorded: prepared afresh, so that gradients flow through it."""
        if not self.settings.solver.unrolls:
            raise InputError(
                f"the iterations of {type(self.settings.solver).__name__} have no derivative that converges; "
                "unroll another solver, or take Implicit()"
            )
        check_finite(equation.bias)
        prepared = self.prepare(equation.W)
        first, _ = next(prepared.stages(equation, 0.5))
        goal = self.goal(equation.bias.dtype)
        outcome = loop.iterate(first, equation, start, tolerance=goal, limit=self.settings.max_iterations)
        task.reports.append(outcome.report._replace(residual=outcome.report.residual.detach()))
        return outcome.z


def _ordinary(outcome: Outcome) -> Outcome:
    """Copies of what was made in inference mode, fit for autograd."""
    report = outcome.report._replace(residual=outcome.report.residual.clone())
    return Outcome(outcome.z.clone(), outcome.s.clone(), report)


def _same(old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> bool:
    """Whether these are the same tensors: the very objects, or views of the same unchanged memory."""
    return len(old) == len(new) and all(
        a is b
        or (
            a.data_ptr() == b.data_ptr()
            and a.shape == b.shape
            and a.stride() == b.stride()
            and a._version == b._version
        )
        for a, b in zip(old, new, strict=True)
    )
