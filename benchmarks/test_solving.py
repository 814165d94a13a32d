"""Solving the 10,000 test images of MNIST to 1e-6 in float64, on every published dense checkpoint and at n = 250.

Ours starts from W alone: the spectrum, the factorisation and every check are inside the time. The textbook
iteration runs for as many iterations as bring every residual below 1e-6, counted beforehand: its own stopping rule
could not know that number, so this flatters it.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import problems, textbook
from benchmarks.measure import interleave
from benchmarks.problems import CHECKPOINTS, Checkpoint
from benchmarks.table import Report, Target
from equilip.form import Form
from equilip.solve import Equation, Plan, Settings, Status, equilibrium
from equilip.solve.loop import Outcome

TOLERANCE = 1e-6
LIMIT = 4000
#: The tuned textbook iteration, in times of ours, on every checkpoint.
TUNED = 2.5
ROUNDS = 3
NOTE = (
    "10,000 MNIST test images, float64, every relative residual below 1e-6; ours from a given U ξ + b with spectrum, "
    "factorisation and checks inside (x), and with the product U ξ inside on both sides (x with U)"
)


def solve(form: Form, bias: Tensor) -> Outcome:
    """Ours, with nothing prepared beforehand."""
    plan = Plan(Settings(tolerance=TOLERANCE), form.lam)
    return plan.run(plan.prepared(form.W), Equation(form.W, form.activation, bias), None)


def run_textbook(W: Tensor, bias: Tensor, alpha: float, iterations: int) -> Tensor:
    V = textbook.inverse(W, alpha)
    return textbook.equilibrium(V, bias, alpha, tolerance=-1, max_iterations=iterations).point


def enough_iterations(W: Tensor, bias: Tensor, alpha: float, grid: int) -> int:
    """The smallest multiple of ``grid`` after which every residual is below the tolerance."""
    V = textbook.inverse(W, alpha)
    z = t = torch.zeros_like(bias)
    for iterations in range(1, LIMIT + 1):
        v = 2 * z - t
        t = 2 * (v + alpha * bias) @ V.mT - v
        z = t.relu()
        if iterations % grid == 0:
            residual = (torch.addmm(bias, z, W.mT).relu() - z).norm(dim=1) / z.norm(dim=1)
            if float(residual.amax()) < TOLERANCE:
                return iterations
    raise AssertionError(f"the textbook iteration needs more than {LIMIT} iterations")


@pytest.mark.benchmark(group="solving 10,000 images", timer=time.process_time)
@pytest.mark.parametrize("network", [*CHECKPOINTS, 250], ids=str)
def test_solving(benchmark: Any, report: Report, network: Checkpoint | int) -> None:
    """``network``: a published one, or the width of one that is trained here."""
    if isinstance(network, Checkpoint):
        form, name, target = problems.published(network), network.name, network.target
    else:
        form, name, target = problems.trained(network), "LBEN γ=1, 200 steps", None
    W, U = form.W.dense(), form.U.dense()
    xi = problems.held_out(10_000)
    bias = form.bias(xi)
    tuned = textbook.halve(lambda a: textbook.equilibrium(textbook.inverse(W, a), bias[:128], a).iterations)
    counts = {alpha: enough_iterations(W, bias, alpha, grid) for alpha, grid in ((tuned, 1), (1.0, 4))}

    outcome = solve(form, bias)
    assert outcome.report.status is Status.CONVERGED
    assert problems.worst_residual(form, outcome.z, bias) < TOLERANCE
    assert problems.worst_residual(form, run_textbook(W, bias, tuned, counts[tuned]), bias) < TOLERANCE

    settings = Settings(tolerance=TOLERANCE)
    times = interleave(
        benchmark,
        lambda: solve(form, bias),
        {
            "textbook": lambda: run_textbook(W, bias, 1.0, counts[1.0]),
            "tuned": lambda: run_textbook(W, bias, tuned, counts[tuned]),
            "tuned with U": lambda: run_textbook(W, xi @ U.mT + form.b, tuned, counts[tuned]),
            "ours with U": lambda: equilibrium(form, xi, settings),
            "U": lambda: form.bias(xi),
        },
        rounds=ROUNDS,
        least=0.3,
    )
    against_textbook, against_tuned = times.ratio("textbook", None), times.ratio("tuned", None)
    report.table("Solving", NOTE).add(
        network=name,
        n=form.hidden_size,
        ours_ms=times.milliseconds(),
        its=outcome.report.iterations,
        textbook_ms=times.milliseconds("textbook"),
        its_1=counts[1.0],
        x_textbook=against_textbook,
        tuned_α=tuned,
        tuned_ms=times.milliseconds("tuned"),
        its_α=counts[tuned],
        x_tuned=against_tuned,
        U_ξ_ms=times.milliseconds("U"),
        x_tuned_with_U=times.ratio("tuned with U", "ours with U"),
    )
    if target is not None:
        what = f"solving {name}, textbook in times of ours"
        report.targets.append(Target(what, against_textbook, at_least=target))
    if isinstance(network, Checkpoint):
        what = f"solving {name}, tuned textbook in times of ours"
        report.targets.append(Target(what, against_tuned, at_least=TUNED))
