"""Linear networks, where the smallest perturbation is known exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from attack_networks import distances, equilibrium_form, linear, randn, standardised

from equilip.activations import Identity
from equilip.attack import L2, PGD, Attack, Box, CrossEntropy, FastGradient, Linf, Margin, Minimal, Norm
from equilip.certify import radius


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_minimal_attack_finds_the_exact_distance(classes: int) -> None:
    form, x = linear(classes), randn(3, 40, 6)
    label = form.output(x.new_zeros(40, 0), x).argmax(dim=1)
    exact = distances(form, x, label)
    found = Minimal(classes=classes)(form, x, label, [1.0])
    assert torch.allclose(found.size, exact, rtol=2e-4)
    assert (found.size >= exact).all(), "nothing shorter than the distance is adversarial"
    assert (found.size >= radius(form, x, label)).all()
    assert (found.predicted != label).all()


@pytest.mark.parametrize("loss", [CrossEntropy(), Margin()])
@pytest.mark.parametrize(("norm", "dual"), [(L2(), 2.0), (Linf(), 1.0)])
@pytest.mark.parametrize("kind", [FastGradient, PGD])
def test_two_classes_fall_exactly_at_their_distance(kind: type[Attack], norm: Norm, dual: float, loss: object) -> None:
    form, x = linear(2), randn(4, 30, 6)
    label = form.output(x.new_zeros(30, 0), x).argmax(dim=1)
    exact = distances(form, x, label, dual)
    eps = exact.median().item()
    found = kind(norm=norm, loss=loss)(form, x, label, [eps * 0.999, eps * 1.001])  # type: ignore[call-arg]
    for size, success in zip(found.eps, found.success, strict=True):
        clear = (exact / size - 1).abs() > 1e-4
        assert torch.equal(success[clear], (exact < size)[clear])


def test_units_are_raw_and_neurons_make_no_difference() -> None:
    # With the identity as its activation an equilibrium network is linear: y = J ξ + constant.
    form = standardised(replace(equilibrium_form(5, 6, 3, 1), activation=Identity()), 2)
    W, U, C = form.W.dense(), form.U.dense(), form.C.dense()
    assert form.standardisation is not None
    J = C @ torch.linalg.solve(torch.eye(5).double() - W, U) / form.standardisation.std
    constant = C @ torch.linalg.solve(torch.eye(5).double() - W, form.b) + form.c - J @ form.standardisation.mean
    flat = linear(3)
    flat = replace(flat, D=type(flat.D)(J), c=constant)  # type: ignore[call-arg]
    x = randn(6, 25, 6)
    label = flat.output(x.new_zeros(25, 0), x).argmax(dim=1)
    assert torch.allclose(Minimal()(form, x, label, [1.0]).size, distances(flat, x, label), rtol=1e-3)


def test_the_box_confines_and_costs() -> None:
    form = linear(3, 8)
    x = torch.rand(60, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[:, :4] = x[:, :4].round()
    label = form.output(x.new_zeros(60, 0), x).argmax(dim=1)
    free, boxed = Minimal()(form, x, label, [1.0]), Minimal(box=Box())(form, x, label, [1.0])
    assert (boxed.size >= free.size * (1 - 1e-3)).all()
    assert (boxed.size > 1.05 * free.size).any()
    for attack in (Minimal(box=Box()), PGD(box=Box()), FastGradient(box=Box()), PGD(norm=Linf(), box=Box())):
        found = attack(form, x, label, [0.2, 0.5])
        assert ((found.adversarial >= 0) & (found.adversarial <= 1)).all()
    # A ball attack with the box reaches what the minimal one found, and nothing reaches less.
    pgd = PGD(box=Box(), steps=40, restarts=4)(form, x, label, [float(boxed.size.median()) * 1.01])
    assert (pgd.success[0] | (boxed.size > pgd.eps[0])).float().mean() > 0.95
    assert not (pgd.success[0] & (boxed.size > pgd.eps[0] * 1.02)).any()
