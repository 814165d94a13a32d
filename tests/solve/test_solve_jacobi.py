"""Jacobi: its factor is that of a weighted norm, it is never slower than averaging, and splitting beats it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from solve_problems import contraction_matrix, lben_matrix, tensor

from equilip.errors import IllPosedError
from equilip.nn import NEMON
from equilip.operators import Dense
from equilip.solve import Averaged, Jacobi, PeacemanRachford, Settings


@pytest.mark.parametrize("seed", range(6))
def test_its_factor_is_that_of_a_weighted_norm_and_better_than_averaging(seed: int) -> None:
    W = Dense(tensor(contraction_matrix(np.random.default_rng(seed), 12)))
    prepared = Jacobi().prepare(W, None)
    size = prepared.N.abs()
    # The spectral radius bounds what any weight can reach.
    radius = float(torch.linalg.eigvals(size).abs().amax())
    assert radius <= prepared.rate < 1
    assert prepared.rate <= Averaged().prepare(W, None).rate + 1e-12


def test_it_refuses_what_does_not_contract() -> None:
    W, _ = lben_matrix(np.random.default_rng(0), 20, skew=5.0)
    with pytest.raises(IllPosedError, match="weighted l-infinity"):
        Jacobi().prepare(Dense(tensor(W)), None)


@pytest.mark.parametrize(("scale", "m", "steps"), [(1, 0.0, (9, 3, 10)), (1, 0.9, (50, 4, 86)), (10, 0.0, (50, 4, 56))])
def test_steps_of_the_documentation(scale: float, m: float, steps: tuple[int, int, int]) -> None:
    x = torch.rand(500, 784, generator=torch.Generator().manual_seed(0))
    model = NEMON(784, 200, 10, m=m, generator=torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        model.T.mul_(scale)
    for solver, expected in zip((Jacobi(), PeacemanRachford(), Averaged()), steps, strict=True):
        found = model.solve(x, Settings(solver=solver, tolerance=1e-4, max_iterations=5000)).iterations
        assert abs(found - expected) <= 0.1 * expected + 1, (solver, found)
