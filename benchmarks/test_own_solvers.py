"""Our own solvers next to each other, in float64 with W prepared beforehand: what the default's thresholds rest on.

Three questions, three tables. From which batch on do float32 iterations with float64 corrections pay? For which
tolerances? And from how many predicted iterations of Peaceman-Rachford is a factorisation per sample cheaper?
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import problems
from benchmarks.measure import clock, interleave
from benchmarks.problems import CHECKPOINTS, Checkpoint
from benchmarks.table import Report
from equilip import form as forms
from equilip.form import Form
from equilip.solve import (
    Auto,
    Equation,
    Newton,
    PeacemanRachford,
    Plan,
    Prepared,
    Refined,
    Settings,
    Solver,
)
from equilip.solve.loop import Outcome

GAMMA_SMALL, GAMMA_ONE = (next(c for c in CHECKPOINTS if c.gamma == gamma) for gamma in (0.2, 1.0))
#: CPU seconds of one solve beyond which it is timed once and not again.
PATIENCE = 0.2
NOTE = (
    "float64; a ratio is CPU time in times of PeacemanRachford's on the same batch, below 1 is faster; Auto is what "
    "the default takes of these; misses = samples above the tolerance"
)


@dataclass(frozen=True, eq=False)
class Ready:
    """A solver with its W prepared, and one batch."""

    plan: Plan
    prepared: Prepared
    equation: Equation

    def __call__(self) -> Outcome:
        return self.plan.run(self.prepared, self.equation, None)


def ready(solver: Solver, form: Form, bias: Tensor, tolerance: float) -> Ready:
    settings = Settings(solver=solver, tolerance=tolerance, max_iterations=20_000, raise_on_failure=False)
    plan = Plan(settings, form.lam)
    return Ready(plan, plan.prepared(form.W), Equation(form.W, form.activation, bias))


def compare(
    benchmark: Any, form: Form, bias: Tensor, tolerance: float, solvers: dict[str, Solver]
) -> dict[str, float | int | str]:
    """The cells of one row; a solver that fails shows how many samples it failed on instead of its ratio."""
    base = ready(PeacemanRachford(), form, bias, tolerance)
    rate = base.prepared.rate
    cells: dict[str, float | int | str] = {
        "predicted its": math.ceil(math.log(1 / tolerance) / -math.log(rate)),
        "its": base().report.iterations,
    }
    rivals = {name: ready(solver, form, bias, tolerance) for name, solver in solvers.items()}
    reports, once = {}, {}
    for name, rival in rivals.items():
        start = clock()
        reports[name] = rival().report
        once[name] = clock() - start
    quick = {name: rival for name, rival in rivals.items() if once[name] < PATIENCE}
    times = interleave(benchmark, base, quick, rounds=5, least=0.02)
    cells["PR ms"] = times.milliseconds()
    for name, report in reports.items():
        missed = int((~(report.residual <= tolerance)).sum())
        ratio = times.ratio(name, None) if name in quick else 1000 * once[name] / times.milliseconds()
        cells[name] = ratio if not missed else f"misses {missed}"
    return cells


def hard(kappa: float, skew: float, n: int = 80) -> Form:
    """I - W with a symmetric part of eigenvalues 1 to κ, evenly on a logarithmic scale, and a skew part of size
    ``skew`` times the symmetric one."""
    generator = torch.Generator().manual_seed(0)
    Q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))
    K = torch.randn(n, n, dtype=torch.float64, generator=generator)
    K = K - K.mT
    H = Q @ torch.diag(torch.logspace(0, math.log10(kappa), n, dtype=torch.float64)) @ Q.mT
    H = H + K * (skew * kappa / torch.linalg.matrix_norm(K, 2))
    eye = torch.eye(n, dtype=torch.float64)
    return forms.dense(eye - H, eye, eye[0], eye, eye[0], lam=torch.ones(n, dtype=torch.float64))


@pytest.mark.benchmark(group="own solvers: batch", timer=time.process_time)
@pytest.mark.parametrize("batch", [16, 128, 256, 512, 1000, 10_000])
@pytest.mark.parametrize("problem", [GAMMA_SMALL, GAMMA_ONE, 250], ids=["gamma-0.2", "gamma-1", "n-250"])
def test_batches(benchmark: Any, report: Report, problem: Checkpoint | int, batch: int) -> None:
    form = problems.trained(problem) if isinstance(problem, int) else problems.published(problem)
    bias = form.bias(problems.held_out(batch))
    solvers: dict[str, Solver] = {"Refined": Refined(), "Auto": Auto()}
    n = form.hidden_size
    if batch * n * n < 10_000_000:  # beyond, a factorisation per sample takes minutes
        solvers["Newton"] = Newton()
    cells = compare(benchmark, form, bias, 1e-6, solvers)
    name = f"LBEN γ=1 after 200 steps, n={n}" if isinstance(problem, int) else f"{problem.name}, n={n}"
    table = report.table("Our solvers by batch, to 1e-6", NOTE)
    table.rows.append({"network": name, "batch": batch, "numbers": batch * n, **cells})


@pytest.mark.benchmark(group="own solvers: tolerance", timer=time.process_time)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 1e-10])
@pytest.mark.parametrize("checkpoint", [GAMMA_SMALL, GAMMA_ONE], ids=str)
def test_tolerances(benchmark: Any, report: Report, checkpoint: Checkpoint, tolerance: float) -> None:
    form = problems.published(checkpoint)
    bias = form.bias(problems.held_out(1000))
    cells = compare(benchmark, form, bias, tolerance, {"Refined": Refined(), "Auto": Auto(), "Newton": Newton()})
    table = report.table("Our solvers by tolerance, 1,000 images", NOTE)
    table.rows.append({"network": checkpoint.name, "tolerance": f"{tolerance:g}", **cells})


@pytest.mark.benchmark(group="own solvers: condition", timer=time.process_time)
@pytest.mark.parametrize("skew", [0.0, 1.0])
@pytest.mark.parametrize("kappa", [100, 300, 1000, 10_000])
def test_conditions(benchmark: Any, report: Report, kappa: float, skew: float) -> None:
    form = hard(kappa, skew)
    bias = torch.randn(128, form.hidden_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cells = compare(benchmark, form, bias, 1e-6, {"Newton": Newton(), "Auto": Auto(), "Refined": Refined()})
    title = "Our solvers by condition, n=80, 128 random inputs to 1e-6"
    table = report.table(title, f"{NOTE}; I - W symmetric with eigenvalues 1 to κ, plus a skew part of norm skew · κ")
    table.rows.append({"κ": kappa, "skew": f"{skew:g}", **cells})
