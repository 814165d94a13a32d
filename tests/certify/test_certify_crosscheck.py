"""The semidefinite programme against other people's modelling language and solver (the extra ``crosscheck``)."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from certify_networks import KINDS, numbers, random_form, some_activation, tensor

from equilip.certify import lipschitz
from equilip.form import Form, Standardisation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    cvxpy = pytest.importorskip("cvxpy", reason="cvxpy is not installed: pip install -e '.[crosscheck]'")
    pytest.importorskip("clarabel", reason="clarabel is not installed: pip install -e '.[crosscheck]'")


def optimum(form: Form, *, raw: bool = False) -> float:
    """The best bound that diagonal multipliers prove, from the matrix of mathematics 9.3 as it stands there."""
    W, U, C, D, lower, upper = numbers(form)
    n, p = U.shape
    std = form.standardisation.std.double().numpy() if raw and form.standardisation is not None else np.ones(p)
    N, E, Y = np.hstack([W, U]), np.hstack([np.eye(n), np.zeros((n, p))]), np.hstack([C, D])
    lam, rho = cvxpy.Variable(n, nonneg=True), cvxpy.Variable(nonneg=True)
    corner = np.diag(np.concatenate([np.zeros(n), std**2]))
    cross = E.T @ cvxpy.diag(cvxpy.multiply(lam, lower + upper)) @ N
    matrix = rho * corner - Y.T @ Y + 2 * E.T @ cvxpy.diag(lam) @ E - cross - cross.T
    matrix = matrix + 2 * N.T @ cvxpy.diag(cvxpy.multiply(lam, lower * upper)) @ N
    problem = cvxpy.Problem(cvxpy.Minimize(rho), [0.5 * (matrix + matrix.T) >> 0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(solver=cvxpy.CLARABEL)
    assert problem.status == cvxpy.OPTIMAL
    return float(np.sqrt(rho.value))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [2, 7, 20])
def test_the_optimum_is_the_one_that_others_find(kind: str, n: int) -> None:
    form = random_form(np.random.default_rng(n), kind, n, 4, 3)
    found = lipschitz(form)
    assert found.converged
    assert found.value == pytest.approx(optimum(form), rel=2e-5)


@pytest.mark.parametrize("activation", range(5))
def test_other_slopes_and_raw_inputs(activation: int) -> None:
    rng = np.random.default_rng(activation)
    form = replace(random_form(rng, "lben", 9, 4, 3), activation=some_activation(activation))
    form = replace(form, standardisation=Standardisation(tensor(np.zeros(4)), tensor(np.exp(rng.standard_normal(4)))))
    found = lipschitz(form)
    assert found.value == pytest.approx(optimum(form), rel=2e-5)
    assert found.value_raw == pytest.approx(optimum(form, raw=True), rel=2e-5)
