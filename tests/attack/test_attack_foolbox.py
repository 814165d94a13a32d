"""Cross-check: foolbox's attacks find no more than ours (in the extra `crosscheck`)."""

from __future__ import annotations

import warnings

import pytest
import torch
from attack_networks import digits

from equilip.attack import L2, PGD, Box, FastGradient, Linf, Minimal, Norm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    foolbox = pytest.importorskip("foolbox")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind", ["lben", "feedforward"])
@pytest.mark.parametrize("norm", [L2(), Linf()])
def test_pgd_finds_as_much(kind: str, norm: Norm) -> None:
    model, x, label = digits(kind)
    eps = (0.2, 0.5, 1.0) if norm == L2() else (0.02, 0.06, 0.12)
    theirs_type = foolbox.attacks.L2PGD if norm == L2() else foolbox.attacks.LinfPGD
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    torch.manual_seed(0)
    _, _, success = theirs_type(steps=40)(wrapped, x, label, epsilons=list(eps))
    theirs = 1 - success.double().mean(dim=1)
    ours = PGD(norm=norm, box=Box(), restarts=2)(model, x, label, eps)
    assert (torch.tensor(ours.accuracy) <= theirs + 0.01).all(), (ours.accuracy, theirs)


def test_the_minimal_attack_finds_perturbations_as_small() -> None:
    model, x, label = digits("lben")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, clipped, success = foolbox.attacks.DDNAttack(steps=60)(wrapped, x, label, epsilons=None)
    theirs = torch.where(success, (clipped - x).norm(dim=1), torch.inf).double()
    ours = Minimal(box=Box())(model, x, label, [1.0]).size
    standing = ours > 0
    assert float((ours / theirs)[standing].median()) <= 1.01
    assert float((ours / theirs)[standing].mean()) <= 1.01


def test_the_fast_gradient_agrees() -> None:
    model, x, label = digits("feedforward")
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, _, success = foolbox.attacks.L2FastGradientAttack()(wrapped, x, label, epsilons=[0.3, 0.8])
    ours = FastGradient(box=Box())(model, x, label, [0.3, 0.8])
    # Ours spends what the box cuts off elsewhere, so it finds at least as much, up to the loss's direction.
    assert (ours.success.double().mean(dim=1) >= success.double().mean(dim=1) - 0.02).all()
