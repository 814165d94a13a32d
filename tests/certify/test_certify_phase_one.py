"""Multipliers are found wherever a recipe or the search should find them, and only where they exist."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from certify_networks import KINDS, make, random_form

from equilip.certify import lipschitz, phase_one
from equilip.certify.system import from_form
from equilip.rounding import well_posedness_margin


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 5, 24])
def test_multipliers_are_found_for_every_kind(kind: str, n: int) -> None:
    system = from_form(random_form(np.random.default_rng(n), kind, min(n, 12), 4, 2), raw=False)
    found = phase_one.candidates(system, None)
    assert found
    assert all(well_posedness_margin(system.W.mid, lam) > 0 for lam in found)


@pytest.mark.parametrize("n", [4, 6, 20, 60])
def test_the_search_finds_hidden_multipliers(n: int) -> None:
    rng = np.random.default_rng(n)
    lam = np.exp(3 * rng.standard_normal(n))
    V, S = rng.standard_normal((2, n, n)) / np.sqrt(n)
    W = np.eye(n) - (V.T @ V + 0.05 * np.eye(n) + 5 * (S - S.T)) / lam[:, None]
    assert phase_one.margin(W, np.ones(n)) < 0
    found = phase_one.search(W)
    assert found is not None
    assert well_posedness_margin(W, found) > 0


def test_the_search_finds_nothing_where_nothing_is() -> None:
    # Slopes S in [0, 1] with I - W S singular rule out multipliers.
    assert phase_one.search(np.array([[0.0, 2.0], [2.0, 0.0]])) is None
    rng = np.random.default_rng(0)
    for n in (5, 30):
        W = rng.standard_normal((n, n)) * 3 / np.sqrt(n)
        assert max(np.linalg.eigvals(W).real) > 1
        assert phase_one.search(W) is None


def test_comparison_multipliers_prove_contractions() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        n = int(rng.integers(1, 9))
        T, d = rng.standard_normal((n, n)), 3 * rng.standard_normal(n)
        W = 0.9 * np.eye(n) + np.exp(-d)[:, None] * T * np.exp(d) - np.diag(np.abs(T).sum(axis=1))
        lam = phase_one.comparison_multipliers(W)
        assert lam is not None
        assert well_posedness_margin(W, lam) > 0
    assert phase_one.comparison_multipliers(np.array([[0.0, 1.5], [1.5, 0.0]])) is None


def test_layers_are_recognised() -> None:
    W = np.zeros((4, 4))
    W[2, 0] = W[3, 2] = 1.0
    layers = phase_one.layers_of(W)
    assert layers is not None
    assert [list(layer) for layer in layers] == [[0, 1], [2], [3]]
    W[0, 3] = 1.0
    assert phase_one.layers_of(W) is None


def test_the_closed_form_beats_the_product_of_norms() -> None:
    rng = np.random.default_rng(2)
    sizes = (6, 10, 10, 10, 3)
    weights = [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in pairwise(sizes)]
    W = np.zeros((30, 30))
    W[10:20, :10], W[20:, 10:20] = weights[1], weights[2]
    U, C = np.zeros((30, 6)), np.zeros((3, 30))
    U[:10], C[:, 20:] = weights[0], weights[3]
    bound = lipschitz(make(W, U, C), method="scale")
    assert bound.value < np.prod([np.linalg.norm(w, 2) for w in weights])
