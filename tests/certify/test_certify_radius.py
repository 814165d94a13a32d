"""Certified radii: no point inside changes the class, whatever the solver, the units and the number format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from certify_networks import lben, make, random_form, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.activations import Sigmoid
from equilip.certify import lipschitz, radius, rows
from equilip.certify.margins import margins
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.solve import Settings, equilibrium


def classifier(rng: np.random.Generator, kind: str, q: int = 4) -> Form:
    p, n = 5, 8
    form = lben(rng, n, p, q) if kind == "lben" else random_form(rng, kind, n, p, q)
    return replace(
        form,
        b=tensor(rng.standard_normal(n)),
        c=tensor(0.3 * rng.standard_normal(q)),
        standardisation=Standardisation(tensor(rng.standard_normal(p)), tensor(np.exp(0.5 * rng.standard_normal(p)))),
    )


@settings(deadline=None, derandomize=True, max_examples=15)
@given(
    kind=st.sampled_from(["lben", "monotone", "contraction", "layers"]),
    single=st.booleans(),
    local=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_nothing_inside_the_radius_changes_the_class(kind: str, single: bool, local: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    form = classifier(rng, kind)
    form = form.to(torch.float32) if single else form
    bound = lipschitz(form)
    double = replace(form.to(torch.float64), lam=tensor(bound.multipliers))
    x = torch.from_numpy(rng.standard_normal((6, 5))).to(form.dtype)
    label = equilibrium(double, x.double(), Settings(tolerance=1e-12)).y.argmax(dim=1)
    found = radius(form, x, label, bound=bound, local=local)
    assert (found >= radius(form, x, label, bound=bound)).all()
    # Attack: gradient steps on the margin, projected on the ball, for all samples at once.
    point = x.double() + 0.3 * found[:, None] * torch.randn(6, 5, generator=torch.manual_seed(0), dtype=torch.float64)
    for _ in range(12):
        point = point.detach().requires_grad_()
        y = equilibrium(double, point, Settings(tolerance=1e-10)).y
        others = y.clone().scatter(1, label[:, None], -torch.inf)
        margin = y.gather(1, label[:, None])[:, 0] - others.amax(dim=1)
        assert (margin[found > 0] >= -1e-7).all()
        (gradient,) = torch.autograd.grad(margin.sum(), point)
        point = point - found[:, None] * gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
        shift = point - x.double()
        point = x.double() + shift * (found / shift.norm(dim=1).clamp(min=1e-300)).clamp(max=1.0)[:, None]


def test_margins_are_lower_bounds_and_tight() -> None:
    form = classifier(np.random.default_rng(0), "lben")
    bound = lipschitz(form)
    x = torch.randn(50, 5, generator=torch.manual_seed(1), dtype=torch.float64)
    label = torch.arange(50) % 4
    found = margins(form, x, label, tensor(bound.multipliers))
    y = equilibrium(form, x, Settings(tolerance=1e-14, raise_on_failure=False)).y
    exact = y.gather(1, label[:, None]) - y
    others = torch.ones_like(y, dtype=torch.bool).scatter(1, label[:, None], False)
    assert (found.lower[others] <= exact[others] + 1e-13).all()
    assert (found.lower[others] >= exact[others] - 1e-5).all()
    assert torch.isinf(found.lower[~others]).all()


def test_multipliers_for_the_own_slopes_are_enough() -> None:
    # W = 2 has no equilibrium for some slopes in [0, 1], but always one for slopes in [0, 1/4].
    rng = np.random.default_rng(4)
    n, p = 6, 4
    U, C = rng.standard_normal((n, p)), rng.standard_normal((3, n))
    form = replace(make(2 * np.eye(n) + 0.1 * rng.standard_normal((n, n)), U, C), activation=Sigmoid())
    x = torch.randn(30, p, generator=torch.manual_seed(4), dtype=torch.float64)
    free = Settings(tolerance=1e-13, require_well_posed=False, raise_on_failure=False)
    y = equilibrium(form, x, free).y
    label = y.argmax(dim=1)
    found = margins(form, x, label, tensor(lipschitz(form).multipliers))
    assert float(found.error.max()) < 1e-5
    exact = y.gather(1, label[:, None]) - y
    assert (found.lower <= exact + 1e-12)[exact > 0].all()
    assert (radius(form, x, label) > 0).any()


def test_a_wrong_label_has_no_radius() -> None:
    form = classifier(np.random.default_rng(1), "lben")
    x = torch.randn(20, 5, generator=torch.manual_seed(2), dtype=torch.float64)
    y = equilibrium(form, x).y
    assert (radius(form, x, y.argmin(dim=1)) == 0).all()
    assert (radius(form, x, y.argmax(dim=1)) > 0).any()


def test_tighter_pairs_and_local_bounds_only_help() -> None:
    form = classifier(np.random.default_rng(2), "monotone")
    bound = lipschitz(form)
    x = torch.randn(8, 5, generator=torch.manual_seed(3), dtype=torch.float64)
    label = equilibrium(replace(form, lam=tensor(bound.multipliers)), x).y.argmax(dim=1)
    plain = radius(form, x, label, bound=bound)
    sdp = radius(form, x, label, bound=bound, pairs=rows(form, bound, method="sdp"))
    local = radius(form, x, label, bound=bound, local=True)
    assert (sdp >= plain).all()
    assert (local >= plain).all()
    assert float((local / plain).nanmean()) > 1.01


def test_unusable_inputs_are_named() -> None:
    rng = np.random.default_rng(3)
    form = classifier(rng, "lben")
    x, label = torch.zeros(2, 5, dtype=torch.float64), torch.tensor([0, 1])
    bad = x.clone()
    bad[0, 0] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        radius(form, bad, label)
    with pytest.raises(InputError, match="label 4"):
        radius(form, x, torch.tensor([0, 4]))
    with pytest.raises(InputError, match="label -1"):
        radius(form, x, torch.tensor([0, -1]))
    with pytest.raises(InputError, match="integer labels"):
        radius(form, x, torch.tensor([0.5, 1.0]))
    with pytest.raises(InputError, match="integer labels"):
        radius(form, x, torch.tensor([0]))
    with pytest.raises(InputError, match=r"\(batch, 5\)"):
        radius(form, x[:, :4], label)
    with pytest.raises(InputError, match="single output"):
        radius(lben(rng, 3, 5, 1), x, torch.tensor([0, 0]))
    other = classifier(rng, "lben")
    with pytest.raises(InputError, match="another form"):
        radius(form, x, label, bound=lipschitz(other))
    with pytest.raises(InputError, match="another form"):
        radius(form, x, label, pairs=rows(other))
    assert radius(form, x[:0], label[:0]).shape == (0,)
