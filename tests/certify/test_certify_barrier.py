"""The barrier method: derivatives against differences, optima against an independent search."""

from __future__ import annotations

import numpy as np
import pytest
from certify_networks import numbers, random_form
from scipy.optimize import minimize

from equilip.certify import programme
from equilip.certify.barrier import Programme, minimise
from equilip.certify.phase_one import candidates
from equilip.certify.scale import Metric
from equilip.certify.system import from_form


def some_programme(rng: np.random.Generator, n: int, q: int) -> tuple[Programme, np.ndarray, float]:
    form = random_form(rng, "monotone", n, 2 * n, q)
    W, U, C, D, _, _ = numbers(form)
    rows = np.vstack([U, D])
    lam = np.exp(0.1 * rng.standard_normal(n)) * 50 * np.linalg.norm(C, 2) ** 2
    built = Programme(W, C, rows @ rows.T, rank=n + q)
    rho = 1.0
    while not np.isfinite(built.log_barrier(lam, rho)):
        rho *= 2
    return built, lam, 2 * rho


@pytest.mark.parametrize("seed", range(5))
def test_derivatives_agree_with_differences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    built, lam, rho = some_programme(rng, int(rng.integers(1, 7)), int(rng.integers(1, 4)))
    gradient, hessian = built.derivatives(lam, rho)
    point = np.append(lam, rho)
    for i in range(point.size):
        h = 1e-5 * point[i]
        ahead, behind = point.copy(), point.copy()
        ahead[i] += h
        behind[i] -= h
        slope = (built.log_barrier(ahead[:-1], ahead[-1]) - built.log_barrier(behind[:-1], behind[-1])) / (2 * h)
        assert slope * point[i] == pytest.approx(gradient[i] * point[i], rel=1e-5, abs=1e-6)
        column = (built.derivatives(ahead[:-1], ahead[-1])[0] - built.derivatives(behind[:-1], behind[-1])[0]) / (2 * h)
        np.testing.assert_allclose(column * point * point[i], hessian[i] * point * point[i], rtol=1e-4, atol=1e-5)


def test_the_schur_complement_is_that_of_the_whole_matrix() -> None:
    rng = np.random.default_rng(3)
    form = random_form(rng, "monotone", 4, 3, 2)
    W, U, C, _, _, _ = numbers(form)
    D = rng.standard_normal((2, 3))
    rows = np.vstack([U, D])
    built = Programme(W, C, rows @ rows.T, rank=3)
    lam, rho = np.exp(rng.standard_normal(4)) + 30, 400.0
    weighted = lam[:, None] * W
    whole = np.block(
        [
            [2 * np.diag(lam) - weighted - weighted.T - C.T @ C, -lam[:, None] * U - C.T @ D],
            [-(lam[:, None] * U).T - D.T @ C, rho * np.eye(3) - D.T @ D],
        ]
    )
    sign, logdet = np.linalg.slogdet(whole)
    assert sign > 0
    assert built.log_barrier(lam, rho) == pytest.approx(-logdet, rel=1e-10)


def brute_force(W: np.ndarray, U: np.ndarray, C: np.ndarray, D: np.ndarray, lam: np.ndarray) -> float:
    """The smallest rho that any multipliers found by a direct search give, straight from mathematics 9.3."""

    def rho(log_lam: np.ndarray) -> float:
        own = np.exp(log_lam)
        weighted = own[:, None] * W
        block = 2 * np.diag(own) - weighted - weighted.T - C.T @ C
        if np.linalg.eigvalsh(block)[0] <= 0:
            return 1e12 * (1 - np.linalg.eigvalsh(block)[0])
        right = own[:, None] * U + C.T @ D
        return float(np.linalg.eigvalsh(D.T @ D + right.T @ np.linalg.solve(block, right))[-1])

    best = np.log(lam)
    for _ in range(6):
        found = minimize(
            rho, best, method="Nelder-Mead", options={"maxfev": 4000, "xatol": 1e-10, "fatol": 1e-13, "adaptive": True}
        )
        best = found.x
    return float(found.fun)


@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_is_the_best_that_a_direct_search_finds(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    n = [1, 2, 3, 4, 5, 6][seed]
    form = random_form(rng, ["lben", "monotone", "loops"][seed % 3], n, 3, 2)
    system = from_form(form, raw=False)
    lam = candidates(system, None if form.lam is None else form.lam.numpy())[0]
    scaled = Metric(system, lam).joint(system.head)
    found = programme.solve(system, lam * float(scaled.factor), float(scaled.rho), seconds=10.0)
    assert found is not None
    assert found.converged
    W, U, C, D, _, _ = numbers(form)
    direct = brute_force(W, U, C, D, lam * float(scaled.factor))
    assert found.rho <= direct * (1 + 1e-5)
    assert found.rho >= direct * (1 - 5e-3)
    assert float(scaled.rho) >= found.rho * (1 - 1e-5)


def test_time_that_runs_out_leaves_a_feasible_point() -> None:
    built, lam, rho = some_programme(np.random.default_rng(0), 6, 2)
    stopped = minimise(built, lam, rho, seconds=0.0)
    assert not stopped.converged
    assert np.isfinite(built.log_barrier(stopped.lam, stopped.rho))


def test_an_infeasible_start_is_refused() -> None:
    built, lam, rho = some_programme(np.random.default_rng(0), 3, 1)
    with pytest.raises(ValueError, match="strictly feasible"):
        minimise(built, -lam, rho)
