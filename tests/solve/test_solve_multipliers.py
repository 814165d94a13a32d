"""Multipliers are found wherever a recipe or the search should find them, and only where they exist."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from equilip.operators import Dense
from equilip.rounding import well_posedness_margin
from equilip.solve import find_metric, multipliers
from equilip.solve.multipliers import comparison_multipliers, margin, search


def operator(W: np.ndarray, dtype: torch.dtype = torch.float64) -> Dense:
    return Dense(torch.from_numpy(W).to(dtype))


def hidden(n: int, spread: float = 1.0, swirl: float = 5.0) -> np.ndarray:
    """A W that is well-posed by multipliers that nobody is told, and by no simple recipe."""
    rng = np.random.default_rng(n)
    lam = np.exp(spread * rng.standard_normal(n))
    V, S = rng.standard_normal((2, n, n)) / np.sqrt(n)
    return np.eye(n) - (V.T @ V + 0.05 * np.eye(n) + swirl * (S - S.T)) / lam[:, None]


@pytest.mark.parametrize("n", [4, 6, 20, 60])
def test_the_search_finds_hidden_multipliers(n: int) -> None:
    W = hidden(n, spread=3.0)
    assert margin(W, np.ones(n)) < 0
    found = search(W)
    assert found is not None
    assert well_posedness_margin(W, found) > 0
    assert np.log(found).mean() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_metric_is_found_where_no_recipe_has_one(dtype: torch.dtype) -> None:
    W = hidden(40)
    assert comparison_multipliers(operator(W)) is None
    metric = find_metric(operator(W, dtype), None)
    assert metric is not None
    assert metric.lam.dtype == dtype
    assert metric.mu > 0
    assert well_posedness_margin(operator(W, dtype).dense().double().numpy(), metric.lam.double().numpy()) > 0


def test_known_multipliers_come_first_and_bad_ones_are_replaced() -> None:
    W = hidden(12)
    good = torch.from_numpy(search(W))
    metric = find_metric(operator(W), 3.0 * good)
    assert metric is not None
    assert torch.equal(metric.lam, 3.0 * good)
    metric = find_metric(operator(W), torch.ones(12, dtype=torch.float64))
    assert metric is not None
    assert metric.mu > 0


def test_the_search_finds_nothing_where_nothing_is() -> None:
    # Slopes S in [0, 1] with I - W S singular rule out multipliers.
    assert search(np.array([[0.0, 2.0], [2.0, 0.0]])) is None
    assert search(np.array([[1.0]])) is None
    assert search(np.array([[np.nan]])) is None
    rng = np.random.default_rng(0)
    for n in (5, 30):
        W = rng.standard_normal((n, n)) * 3 / np.sqrt(n)
        assert max(np.linalg.eigvals(W).real) > 1
        assert search(W) is None
        assert find_metric(operator(W), None) is None


def test_the_search_keeps_its_budget_and_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    W = hidden(100)
    start = time.monotonic()
    assert search(W, seconds=0.0) is None
    assert time.monotonic() - start < 5.0
    monkeypatch.setattr(multipliers, "SEARCH_NEURONS", 99)
    assert find_metric(operator(W), None) is None


def test_comparison_multipliers_prove_contractions() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        n = int(rng.integers(1, 9))
        T, d = rng.standard_normal((n, n)), 3 * rng.standard_normal(n)
        W = 0.9 * np.eye(n) + np.exp(-d)[:, None] * T * np.exp(d) - np.diag(np.abs(T).sum(axis=1))
        lam = comparison_multipliers(operator(W))
        assert lam is not None
        assert well_posedness_margin(W, lam.numpy()) > 0
    assert comparison_multipliers(operator(np.array([[0.0, 1.5], [1.5, 0.0]]))) is None


def test_no_neurons_are_well_posed() -> None:
    none = np.zeros((0, 0))
    assert search(none).size == 0
    metric = find_metric(operator(none), None)
    assert metric is not None
    assert metric.mu > 0
