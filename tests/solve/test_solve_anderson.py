"""Anderson acceleration: it helps, it hardly ever costs, it never raises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solve_problems import bank, distance, lben_matrix, make, problem, truth, with_activation

from equilip.activations import ReLU, Tanh
from equilip.errors import InputError
from equilip.form import Form
from equilip.solve import (
    Anderson,
    Averaged,
    DouglasRachford,
    ForwardBackward,
    PeacemanRachford,
    Prepared,
    Settings,
    Solver,
    equilibrium,
    find_metric,
)
from equilip.solve.iteration import Equation


def arrivals(prepared: Prepared, form: Form, equation: Equation, tolerance: float, limit: int) -> torch.Tensor:
    """After how many steps each sample first meets the tolerance, (batch,); limit + 1 if never."""
    run = prepared.run(equation, tolerance)
    state = run.start(None)
    found = torch.full((len(equation.bias),), limit + 1)
    for taken in range(limit + 1):
        z = run.read(state)
        met = (form.step(z, equation.bias) - z).norm(dim=1) <= tolerance * z.norm(dim=1)
        found = torch.where(met & (found > limit), torch.tensor(taken), found)
        if bool((found <= limit).all()):
            break
        state = run.step(state)
    return found


@pytest.mark.parametrize("base", [PeacemanRachford(), DouglasRachford()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("memory", [2, 5])
def test_it_helps_and_hardly_ever_costs(base: Solver, memory: int) -> None:
    rng = np.random.default_rng(5)
    problems = [(p.form, p.x) for p in bank() if p.form.hidden_size and len(p.x)]
    for seed in range(12):
        W, lam = lben_matrix(rng, 2 + seed % 7, spread=rng.uniform(0, 1.5), skew=rng.uniform(0, 4))
        problems.append(make(W, lam=lam, seed=seed))
    shares = []
    for form, x in problems:
        metric = find_metric(form.W, form.lam)
        if metric is None:
            continue
        equation = Equation(form.W, form.activation, form.bias(x))
        plain = arrivals(base.prepare(form.W, metric), form, equation, 1e-6, 700)
        fast = arrivals(Anderson(base, memory).prepare(form.W, metric), form, equation, 1e-6, 800)
        plain, fast = plain[plain <= 700], fast[plain <= 700]
        if not len(plain):
            continue
        # Only seldom more than the plain iteration, and never many.
        assert bool((fast <= plain + 3 + 0.25 * plain).all())
        shares.append(float((fast <= plain + 3).double().mean()))
    assert np.mean(shares) > 0.9


def test_it_is_much_faster_where_the_plain_iteration_is_slow() -> None:
    own = problem("lben of 10, stiff")
    slow = equilibrium(own.form, own.x, Settings(solver=PeacemanRachford(), tolerance=1e-8))
    fast = equilibrium(own.form, own.x, Settings(solver=Anderson(), tolerance=1e-8))
    assert fast.iterations < 0.5 * slow.iterations


@pytest.mark.parametrize("base", [PeacemanRachford(), ForwardBackward(), Averaged()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("memory", [2, 3, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_least_squares_are_no_exception(base: Solver, memory: int, dtype: torch.dtype) -> None:
    """One neuron, nothing to do, equal samples, scales where squares under- and overflow; long after the end."""
    big, small = (1e25, 1e-30) if dtype == torch.float32 else (1e160, 1e-200)
    for name in ("W = 0", "one neuron", "one neuron, no loop", "tiny W", "gentle"):
        own = problem(name)
        form, x = own.form.to(dtype), own.x.to(dtype)
        metric = find_metric(form.W, form.lam)
        if isinstance(base, Averaged) and not own.contracting:
            continue
        for scale in (0.0, small, 1.0, big):
            bias = scale * form.bias(x)
            bias[1] = bias[0]
            run = Anderson(base, memory).prepare(form.W, metric).run(Equation(form.W, form.activation, bias), 1e-6)
            state = run.start(None)
            for _ in range(60):
                state = run.step(state)
            z = run.read(state)
            if scale < big:
                assert bool(z.isfinite().all())
            if scale == 1.0:
                unit = torch.finfo(dtype).eps
                assert bool(((form.step(z, bias) - z).norm(dim=1) <= max(1e4 * unit, 1e-7) * z.norm(dim=1)).all())


def test_samples_do_not_disturb_each_other() -> None:
    """Each mixes its own states: a sample alone gives what it gives in company."""
    own = problem("lben of 12, skewed")
    metric = find_metric(own.form.W, own.form.lam)
    prepared = Anderson().prepare(own.form.W, metric)
    bias = own.form.bias(own.x)

    def after(rows: slice, steps: int) -> torch.Tensor:
        run = prepared.run(Equation(own.form.W, ReLU(), bias[rows]), 1e-8)
        state = run.start(None)
        for _ in range(steps):
            state = run.step(state)
        return run.read(state)

    assert torch.allclose(after(slice(None), 25)[1:2], after(slice(1, 2), 25), rtol=1e-6, atol=1e-9)


def test_rows_can_be_selected_midway() -> None:
    own = problem("lben of 12, skewed")
    metric = find_metric(own.form.W, own.form.lam)
    run = Anderson().prepare(own.form.W, metric).run(Equation(own.form.W, ReLU(), own.form.bias(own.x)), 1e-8)
    state = run.start(None)
    for _ in range(9):
        state = run.step(state)
    rows = torch.tensor([2, 0])
    narrow, part = run.narrow(rows), run.select(state, rows)
    for _ in range(3):
        state, part = run.step(state), narrow.step(part)
    assert torch.allclose(narrow.read(part), run.read(state)[rows], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("base", [DouglasRachford(), ForwardBackward(), Averaged()], ids=lambda s: type(s).__name__)
def test_every_splitting_can_be_accelerated(base: Solver) -> None:
    name = "contracting of 8" if isinstance(base, Averaged) else "gentle"
    own = problem(name)
    form = with_activation(own.form, Tanh())
    solution = equilibrium(form, own.x, Settings(solver=Anderson(base), tolerance=1e-10))
    true = distance(solution.z, truth(name, Tanh(), torch.float64))
    assert (true <= 1e-7 * solution.z.norm(dim=1).numpy()).all()


def test_what_cannot_be_accelerated_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 states, got 1"):
        Anderson(memory=1)
    with pytest.raises(InputError, match="itself"):
        Anderson(Anderson())
