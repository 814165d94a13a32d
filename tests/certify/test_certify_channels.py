"""Convolutional contracting networks: boxes, slopes and margins are those of their matrices, or wider, not narrower."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.activations import Activation, LeakyReLU, ReLU, Sigmoid
from equilip.attack import largest_slope_linf
from equilip.certify import (
    certified_linf,
    check_guarantee,
    contraction_bounds,
    linf_margins,
    linf_pairs,
    lipschitz,
    lipschitz_linf,
    reachable,
)
from equilip.checker import check
from equilip.errors import IllPosedError, InputError, ProofError
from equilip.form import Form, Standardisation, dense
from equilip.nn import NEMONConv
from equilip.operators import Circular, Padding, Zeros
from equilip.solve import Newton, Prover, Settings, equilibrium

F64 = torch.float64


def network(
    seed: int, m: float, scale: float, spread: float, padding: Padding, stride: int, pool: int,
    sigma: Activation, dtype: torch.dtype,
) -> Form:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    units = Standardisation(*(torch.rand(50, generator=generator, dtype=F64).to(dtype) + 0.2 for _ in range(2)))
    model = NEMONConv(
        (2, 5, 5), 3, 4, m=m, padding=padding, stride=stride, pool=pool, activation=sigma, standardisation=units,
        dtype=dtype, generator=generator,
    )  # fmt: skip
    with torch.no_grad():
        model.K.mul_(scale)
        model.d.copy_(spread * torch.randn(3, generator=generator, dtype=F64))
    return model.form().detach()


def as_matrices(form: Form) -> Form:
    """The same network in float64 with matrices for its maps."""
    form = form.to(F64)
    W, U, C = (getattr(form, name).dense() for name in "WUC")
    return dense(W, U, form.b, C, form.c, activation=form.activation, standardisation=form.standardisation)


KINDS = {
    "seed": st.integers(0, 100_000),
    "m": st.sampled_from([-2.0, 0.0, 0.9, 0.9999]),
    "scale": st.sampled_from([1e-3, 1.0, 20.0]),
    "spread": st.sampled_from([0.0, 1.0, 5.0]),
    "padding": st.sampled_from([Zeros(0), Circular(0)]),
    "layout": st.sampled_from([(1, 1), (1, 5), (2, 3)]),
    "sigma": st.sampled_from([ReLU(), LeakyReLU(0.2), Sigmoid()]),
    "single": st.booleans(),
}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(**KINDS, width=st.sampled_from([0.0, 1e-6, 0.1, 10.0]), limit=st.sampled_from([0, 2, 6, 200]))
def test_no_input_leaves_its_box(
    seed: int, m: float, scale: float, spread: float, padding: Padding, layout: tuple[int, int], sigma: Activation,
    single: bool, width: float, limit: int,
) -> None:  # fmt: skip
    form = network(seed, m, scale, spread, padding, *layout, sigma, torch.float32 if single else F64)
    generator = torch.Generator().manual_seed(seed)
    lower = torch.rand(1, 50, generator=generator, dtype=F64)
    upper = lower + width * torch.rand(1, 50, generator=generator, dtype=F64)
    try:
        found = reachable(form, lower, upper, limit=limit)
    except IllPosedError:
        assert single or m > 0.999  # rounding has eaten the slack of the construction
        return
    share = torch.rand(24, 50, generator=generator, dtype=F64)
    share[:12] = share[:12].round()
    exact = as_matrices(form)
    x = (lower + share * (upper - lower)).clamp(lower, upper)
    solved = equilibrium(exact, x, Settings(solver=Newton(), tolerance=1e-13, raise_on_failure=False))
    slack = Prover(form).error_by_neuron(x, solved.z)
    assert bool((solved.z >= found.z_lower - slack).all() and (solved.z <= found.z_upper + slack).all())
    doubt = slack @ exact.C.dense().abs().mT + 1e-12 * (1 + solved.y.abs())
    assert bool((solved.y >= found.lower - doubt).all() and (solved.y <= found.upper + doubt).all())
    if limit == 200 and m <= 0.0:
        theirs = reachable(exact, lower, upper)
        torch.testing.assert_close(found.lower, theirs.lower, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(found.upper, theirs.upper, rtol=1e-6, atol=1e-8)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(**KINDS)
def test_no_slope_is_above_the_bound(
    seed: int, m: float, scale: float, spread: float, padding: Padding, layout: tuple[int, int], sigma: Activation,
    single: bool,
) -> None:  # fmt: skip
    form = network(seed, m, scale, spread, padding, *layout, sigma, torch.float32 if single else F64)
    try:
        bound = lipschitz_linf(form)
    except ProofError:
        assert single or m > 0.999
        return
    exact = as_matrices(form)
    formulas = contraction_bounds(form)
    assert formulas is not None
    assert bound.value <= formulas.by_row * (1 + 1e-6) <= formulas.paper * (1 + 2e-6)
    # The matrices' own comparison knows the border and is at least as tight, with the same rows in the middle.
    assert lipschitz_linf(exact, method="comparison").value <= bound.value * (1 + 1e-6)
    rng = np.random.default_rng(seed)
    W, U, C = (getattr(exact, name).dense().numpy() for name in "WUC")
    top = 0.25 if isinstance(sigma, Sigmoid) else 1.0
    std = form.standardisation.std.double().numpy() if form.standardisation is not None else 1.0
    between = linf_pairs(form)
    for _ in range(6):
        d = top * (rng.random(len(W)) < rng.choice([0.3, 0.9]))[:, None]
        J = C @ np.linalg.solve(np.eye(len(W)) - d * W, d * U)
        assert np.abs(J).sum(1).max() <= bound.value * (1 + 1e-9)
        assert np.abs(J / std).sum(1).max() <= bound.value_raw * (1 + 1e-9)
        pairs = np.abs((J[:, None] - J[None, :]) / std).sum(2)
        assert (pairs <= between * (1 + 1e-9) + 1e-300).all()


def test_certified_samples_and_their_certificate(tmp_path: Path) -> None:
    form = network(3, 0.5, 3.0, 0.5, Zeros(0), 2, 3, ReLU(), torch.float32)
    form.save(tmp_path / "form.safetensors")
    bound = lipschitz_linf(form)
    bound.save(tmp_path / "certificate.json")
    verdict = check(tmp_path / "certificate.json")
    assert verdict.valid, verdict.reason
    assert [(claim.norm, claim.bound) for claim in verdict.claims] == [("linf", bound.value), ("linf", bound.value_raw)]
    assert not largest_slope_linf(form, starts=4, rounds=2).contradicts(bound)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 50, generator=generator, dtype=F64)
    label = equilibrium(as_matrices(form), x).y.argmax(1)
    margins = linf_margins(form, x, label)
    assert bool((margins.by_slope > 0).any())
    for eps in (1e-3, 0.01, 0.1):
        found = certified_linf(form, x, label, eps, limits=(0.0, 1.0), margins=margins)
        for _ in range(20):
            other = (x + eps * (2 * torch.rand(x.shape, generator=generator, dtype=F64) - 1).sign()).clamp(0, 1)
            wrong = equilibrium(as_matrices(form), other, Settings(tolerance=1e-10)).y.argmax(1) != label
            assert not bool((wrong & found.certified).any())


def test_what_is_not_proved_is_refused() -> None:
    model = NEMONConv((1, 4, 4), 2, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="--norm linf"):
        lipschitz(model)
    form = model.form().detach()
    check_guarantee(form, model.guarantee())
    # A W that does not contract: what its construction promises was lost on the way.
    broken = Form(form.W.rebuild((form.W.tensors[0] * -4,)), form.U, form.b, form.C, form.D, form.c, form.activation)
    with pytest.raises(ProofError):
        lipschitz_linf(broken)
    with pytest.raises(IllPosedError):
        reachable(broken, torch.zeros(1, 16), torch.ones(1, 16))
    with pytest.raises(ProofError):
        check_guarantee(broken, model.guarantee())
