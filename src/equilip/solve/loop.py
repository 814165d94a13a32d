"""The one loop that serves every iteration.

The residual costs as much as a step, so it is read only when the known rate says that the tolerance may have
been reached, and then the observed rate corrects the prediction; where the known rate promises a long way, two early
readings observe a better one. Every sample has to reach the tolerance; the
ones that have not go on alone once they are the minority.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from equilip.solve.iteration import Equation, Prepared, Run, Stages
from equilip.solve.solution import Status

#: Below this a norm is nothing to divide by. Looking it up in torch takes longer than the norm.
SMALLEST = {dtype: math.sqrt(torch.finfo(dtype).tiny) for dtype in (torch.float32, torch.float64)}

#: Rows solved together: their state stays in the processor's cache.
CHUNK = 1024

#: Numbers in a chunk of large networks: what their solvers need beside the state is several times that.
CHUNK_NUMBERS = 4_000_000

#: An equilibrium smaller than this share of its bias is measured by the bias.
NEARLY_ZERO = 1e-5

#: Predicted steps from which the rate is observed first: rates from theory may be far slower than the iteration.
LONG = 100

#: Steps before each of the first two readings then.
EARLY = 16

#: Steps still to go from which sorting out the open samples costs less than carrying the others along.
WORTH_NARROWING = 10

#: A residual below this share of the tolerance would have met it a step earlier.
SLACK = 0.25

#: Reads of the residual without real progress, close to rounding, before the number format is blamed.
PATIENCE = 3

#: What rounding can make of a residual, in multiples of the rounding of its own evaluation.
CLOSE = 100.0

#: Steps after which a residual close to rounding is read again.
SOON = 8

#: Steps are given up that should have shrunk the residual by this factor at half the speed promised, four times over.
HOPELESS = 1e3


class Report(NamedTuple):
    """How a solve went. Holds no tensor that carries gradients, so that keeping it keeps no graph alive.

    residual: (batch,) relative. steps: of the first stage. iterations: what all stages cost, in applications of W.
    excess: the largest residual of the first stage's last reading, as a multiple of the tolerance.
    """

    residual: Tensor
    steps: int
    iterations: int
    status: Status
    excess: float


class Outcome(NamedTuple):
    """z (batch, n), the preactivation s = W z + bias there, and how it went."""

    z: Tensor
    s: Tensor
    report: Report


class Reading(NamedTuple):
    """A point, the preactivation there, and its relative residual, (batch,)."""

    z: Tensor
    s: Tensor
    residual: Tensor

    def put(self, rows: Tensor, other: Reading) -> Reading:
        """This reading with some samples replaced, each only where that lowers its residual."""
        better = ~(other.residual >= self.residual[rows])
        rows = rows[better]
        return Reading(
            self.z.index_copy(0, rows, other.z[better]),
            self.s.index_copy(0, rows, other.s[better]),
            self.residual.index_copy(0, rows, other.residual[better]),
        )


def read(equation: Equation, z: Tensor) -> Reading:
    """The residual ‖z - σ(W z + bias)‖ / ‖z‖ of every sample; zero where both norms are."""
    s = equation.W.plus(z, equation.bias)
    return Reading(z, s, _norm(equation.activation.value(s) - z).div_(_size(z)))


def _norm(x: Tensor) -> Tensor:
    # vector_norm is the fastest row-wise norm there is.
    return torch.linalg.vector_norm(x, dim=-1)


def _size(z: Tensor) -> Tensor:
    return _norm(z).clamp_(min=SMALLEST[z.dtype])


def beside_bias(equation: Equation, reading: Reading) -> Reading:
    """The same, relative to NEARLY_ZERO ‖bias‖ where z is smaller than that.

    An equilibrium of zero is approached by points that are ever smaller and never relatively right: the adjoint of a
    loss that only inactive neurons feel is of this kind.
    """
    size = _size(reading.z)
    bias = _norm(equation.bias) * NEARLY_ZERO
    return Reading(reading.z, reading.s, reading.residual * (size / torch.maximum(size, bias)))


def iterate(
    prepared: Prepared,
    equation: Equation,
    z: Tensor | None,
    *,
    tolerance: float,
    limit: int,
    expected: int | None = None,
) -> Outcome:
    """Run one prepared solver on one batch.

    ``z``: where to start, (batch, n), zero if None. ``limit``: the largest number of iterations. ``expected``:
    after how many steps to read the residual first, where the caller knows better than the rate.
    """
    run: Run[Any] = prepared.run(equation, tolerance)
    state = run.start(z)
    batch = equation.bias.shape[0]
    if batch == 0 or equation.bias.shape[1] == 0:
        point = run.read(state)
        return Outcome(point, point, Report(point.new_zeros(batch), 0, 0, Status.CONVERGED, 0.0))

    promised = rate = min(max(prepared.rate, 1e-3), 0.9999)
    learning = False
    if expected is None:
        expected = _steps(rate, 1 / tolerance) if run.planned is None else run.planned
        learning = run.planned is None and expected >= LONG
    steps = EARLY if learning else expected
    rows: Tensor | None = None
    best: Reading | None = None
    hopeless = 4 * _steps(0.5 * (1 + rate), HOPELESS)
    taken, worst, least, lowered, idle = 0, math.inf, math.inf, 0, 0
    close = False
    status = Status.ITERATION_LIMIT
    while True:
        steps = max(0, min(steps, limit // run.cost - taken))
        state = run.advance(state, steps)
        taken += steps
        latest = read(run.equation, run.read(state))
        before, worst = worst, float(latest.residual.detach().amax()) / tolerance
        if worst > 1:
            latest = beside_bias(run.equation, latest)
            worst = float(latest.residual.detach().amax()) / tolerance
        best = latest if best is None or rows is None else best.put(rows, latest)
        if worst <= 1:
            status = Status.CONVERGED
            break
        if not math.isfinite(worst):
            status = Status.DIVERGED
            break
        if math.isfinite(before) and steps:
            observed = (worst / before) ** (1 / steps)
            rate = min(max(observed, 0.25 * rate), 0.5 * (1 + rate))
        if worst < 0.7 * least:
            least, lowered, idle = worst, taken, 0
        else:
            idle += 1
            close = worst * tolerance <= CLOSE * _resolution(run.equation, latest)
            if (close and idle >= PATIENCE) or taken - lowered >= hopeless:
                status = Status.RESOLUTION if close else Status.STALLED
                break
        if (taken + 1) * run.cost > limit:
            status = Status.RESOLUTION if idle and close else Status.ITERATION_LIMIT
            break
        # What does not move is left alone for longer, for a reading costs more than a step; close to rounding it
        # hardly ever moves again, which a few readings soon tell.
        wait = 2 * steps
        steps = _steps(rate, worst)
        if learning and not math.isfinite(before):
            steps = min(steps, EARLY)  # one reading knows no rate
        elif learning:
            learning = False
            if taken + steps >= expected:
                # What is seen early may be too slow: then nothing was learnt, and theory says how long to go on.
                rate, worst, steps = promised, math.inf, max(1, expected - taken)
        if idle:
            steps = min(steps, SOON) if close else max(steps, wait)
        if steps >= WORTH_NARROWING:
            open_rows = (latest.residual > tolerance).nonzero().flatten()
            if 2 * len(open_rows) < len(latest.residual):
                run, state = run.narrow(open_rows), run.select(state, open_rows)
                rows = open_rows if rows is None else rows[open_rows]
    return Outcome(best.z, best.s, Report(best.residual, taken, taken * run.cost, status, worst))


def _resolution(equation: Equation, reading: Reading) -> float:
    """The largest relative residual that the rounding of its evaluation alone can show."""
    unit = torch.finfo(reading.z.dtype).eps
    size = _norm(reading.z)
    terms = (1 + equation.W.norm_bound()) * size + _norm(equation.bias)
    return float((unit * terms / size.clamp(min=torch.finfo(reading.z.dtype).tiny)).amax())


def _steps(rate: float, excess: float) -> int:
    """How many steps shrink an error by the factor ``excess``, at this rate."""
    return max(1, math.ceil(math.log(max(excess, 1.0)) / -math.log(rate)))


def learn(report: Report, before: int | None) -> int:
    """After how many steps to read the residual next time: as late as now, earlier where there was slack.

    ``before``: after how many it was read this time, None where the rate said so. A reading that comes too early costs
    as much as several steps, so the slack has to be clear.
    """
    slack = before is not None and report.steps == before and report.excess < SLACK
    return max(1, report.steps - 1) if slack else report.steps


def solve(
    prepared: Prepared,
    equation: Equation,
    z: Tensor | None,
    *,
    tolerance: float,
    limit: int,
    expected: int | None = None,
) -> Outcome:
    """Run its stages one after the other, each on the samples that the one before left open, chunk by chunk."""
    batch = equation.bias.shape[0]
    chunk = max(1, min(CHUNK, CHUNK_NUMBERS // max(equation.bias.shape[1], 1)))
    if batch <= chunk + chunk // 2:
        return _stages(prepared.stages(equation, tolerance), equation, z, tolerance, limit, expected)
    parts: list[Outcome] = []
    for start in range(0, batch, chunk):
        rows = slice(start, start + chunk)
        stages = prepared.stages(equation, tolerance)
        part = _stages(stages, equation.narrow(rows), None if z is None else z[rows], tolerance, limit, expected)
        if expected is None and part.report.status is Status.CONVERGED:
            expected = part.report.steps
        parts.append(part)
    return Outcome(
        torch.cat([part.z for part in parts]),
        torch.cat([part.s for part in parts]),
        join([part.report for part in parts]),
    )


def join(reports: list[Report]) -> Report:
    """One report of several batches."""
    if len(reports) == 1:
        return reports[0]
    failures = [report.status for report in reports if report.status is not Status.CONVERGED]
    return Report(
        torch.cat([report.residual for report in reports]),
        max(report.steps for report in reports),
        max(report.iterations for report in reports),
        failures[0] if failures else Status.CONVERGED,
        max(report.excess for report in reports),
    )


def _stages(
    stages: Stages,
    equation: Equation,
    z: Tensor | None,
    tolerance: float,
    limit: int,
    expected: int | None,
) -> Outcome:
    first, own = next(stages)
    if z is not None:
        # A huge point keeps its relative residual for as long as it takes to shrink: zero is a better start.
        z = torch.where((read(equation, z).residual < 0.5)[:, None], z, 0.0)
    outcome = iterate(first, equation, z, tolerance=tolerance, limit=min(limit, own or limit), expected=expected)
    while outcome.report.status is not Status.CONVERGED:
        stage, own = next(stages, (None, None))
        if stage is None:
            break
        report = outcome.report
        rows = (~(report.residual <= tolerance)).nonzero().flatten()
        # What solves the equation no better than this, or is not finite, is a worse start than zero: a huge point
        # keeps its relative residual for as long as it takes to shrink.
        start = torch.where((report.residual[rows] < 0.5)[:, None], outcome.z[rows], 0.0)
        rest = iterate(stage, equation.narrow(rows), start, tolerance=tolerance, limit=min(limit, own or limit))
        found = Reading(rest.z, rest.s, rest.report.residual)
        merged = Reading(outcome.z, outcome.s, report.residual).put(rows, found)
        iterations = report.iterations + rest.report.iterations
        report = Report(merged.residual, report.steps, iterations, rest.report.status, report.excess)
        outcome = Outcome(merged.z, merged.s, report)
    return outcome
