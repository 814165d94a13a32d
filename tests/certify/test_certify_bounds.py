"""Bounds: never beaten, never worse than what is known, and refused where nothing can be proved."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from certify_networks import (
    KINDS,
    lben,
    lmi,
    make,
    numbers,
    random_form,
    smallest_eigenvalue,
    some_activation,
    tensor,
    worst_slope,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.certify import Bound, lipschitz, prove, raw_bound, rows
from equilip.errors import IllPosedError, InputError, ProofError
from equilip.form import Form, Standardisation, affine, compose, dense, residual
from equilip.nn import LBEN

#: The exact sum of a proof's terms cannot be told from an eigenvalue in floating point.
TIE = 1e-11


def is_proof(form: Form, bound: Bound) -> bool:
    """The matrices of mathematics 9.3, as they stand there, are positive semidefinite up to rounding."""
    plain = smallest_eigenvalue(lmi(form, bound.multipliers, bound.value))
    raw = smallest_eigenvalue(lmi(form, bound.multipliers_raw, bound.value_raw, raw=True))
    return plain > -TIE and raw > -TIE and (bound.multipliers > 0).all() and (bound.multipliers_raw > 0).all()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 8),
    p=st.integers(1, 10),
    q=st.integers(1, 5),
    activation=st.integers(0, 5),
    scale=st.sampled_from([1e-6, 0.1, 1.0, 1e5]),
    units=st.sampled_from(["none", "uniform", "different"]),
    single=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_slope_beats_a_bound(
    kind: str, n: int, p: int, q: int, activation: int, scale: float, units: str, single: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    form = replace(random_form(rng, kind, n, p, q, scale), activation=some_activation(activation))
    if units != "none":
        std = np.full(p, 0.3081) if units == "uniform" else np.exp(rng.standard_normal(p))
        form = replace(form, standardisation=Standardisation(tensor(rng.standard_normal(p)), tensor(std)))
    if single:
        form = form.to(torch.float32)
    try:
        bound = lipschitz(form)
    except (IllPosedError, ProofError):
        # Casting or a chance margin of 1e-7 may leave nothing to prove; an ordinary network must be certified.
        assert kind == "loops"
        return
    assert worst_slope(form) <= bound.value
    assert worst_slope(form, raw=True) <= bound.value_raw
    assert is_proof(form, bound)
    assert 1.0 <= bound.inflation < 1 + 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_better_methods_give_better_bounds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    declared = [0.2, 1.0, 5.0, 30.0][seed]
    form = lben(rng, 12, 7, 4, declared)
    sdp, scale = lipschitz(form, method="sdp"), lipschitz(form, method="scale")
    assert sdp.value <= scale.value <= declared
    assert sdp.converged
    assert sdp.method == "sdp"
    assert not scale.converged
    assert scale.method == "scale"
    assert scale.note
    given = prove(form, declared)
    assert given.value == declared
    assert is_proof(form, given)


def test_a_linear_network_gets_its_norm() -> None:
    rng = np.random.default_rng(0)
    D = rng.standard_normal((3, 5))
    bound = lipschitz(affine(tensor(D), tensor(np.zeros(3))))
    norm = np.linalg.norm(D, 2)
    assert norm <= bound.value <= norm * (1 + 1e-7)
    assert bound.multipliers.shape == (0,)


def test_one_neuron_gets_its_exact_slope() -> None:
    # z = relu(w z + u x): the slope of y is c u / (1 - w).
    for w in (-3.0, 0.0, 0.9, 1 - 1e-6):
        bound = lipschitz(make(np.array([[w]]), np.array([[2.0]]), np.array([[-3.0]])))
        true = 6.0 / min(1.0, 1.0 - w) if w > 0 else 6.0 / (1.0 - w)
        assert true <= bound.value <= true * (1 + 1e-5)


def test_dead_rows_and_constant_outputs() -> None:
    rng = np.random.default_rng(1)
    W = 0.2 * rng.standard_normal((5, 5)) / 5
    W[2] = 0.0
    U, C = rng.standard_normal((5, 3)), rng.standard_normal((2, 5))
    U[2] = 0.0
    form = make(W, U, C)
    assert worst_slope(form) <= lipschitz(form).value
    for blind in (make(W, U, 0 * C), make(W, 0 * U, C), make(0 * W, 0 * U, 0 * C)):
        bound = lipschitz(blind)
        assert 0.0 < bound.value < 1e-6
        assert is_proof(blind, bound) or bound.value < 1e-20


def test_more_outputs_than_neurons() -> None:
    form = random_form(np.random.default_rng(2), "monotone", 4, 3, 40)
    form = make(*numbers(form)[:3])
    bound = lipschitz(form)
    assert bound.converged
    assert worst_slope(form) <= bound.value
    assert is_proof(form, bound)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("reads", "feed"), [(1e-170, 1e-30), (1e-165, 1e-20), (1e-120, 1.0)])
def test_outputs_that_ignore_neurons_which_hardly_read(reads: float, feed: float) -> None:
    eye = torch.eye(2, dtype=torch.float64)
    form = dense(0 * eye, reads * eye, torch.zeros(2).double(), 0 * eye, torch.zeros(2).double(), D=feed * eye)
    found = lipschitz(form)
    assert feed <= found.value <= feed * (1 + 1e-7)
    assert (rows(form, found).outputs <= feed * (1 + 1e-7)).all()


def test_multipliers_of_very_different_sizes() -> None:
    form = lben(np.random.default_rng(3), 8, 5, 3, spread=8.0)
    assert float(form.lam.max() / form.lam.min()) > 1e6  # type: ignore[union-attr]
    for own in (form, form.to(torch.float32)):
        bound = lipschitz(own)
        assert worst_slope(own) <= bound.value <= 1.0 + 1e-4
        assert is_proof(own, bound)


def test_stacks_of_one_lipschitz_layers_are_certified_at_one() -> None:
    # SLL blocks x - 2 W' T^-1 relu(W x + b): their matrix is singular at gamma = 1.
    rng = np.random.default_rng(4)

    def block() -> Form:
        weight, q = rng.standard_normal((9, 6)), np.exp(0.3 * rng.standard_normal(9))
        T = (np.abs(weight @ weight.T) * q[None] / q[:, None]).sum(axis=1)
        return residual(make(np.zeros((9, 9)), weight, -2 * weight.T / T))

    stack = block()
    for _ in range(3):
        stack = compose(stack, block())
    bound = lipschitz(stack)
    assert 1.0 - 1e-9 <= bound.value <= 1.0 + 1e-9
    assert bound.inflation < 1 + 1e-9


def test_a_cast_to_float32_is_proved_afresh_or_refused() -> None:
    form = lben(np.random.default_rng(5), 10, 6, 3, 1.0, epsilon=1e-9)
    tight = prove(form, 1.0)
    assert tight.value == 1.0
    # Without slack, rounding the weights breaks the declared bound now and then: it must be refused, not believed.
    refused = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        n = 6
        lam = np.exp(rng.standard_normal(n))
        U, C, S = rng.standard_normal((n, 4)), rng.standard_normal((3, n)), rng.standard_normal((n, n))
        W = (
            np.eye(n)
            - ((C.T @ C + (lam[:, None] * U) @ (lam[:, None] * U).T) / 2 + S - S.T + 1e-12 * np.eye(n)) / lam[:, None]
        )
        single = make(W, U, C, lam=lam).to(torch.float32)
        try:
            prove(single, 1.0)
        except ProofError:
            refused += 1
            assert smallest_eigenvalue(lmi(single, lam, 1.0)) < 1e-7
    assert refused > 0


def test_networks_without_multipliers_are_refused() -> None:
    with pytest.raises(IllPosedError, match="no multipliers"):
        lipschitz(make(np.array([[1.0]]), np.ones((1, 1)), np.ones((1, 1))))
    with pytest.raises(IllPosedError):
        lipschitz(make(3 * np.eye(4), np.ones((4, 1)), np.ones((1, 4))))
    rng = np.random.default_rng(6)
    with pytest.raises(IllPosedError):
        lipschitz(make(2 * rng.standard_normal((30, 30)), np.ones((30, 1)), np.ones((1, 30))))


def test_bad_arguments_are_named() -> None:
    form = lben(np.random.default_rng(7), 3, 2, 2)
    with pytest.raises(InputError, match="bogus"):
        lipschitz(form, method="bogus")
    with pytest.raises(InputError, match="int"):
        lipschitz(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="-1"):
        prove(form, -1.0)
    with pytest.raises(ProofError, match=r"0\.001"):
        prove(form, 0.001)
    W = form.W.dense().clone()
    W[0, 0] = torch.nan
    with pytest.raises(InputError, match="W holds NaN"):
        lipschitz(make(W.numpy(), form.U.dense().numpy(), form.C.dense().numpy()))


def test_a_model_is_as_good_as_its_form() -> None:
    form = lben(np.random.default_rng(8), 4, 3, 2)

    class Model:
        def form(self) -> Form:
            return form

    assert lipschitz(Model()).value == lipschitz(form).value


def test_no_time_still_gives_a_proof() -> None:
    form = lben(np.random.default_rng(9), 20, 8, 4)
    bound = lipschitz(form, seconds=0.0)
    assert not bound.converged
    assert bound.note
    assert worst_slope(form) <= bound.value <= 1.0
    assert is_proof(form, bound)


@given(st.floats(1e-200, 1e200), st.floats(1e-12, 1e12))
def test_raw_bounds_are_never_too_small(gamma: float, std: float) -> None:
    units = Standardisation(torch.zeros(1, dtype=torch.float64), torch.tensor([std], dtype=torch.float64))
    network = LBEN(1, 1, 1, 1.0, standardisation=units, dtype=torch.float64).form()
    assert network.standardisation is not None
    stored = float(network.standardisation.std)
    assert Fraction(raw_bound(network, gamma)) * Fraction(stored) >= Fraction(gamma)
