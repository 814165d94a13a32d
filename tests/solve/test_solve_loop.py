"""The loop around the solvers: starts, chunks, samples that take longer, and what earlier solves taught."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from solve_problems import SOLVERS, bank, distance, equilibria, lben_matrix, make, problem, truth

from equilip.activations import ReLU
from equilip.form import dense
from equilip.solve import (
    Auto,
    Equation,
    Metric,
    Pace,
    PeacemanRachford,
    Plan,
    Prover,
    Settings,
    Status,
    equilibrium,
    find_metric,
    loop,
)
from equilip.solve.metric import measure
from equilip.solve.peaceman_rachford import PeacemanRachfordRun

F64 = torch.float64
ITERATIVE = [n for n in SOLVERS if n != "substitution"]


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_start_changes_nothing_but_the_iterations(name: str, scale: float) -> None:
    own = problem("contracting of 8" if "averaged" in name else "gentle")
    settings = Settings(solver=SOLVERS[name], tolerance=1e-10)
    start = scale * torch.randn(len(own.x), own.form.hidden_size, generator=torch.Generator().manual_seed(2), dtype=F64)
    kept = start.clone()
    plain, begun = equilibrium(own.form, own.x, settings), equilibrium(own.form, own.x, settings, start=start)
    assert torch.equal(start, kept)
    reference = truth(own.name, ReLU(), F64)
    for solution in (plain, begun):
        assert (distance(solution.z, reference) <= 1e-8 * plain.z.norm(dim=1).numpy()).all()
    again = equilibrium(own.form, own.x, settings, start=plain.z)
    assert again.iterations <= plain.iterations
    assert (distance(again.z, reference) <= 1e-8 * plain.z.norm(dim=1).numpy()).all()


@pytest.mark.parametrize("name", ["peaceman-rachford", "auto", "newton", "refined"])
def test_a_start_may_be_garbage(name: str) -> None:
    """Infinite, NaN, or the answer to another question by many orders of magnitude."""
    own = problem("gentle")
    for value in (1e12, -1e12, 1e150, 1e300, math.inf, math.nan):
        start = torch.full((len(own.x), own.form.hidden_size), value, dtype=F64)
        solution = equilibrium(
            own.form, own.x, Settings(SOLVERS[name], tolerance=1e-9, max_iterations=5000), start=start
        )
        assert (distance(solution.z, truth(own.name, ReLU(), F64)) <= 1e-7 * solution.z.norm(dim=1).numpy()).all()


def test_no_gradient_flows_to_the_start() -> None:
    own = problem("gentle")
    start = torch.zeros(len(own.x), own.form.hidden_size, dtype=F64, requires_grad=True)
    solution = equilibrium(own.form, own.x.clone().requires_grad_(), start=start)
    solution.y.sum().backward()
    assert start.grad is None


@pytest.mark.parametrize("rows", [loop.CHUNK + loop.CHUNK // 2, loop.CHUNK + loop.CHUNK // 2 + 1, 3 * loop.CHUNK + 5])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_chunks_are_solved_as_wholes(rows: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(rows)
    form, x = make(*lben_matrix(rng, 6)[:1], lam=lben_matrix(np.random.default_rng(rows), 6)[1], batch=rows)
    form, x = form.to(dtype), x.to(dtype)
    solution = equilibrium(form, x)
    assert solution.z.shape == (rows, 6)
    assert solution.residual.shape == solution.converged.shape == (rows,)
    assert bool(solution.converged.all())
    error = Prover(form).error(x, solution.z)
    some = torch.tensor([0, 1, loop.CHUNK - 1, loop.CHUNK, rows - 1])
    assert (distance(solution.z[some], equilibria(form, x[some])) <= error[some].numpy()).all()
    alone = equilibrium(form, x[some])
    both = error[some] + alone.error
    assert bool(((solution.z[some] - alone.z).double().norm(dim=1) <= both).all())


def test_chunks_take_starts_and_give_gradients() -> None:
    rng = np.random.default_rng(0)
    W, lam = lben_matrix(rng, 4)
    rows = 2 * loop.CHUNK
    form, x = make(W, lam=lam, batch=rows)
    settings = Settings(tolerance=1e-11)
    x.requires_grad_()
    first = equilibrium(form, x, settings)
    again = equilibrium(form, x, settings, start=first.z.detach())
    assert again.iterations < first.iterations
    some = torch.tensor([0, loop.CHUNK, rows - 1])
    (grad,) = torch.autograd.grad(first.y.square().sum(), x)
    part = x.detach()[some].requires_grad_()
    (expected,) = torch.autograd.grad(equilibrium(form, part, settings).y.square().sum(), part)
    assert torch.allclose(grad[some], expected, rtol=1e-7, atol=1e-9)


def test_one_chunk_that_fails_is_seen() -> None:
    own = problem("lben of 10, stiff")
    rows = 2 * loop.CHUNK
    x = torch.zeros(rows, 3, dtype=F64)
    x[-1] = own.x[0]
    form = dense(
        own.form.W.dense(), own.form.U.dense(), torch.full((10,), -1.0, dtype=F64), own.form.C.dense(), own.form.c,
        lam=own.form.lam,
    )  # fmt: skip
    solution = equilibrium(
        form, x, Settings(PeacemanRachford(), tolerance=1e-12, max_iterations=4, raise_on_failure=False)
    )
    assert solution.status is Status.ITERATION_LIMIT
    assert solution.converged.tolist() == [True] * (rows - 1) + [False]


def test_a_hard_sample_goes_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """63 samples of which nothing is asked, and one that takes hundreds of steps."""
    own = problem("lben of 12, skewed")
    form = dense(
        own.form.W.dense(), own.form.U.dense(), torch.full((12,), -1.0, dtype=F64), own.form.C.dense(), own.form.c,
        lam=own.form.lam,
    )  # fmt: skip
    x = torch.zeros(64, 3, dtype=F64)
    x[17] = own.x[0]
    work: list[tuple[int, int]] = []
    original = PeacemanRachfordRun.advance

    def record(self: PeacemanRachfordRun, state: torch.Tensor, steps: int) -> torch.Tensor:
        work.append((len(state), steps))
        return original(self, state, steps)

    monkeypatch.setattr(PeacemanRachfordRun, "advance", record)
    solution = equilibrium(form, x, Settings(PeacemanRachford(), tolerance=1e-9))
    assert bool(solution.converged.all())
    alone = sum(steps for rows, steps in work if rows == 1)
    company = sum(steps for rows, steps in work if rows == 64)
    assert alone > company
    assert {rows for rows, _ in work} == {1, 64}
    assert (distance(solution.z, equilibria(form, x)) <= solution.error.numpy()).all()
    assert float(solution.error.max()) < 1e-5


def test_every_sample_meets_the_tolerance_of_its_own() -> None:
    """A large sample does not hide a small one, as it does in a norm over the batch."""
    own = problem("lben of 12, skewed")
    form = dense(
        own.form.W.dense(),
        own.form.U.dense(),
        torch.zeros(12, dtype=F64),
        own.form.C.dense(),
        own.form.c,
        lam=own.form.lam,
    )
    x = own.x * torch.logspace(-12, 12, len(own.x), dtype=F64)[:, None]
    solution = equilibrium(form, x, Settings(tolerance=1e-9))
    residual = (form.step(solution.z, form.bias(x)) - solution.z).norm(dim=1) / solution.z.norm(dim=1)
    assert bool((residual <= 1.01e-9).all())


def test_a_zero_equilibrium_is_found() -> None:
    """Where a relative residual means nothing: z = 0 is exact, or it is not reached."""
    own = problem("lben of 12, skewed")
    form = dense(
        own.form.W.dense(),
        own.form.U.dense(),
        torch.zeros(12, dtype=F64),
        own.form.C.dense(),
        own.form.c,
        lam=own.form.lam,
    )
    x = own.x.clone()
    x[2] = 0
    for name in ("peaceman-rachford", "douglas-rachford", "anderson", "newton", "auto"):
        solution = equilibrium(form, x, Settings(SOLVERS[name], tolerance=1e-9, max_iterations=5000))
        assert bool((solution.z[2] == 0).all()), name
        assert float(solution.residual[2]) == 0.0


@pytest.mark.parametrize("name", ["peaceman-rachford", "douglas-rachford", "forward-backward", "anderson"])
def test_the_iteration_limit_is_kept(name: str) -> None:
    own = problem("gentle")
    for limit in (1, 2, 7):
        solution = equilibrium(own.form, own.x, Settings(SOLVERS[name], max_iterations=limit, raise_on_failure=False))
        assert solution.iterations <= limit


# ---------------------------------------------------------------- what earlier solves taught


def test_pace_saves_readings_and_changes_no_answer() -> None:
    own = problem("lben of 40")
    pace = Pace()
    for _ in range(20):
        solution = equilibrium(own.form, own.x, Settings(tolerance=1e-8), pace=pace)
        assert (distance(solution.z, truth(own.name, ReLU(), F64)) <= 1e-5).all()
    assert pace.forward is not None
    assert pace.metric is not None


def test_a_pace_learnt_elsewhere_does_no_harm() -> None:
    """Weights that jump between two solves: the spectrum kept is wrong, the answers are not."""
    rng = np.random.default_rng(4)
    pace = Pace()
    for seed in range(12):
        W, lam = lben_matrix(rng, 8, spread=rng.uniform(0, 1), skew=rng.uniform(0, 3), epsilon=10 ** rng.uniform(-2, 1))
        form, x = make(W, lam=lam, seed=seed)
        solution = equilibrium(form, x, Settings(tolerance=1e-8), pace=pace)
        assert bool((solution.residual <= 1e-8).all())
        assert (distance(solution.z, equilibria(form, x)) <= solution.error.numpy()).all()


def test_a_plan_serves_many_batches() -> None:
    own = problem("lben of 40")
    settings = Settings(tolerance=1e-9)
    plan = Plan(settings, own.form.lam)
    prepared = plan.prepared(own.form.W)
    for seed in range(3):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
        solution = equilibrium(own.form, x, settings, plan=plan)
        assert (distance(solution.z, equilibria(own.form, x)) <= solution.error.numpy()).all()
    assert plan.prepared(own.form.W) is prepared


# ---------------------------------------------------------------- the metric


@pytest.mark.parametrize("own", [p for p in bank() if p.form.lam is not None], ids=lambda p: p.name)
def test_the_metric_is_measured(own: object) -> None:
    form = own.form  # type: ignore[attr-defined]
    metric = measure(form.W, form.lam)
    W, lam = form.W.dense().numpy(), form.lam.numpy()
    root = np.sqrt(lam)
    H = root[:, None] * (np.eye(len(W)) - W) / root
    eigenvalues = np.linalg.eigvalsh(0.5 * (H + H.T))
    assert metric.mu == pytest.approx(eigenvalues[0], rel=1e-6)
    assert pytest.approx(eigenvalues[-1], rel=1e-6) == metric.L
    assert metric.norm >= np.linalg.norm(H, 2) * (1 - 1e-9)


def test_the_peaceman_rachford_step_is_that_of_the_spectrum() -> None:
    own = problem("lben of 40")
    metric = find_metric(own.form.W, own.form.lam)
    assert isinstance(metric, Metric)
    prepared = PeacemanRachford().prepare(own.form.W, metric)
    assert prepared.alpha == pytest.approx(1 / math.sqrt(metric.mu * metric.L))
    n = own.form.hidden_size
    W = own.form.W.dense()
    expected = 2 * torch.linalg.inv(torch.eye(n, dtype=F64) * (1 + prepared.alpha) - prepared.alpha * W)
    assert torch.allclose(prepared.R, expected - torch.eye(n, dtype=F64), rtol=1e-10, atol=1e-12)
    assert torch.equal(prepared.transpose().R, prepared.R.mT)


@pytest.mark.parametrize("name", [n for n in SOLVERS if n not in ("substitution", "refined")])
def test_the_promised_rate_is_no_promise_below_one(name: str) -> None:
    own = problem("contracting of 8" if "averaged" in name else "gentle")
    prepared = SOLVERS[name].prepare(own.form.W, find_metric(own.form.W, own.form.lam))
    assert 0 <= prepared.rate < 1
    assert 0 <= prepared.transpose().rate < 1


def test_auto_takes_substitution_where_there_are_no_cycles() -> None:
    own = problem("acyclic of 9")
    solution = equilibrium(own.form, own.x, Settings(Auto()))
    assert (distance(solution.z, truth(own.name, ReLU(), F64)) <= 1e-13 * solution.z.norm(dim=1).numpy()).all()


def test_a_rate_that_is_far_too_slow_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two early readings where theory promises thousands of steps; none where the caller knows how many it takes."""
    own = problem("gentle")
    equation = Equation(own.form.W, ReLU(), own.form.bias(own.x))
    honest = PeacemanRachford().prepare(own.form.W, find_metric(own.form.W, own.form.lam))
    readings = 0

    def read(equation: Equation, z: torch.Tensor) -> loop.Reading:
        nonlocal readings
        readings += 1
        return original(equation, z)

    original = loop.read
    monkeypatch.setattr(loop, "read", read)
    expected = loop.iterate(honest, equation, None, tolerance=1e-10, limit=5000)
    readings = 0
    slow = loop.iterate(replace(honest, rate=0.99), equation, None, tolerance=1e-10, limit=5000)
    assert slow.report.status is Status.CONVERGED
    assert slow.report.steps <= 2 * max(expected.report.steps, loop.EARLY)
    assert readings <= 5
    assert (distance(slow.z, truth(own.name, ReLU(), F64)) <= 1e-8 * slow.z.norm(dim=1).numpy()).all()
    readings = 0
    told = loop.iterate(
        replace(honest, rate=0.99), equation, None, tolerance=1e-10, limit=5000, expected=slow.report.steps
    )
    assert (told.report.steps, readings) == (slow.report.steps, 1)
