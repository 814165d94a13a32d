"""The same solves with torchdeq's solvers, on three maps whose fixed point is the equilibrium.

``natural`` is what its users would write, z → σ(W z + bias); ``damped`` is one forward-backward step with the best
step size among halvings and their square roots; ``reflected`` is the very map that equilip iterates, in its own
variable t. torchdeq stops on ‖f(v) - v‖ / ‖f(v)‖ of the worst sample, so a map that moves by a fraction of the
residual is asked for that fraction of the tolerance. What it returns is then judged by the residual of the
equation itself: a sample counts as failed when that exceeds the tolerance by more than half.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import problems
from benchmarks.measure import clock, interleave
from benchmarks.problems import CHECKPOINTS, Checkpoint
from benchmarks.table import Report
from equilip.form import Form
from equilip.solve import Equation, PeacemanRachford, Plan, Settings

solver = pytest.importorskip("torchdeq.solver", reason='needs torchdeq: pip install -e ".[bench]"')

LIMIT = 300
#: CPU seconds of one solve beyond which it is timed once and not again.
PATIENCE = 0.5
#: The worst pair takes minutes on large batches, and fails or takes a thousand times ours on small ones.
SMALL_BATCHES_ONLY = ("natural", "broyden")
NOTE = (
    f"torchdeq 0.1, at most {LIMIT} steps, ratio = its CPU time in times of ours with W prepared for both; failed = "
    "samples whose residual is more than 1.5 times the tolerance; no ratio where every sample failed"
)


@dataclass(frozen=True, eq=False)
class Map:
    """v → f(v), how a fixed point v gives z, and by what fraction of the residual a step of f moves."""

    f: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor] = lambda v: v
    scale: float = 1.0


def natural(form: Form, bias: Tensor) -> Map:
    W = form.W.dense().mT.contiguous()
    return Map(lambda z: torch.addmm(bias, z, W).relu())


def damped(form: Form, bias: Tensor, alpha: float) -> Map:
    W = form.W.dense()
    step = ((1 - alpha) * torch.eye(len(W), dtype=W.dtype) + alpha * W).mT.contiguous()
    scaled = alpha * bias
    return Map(lambda z: torch.addmm(scaled, z, step).relu(), scale=alpha)


def reflected(form: Form, bias: Tensor) -> Map:
    prepared = Plan(Settings(solver=PeacemanRachford()), form.lam).prepared(form.W)
    run: Any = prepared.run(Equation(form.W, form.activation, bias), 0.5)
    # t has entries far larger than z: a tenth of the tolerance brings nearly every sample below it.
    return Map(run.step, run.read, 0.1)


def best_damping(form: Form, bias: Tensor, tolerance: float) -> float:
    """α of the damped map with the fewest steps of the plain iteration on these samples."""
    best, alpha = (math.inf, 1.0), 1.0
    while alpha > 1e-3:
        step = damped(form, bias, alpha)
        z = torch.zeros_like(bias)
        for steps in range(1, LIMIT + 1):
            before, z = z, step.f(z)
            change = (z - before).norm(dim=1) / z.norm(dim=1)
            if not float(change.amax()) < 1e6:
                break
            if float(change.amax()) < alpha * tolerance:
                best = min(best, (steps, alpha))
                break
        alpha /= math.sqrt(2)
    return best[1]


def failed(form: Form, bias: Tensor, z: Tensor, tolerance: float) -> float:
    """Percent of the samples whose residual misses the tolerance by more than half."""
    residual = (form.step(z, bias) - z).norm(dim=1) / z.norm(dim=1)
    return 100 * float((~(residual <= 1.5 * tolerance)).double().mean())


@pytest.mark.benchmark(group="torchdeq", timer=time.process_time)
@pytest.mark.parametrize(
    ("dtype", "batch"),
    [(torch.float32, 128), (torch.float64, 128), (torch.float64, 1000)],
    ids=["float32-128", "float64-128", "float64-1000"],
)
@pytest.mark.parametrize("checkpoint", [c for c in CHECKPOINTS if c.gamma in (0.2, 1.0)], ids=str)
def test_torchdeq(benchmark: Any, report: Report, checkpoint: Checkpoint, dtype: torch.dtype, batch: int) -> None:
    tolerance = 1e-4 if dtype == torch.float32 else 1e-6
    form = problems.published(checkpoint).to(dtype)
    bias = form.bias(problems.held_out(batch, dtype))
    plan = Plan(Settings(tolerance=tolerance), form.lam)
    prepared, equation = plan.prepared(form.W), Equation(form.W, form.activation, bias)
    maps = {
        "natural": natural(form, bias),
        "damped": damped(form, bias, best_damping(form, bias[:128], tolerance)),
        "reflected": reflected(form, bias),
    }
    rivals: dict[str, Any] = {}
    rows: list[tuple[str, str, int | None, float | None, str | float]] = []
    for map_name, f in maps.items():
        for name in ("fixed_point_iter", "anderson", "broyden"):
            solve = solver.get_solver(name)
            if batch > 128 and (map_name, name) == SMALL_BATCHES_ONLY:
                rows.append((map_name, name, None, None, "not run"))
                continue

            def play(solve: Any = solve, f: Map = f) -> Any:
                with torch.no_grad():
                    return solve(f.f, torch.zeros_like(bias), max_iter=LIMIT, tol=f.scale * tolerance, stop_mode="rel")

            start = clock()
            try:
                v, _, info = play()
            except torch.linalg.LinAlgError:
                rows.append((map_name, name, None, 100.0, "singular system"))
                continue
            seconds = clock() - start
            missed = failed(form, bias, f.read(v), tolerance)
            rows.append((map_name, name, int(info["nstep"].max()), missed, ""))
            if missed < 100 and seconds < PATIENCE:
                rivals[f"{map_name} {name}"] = play
            elif missed < 100:
                rows[-1] = (*rows[-1][:4], seconds)

    times = interleave(benchmark, lambda: plan.run(prepared, equation, None), rivals, rounds=3, least=0.02)
    table = report.table("Against torchdeq", NOTE)
    for map_name, name, steps, missed, remark in rows:
        key = f"{map_name} {name}"
        ratio: float | None = times.ratio(key, None) if key in rivals else None
        if isinstance(remark, float):
            ratio, remark = 1000 * remark / times.milliseconds(), "timed once"
        table.add(
            checkpoint=checkpoint.name, solve=f"{str(dtype).removeprefix('torch.')} to {tolerance:g}", batch=batch,
            map=map_name, solver=name, steps=steps, failed_percent=missed, times_ours=ratio, remark=remark,
        )  # fmt: skip
