"""Every solver on every problem of the bank: the equilibrium of a dense Newton method, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solve_problems import (
    ACTIVATIONS,
    SOLVERS,
    Problem,
    at_home,
    bank,
    condition,
    distance,
    problem,
    truth,
    with_activation,
)

from equilip.activations import Activation, Blockwise, LeakyReLU, ReLU, Tanh
from equilip.form import Form
from equilip.solve import Settings, Solution, Status, equilibrium


def within_reach(form: Form, x: torch.Tensor, reference: np.ndarray) -> float:
    """A tolerance well above what the number format resolves, which is least for a z much smaller than W z + bias."""
    unit = torch.finfo(form.dtype).eps
    W, bias = form.W.dense().double().numpy(), form.bias(form.standardise(x)).double().numpy()
    size = np.linalg.norm(reference.astype(float), axis=1)
    terms = np.linalg.norm(np.abs(reference.astype(float)) @ (np.abs(W) + np.eye(len(W))).T + np.abs(bias), axis=1)
    floor = max((float(t / s) for t, s in zip(terms, size, strict=True) if s > 0), default=0.0)
    return max(1e-8 if form.dtype == torch.float64 else 1e-4, 300 * unit * floor)


def check(own: Problem, form: Form, x: torch.Tensor, solution: Solution, reference: np.ndarray) -> None:
    """What a Solution says is true of it."""
    z, n = solution.z.detach(), form.hidden_size
    batch = x.shape[0]
    unit = torch.finfo(z.dtype).eps
    assert z.shape == (batch, n), own.name
    assert z.dtype == form.dtype, own.name
    assert solution.status is Status.CONVERGED, own.name
    assert solution.converged.shape == solution.residual.shape == solution.error.shape == (batch,), own.name
    assert bool(solution.converged.all()), own.name
    assert bool((solution.residual <= solution.tolerance).all()), own.name

    # The residual is what it says, up to the rounding of its own evaluation.
    exact = form.to(torch.float64)
    bias = exact.bias(exact.standardise(x.double()))
    residual = (exact.step(z.double(), bias) - z.double()).norm(dim=1)
    size = z.double().norm(dim=1)
    W, U = exact.W.dense().norm(), exact.U.dense().norm()
    rounding = 4 * unit * ((1 + W) * size + U * x.double().norm(dim=1) + exact.b.norm() + n**0.5 * (size > 0))
    right = [
        (solution.residual.double() * scale - residual).abs() <= 1e-3 * residual + rounding
        for scale in (size, torch.maximum(size, 1e-5 * bias.norm(dim=1)))
    ]
    assert bool((right[0] | right[1]).all()), own.name

    # The proven error is one, and says no more than the conditioning of the problem and the residual do.
    true = distance(z, reference)
    error = solution.error.numpy()
    assert solution.error.dtype == torch.float64
    assert (true <= error).all(), (own.name, true, error)
    slack = 1e3 * 2.0**-53 * float(1 + W) * (size + U * x.double().norm(dim=1) + exact.b.norm() + 1e-290).numpy()
    if own.name not in ("acyclic of 9", "well-posed by multipliers unknown"):  # their bounds have other constants
        assert (error <= 2 * condition(form) * (residual.numpy() + slack)).all(), (own.name, error)

    # The output is that of z.
    expected = exact.output(z.double(), exact.standardise(x.double()))
    assert torch.allclose(
        solution.y.double(), expected, rtol=50 * unit, atol=50 * unit * float(1 + expected.abs().sum())
    )


#: In float32, where rounding is the only news, one activation of each make.
SHORT = (ReLU(), LeakyReLU(0.2), Tanh())
CASES = [(s, torch.float64) for s in ACTIVATIONS] + [(s, torch.float32) for s in SHORT]


@pytest.mark.parametrize(("sigma", "dtype"), CASES, ids=lambda v: v.kind if isinstance(v, Activation) else str(v)[6:])
@pytest.mark.parametrize("name", list(SOLVERS))
def test_the_bank(name: str, sigma: Activation, dtype: torch.dtype) -> None:
    for own in bank():
        if not at_home(name, own, dtype):
            continue
        form, x = with_activation(own.form, sigma).to(dtype), own.x.to(dtype)
        reference = truth(own.name, sigma, dtype)
        tolerance = within_reach(form, x, reference)
        if tolerance > 0.05:
            continue  # float32 tells hardly anything about W this large
        solution = equilibrium(form, x, Settings(solver=SOLVERS[name], tolerance=tolerance, max_iterations=20_000))
        check(own, form, x, solution, reference)


@pytest.mark.parametrize("name", [n for n in SOLVERS if n != "substitution"])
def test_different_activations_in_one_layer(name: str) -> None:
    own = problem("contracting of 8" if "averaged" in name else "gentle")
    n = own.form.hidden_size
    sigma = Blockwise(((Tanh(), 3), (LeakyReLU(0.3), n - 3)))
    form = with_activation(own.form, sigma)
    solution = equilibrium(form, own.x, Settings(solver=SOLVERS[name], tolerance=1e-9))
    check(own, form, own.x, solution, truth(own.name, sigma, torch.float64))
