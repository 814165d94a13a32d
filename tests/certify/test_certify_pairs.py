"""Bounds of outputs and of their differences: proved one by one, never above what the whole network gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from certify_networks import KINDS, lben, make, random_form, some_activation, tensor, worst_slope
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.certify import lipschitz, rows
from equilip.errors import InputError
from equilip.form import Standardisation


@settings(deadline=None, derandomize=True, max_examples=20)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 7),
    q=st.integers(1, 4),
    activation=st.integers(0, 4),
    different=st.booleans(),
    method=st.sampled_from(["scale", "sdp"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_row_beats_its_bound(
    kind: str, n: int, q: int, activation: int, different: bool, method: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    form = replace(random_form(rng, kind, n, 5, q), activation=some_activation(activation))
    std = np.exp(rng.standard_normal(5)) if different else np.full(5, 0.25)
    form = replace(form, standardisation=Standardisation(tensor(np.zeros(5)), tensor(std)))
    bound = lipschitz(form)
    found = rows(form, bound, method=method)
    eye = np.eye(q)
    for i in range(q):
        assert worst_slope(form, row=eye[i : i + 1]) <= found.outputs[i] <= bound.value
        assert worst_slope(form, row=eye[i : i + 1], raw=True) <= found.outputs_raw[i] <= bound.value_raw
        for j in range(i):
            difference = eye[i : i + 1] - eye[j : j + 1]
            assert worst_slope(form, row=difference) <= found.pairs[i, j]
            assert worst_slope(form, row=difference, raw=True) <= found.pairs_raw[i, j]
    assert (found.pairs <= np.sqrt(2) * bound.value * (1 + 1e-15)).all()
    assert (found.pairs_raw <= np.sqrt(2) * bound.value_raw * (1 + 1e-15)).all()
    assert np.array_equal(found.pairs, found.pairs.T)
    assert not np.diagonal(found.pairs).any()


def test_a_search_per_row_is_no_worse() -> None:
    form = lben(np.random.default_rng(0), 15, 8, 4)
    bound = lipschitz(form)
    scale, sdp = rows(form, bound), rows(form, bound, method="sdp")
    assert (sdp.pairs <= scale.pairs).all()
    assert (sdp.outputs <= scale.outputs).all()
    assert sdp.pairs.sum() < 0.999 * scale.pairs.sum()


def test_rows_of_a_network_without_neurons_are_the_norms_of_its_rows() -> None:
    D = np.random.default_rng(2).standard_normal((3, 4))
    form = make(np.zeros((0, 0)), np.zeros((0, 4)), np.zeros((3, 0)), D)
    for method in ("scale", "sdp"):
        found = rows(form, method=method)
        assert found.outputs == pytest.approx(np.linalg.norm(D, axis=1), rel=1e-6)
        assert (found.outputs >= np.linalg.norm(D, axis=1)).all()
        assert found.pairs[0, 1] == pytest.approx(np.linalg.norm(D[0] - D[1]), rel=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-200])
def test_rows_that_hardly_read_the_neurons(size: float) -> None:
    rng = np.random.default_rng(3)
    W, U, C, D = 0.1 * rng.standard_normal((4, 4)), *(rng.standard_normal(s) for s in ((4, 3), (3, 4), (3, 3)))
    C[0] *= size
    form = make(W, U, C, D)
    scale, sdp = rows(form), rows(form, method="sdp")
    assert scale.outputs[0] == pytest.approx(np.linalg.norm(D[0]), rel=1e-6)
    assert sdp.outputs[0] == pytest.approx(np.linalg.norm(D[0]), rel=1e-6)
    assert (sdp.outputs <= scale.outputs).all()
    assert sdp.outputs[1:].sum() < 0.99 * scale.outputs[1:].sum(), "the other rows are searched all the same"


def test_rows_of_another_network_are_refused() -> None:
    rng = np.random.default_rng(1)
    form, other = lben(rng, 5, 3, 2), lben(rng, 5, 3, 2)
    with pytest.raises(InputError, match="another form"):
        rows(form, lipschitz(other))
    with pytest.raises(InputError, match="bogus"):
        rows(form, method="bogus")
