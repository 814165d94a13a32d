"""A Newton step is the solution of its linear system, however it is computed."""

from __future__ import annotations

import pytest
import torch

from equilip.form import dense
from equilip.solve import Newton, Settings, equilibrium
from equilip.solve.newton import LARGEST_BATCHED, newton_step


@pytest.mark.parametrize("n", [1, 20, LARGEST_BATCHED, LARGEST_BATCHED + 1, 2 * LARGEST_BATCHED])
@pytest.mark.parametrize("slopes", ["binary", "any", "none", "all"])
def test_a_step_solves_its_system(n: int, slopes: str) -> None:
    generator = torch.Generator().manual_seed(n)
    W = torch.randn(n, n, dtype=torch.float64, generator=generator) / n**0.5
    r = torch.randn(4, n, dtype=torch.float64, generator=generator)
    uniform = torch.rand(4, n, dtype=torch.float64, generator=generator)
    j = {"binary": (uniform < 0.4).double(), "any": uniform, "none": 0 * uniform, "all": 0 * uniform + 1}[slopes]
    step = newton_step(W, j, r)
    torch.testing.assert_close(step - j * (step @ W.mT), r, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n", [3, LARGEST_BATCHED + 1])
def test_a_singular_system_has_no_finite_step_and_spoils_no_other(n: int) -> None:
    W = torch.eye(n, dtype=torch.float64)
    j = torch.zeros(2, n, dtype=torch.float64)
    j[0, :2] = 1.0
    step = newton_step(W, j, torch.ones(2, n, dtype=torch.float64))
    assert not step[0].isfinite().all()
    assert torch.equal(step[1], torch.ones(n, dtype=torch.float64))


def test_a_step_is_differentiable_beyond_what_is_batched() -> None:
    n = LARGEST_BATCHED + 1
    generator = torch.Generator().manual_seed(0)
    W = (torch.randn(n, n, dtype=torch.float64, generator=generator) / n).requires_grad_()
    r = torch.randn(2, n, dtype=torch.float64, generator=generator, requires_grad=True)
    j = (torch.rand(2, n, dtype=torch.float64, generator=generator) < 0.5).double()
    weight = torch.randn(2, n, dtype=torch.float64, generator=generator)
    found = torch.autograd.grad((newton_step(W, j, r) * weight).sum(), (W, r))
    dense_step = torch.linalg.solve(torch.eye(n, dtype=torch.float64) - j[:, :, None] * W, r)
    for own, exact in zip(found, torch.autograd.grad((dense_step * weight).sum(), (W, r)), strict=True):
        torch.testing.assert_close(own, exact, rtol=1e-8, atol=1e-10)


def test_newton_finds_the_equilibrium_of_a_large_network() -> None:
    n = LARGEST_BATCHED + 20
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(n, n, dtype=torch.float64, generator=generator) / (3 * n**0.5)
    U, b, C, c = (torch.randn(*s, dtype=torch.float64, generator=generator) for s in ((n, 5), (n,), (2, n), (2,)))
    x = torch.randn(6, 5, dtype=torch.float64, generator=generator)
    solution = equilibrium(dense(W, U, b, C, c), x, Settings(solver=Newton(), tolerance=1e-12))
    assert solution.iterations <= 12
    assert float(solution.error.max()) < 1e-9
