"""Multipliers are proposed for every kind of network, and the closed form for feed-forward ones is good."""

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
