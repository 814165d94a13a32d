"""Certified ℓ∞ accuracy: no attack inside the distance wins, and each method counts where it is the best."""

from __future__ import annotations

import math

import pytest
import torch

from equilip.attack.norms import Linf
from equilip.certify import certified_linf, linf_margins, linf_pairs
from equilip.errors import InputError
from equilip.form import Form
from equilip.nn import LBEN, NEMON, FeedForward
from equilip.solve import Settings, equilibrium

F64 = torch.float64


def trained(kind: str) -> tuple[Form, torch.Tensor, torch.Tensor]:
    """A network that tells four clouds of points apart."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.2, 0.2, 0.5], [0.8, 0.2, 0.5], [0.2, 0.8, 0.5], [0.8, 0.8, 0.5]], dtype=F64)
    label = torch.arange(160) % 4
    x = (centres[label] + 0.06 * torch.randn(160, 3, generator=generator, dtype=F64)).clamp(0, 1)
    model = {
        "nemon": NEMON(3, 16, 4, dtype=F64, generator=generator),
        "gated": NEMON(3, 16, 4, gate=0.1, dtype=F64, generator=generator),
        "lben": LBEN(3, 16, 4, gamma=10.0, dtype=F64, generator=generator),
        "feedforward": FeedForward(3, (16,), 4, dtype=F64, generator=generator),
    }[kind]
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(120):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), label).backward()
        optimiser.step()
    return model.form().detach(), x, label


def attacked(form: Form, x: torch.Tensor, label: torch.Tensor, eps: float) -> torch.Tensor:
    """(batch,) bool: whether signed gradient steps inside the ball and [0, 1] find another class."""
    norm = Linf()
    wins = torch.zeros(len(x), dtype=torch.bool)
    for restart in range(3):
        delta = norm.random(x, eps, torch.Generator().manual_seed(restart))
        for _ in range(12):
            other = (x + delta).clamp(0, 1).requires_grad_()
            y = equilibrium(form, other, Settings(tolerance=1e-10)).y
            wins |= y.detach().argmax(1) != label
            (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(y, label, reduction="sum"), other)
            delta = norm.project(other.detach() + 0.3 * eps * gradient.sign() - x, eps, None)
    return wins


@pytest.mark.parametrize("kind", ["nemon", "gated", "lben", "feedforward"])
def test_no_attack_beats_what_is_certified(kind: str) -> None:
    form, x, label = trained(kind)
    found_some = False
    margins = linf_margins(form, x, label)
    for eps in (0.02, 0.08, 0.15, 0.25):
        found = certified_linf(form, x, label, eps, limits=(0.0, 1.0), margins=margins)
        wins = attacked(form, x, label, eps)
        assert not bool((wins & found.certified).any())
        assert found.accuracy == float(found.certified.double().mean())
        found_some |= bool(found.certified.any())
        if kind == "lben":
            assert bool(found.by_slope.logical_or(found.by_l2).equal(found.certified)) or bool(found.by_box.any())
        else:
            assert bool(found.by_box.any()) or eps > 0.1
    assert found_some


def test_limits_make_boxes_smaller_and_never_certify_less() -> None:
    form, x, label = trained("nemon")
    margins = linf_margins(form, x, label)
    for eps in (0.1, 0.2):
        free = certified_linf(form, x, label, eps, margins=margins)
        kept = certified_linf(form, x, label, eps, limits=(0.0, 1.0), margins=margins)
        assert bool((free.by_box <= kept.by_box).all())


def test_pair_slopes_are_never_beaten() -> None:
    form, x, _ = trained("nemon")
    pairs = linf_pairs(form)
    generator = torch.Generator().manual_seed(1)
    other = x + 0.2 * (2 * torch.rand(x.shape, generator=generator, dtype=F64) - 1)
    dy = equilibrium(form, x, Settings(tolerance=1e-12)).y - equilibrium(form, other, Settings(tolerance=1e-12)).y
    slope = (dy[:, :, None] - dy[:, None, :]).abs() / (x - other).abs().amax(1)[:, None, None]
    assert bool((slope.amax(0) <= torch.from_numpy(pairs) + 1e-9).all())


def test_l2_radii_are_divided_by_the_root_of_the_inputs() -> None:
    form, x, label = trained("lben")
    from equilip.certify import radius

    by_l2 = linf_margins(form, x, label).by_l2
    expected = radius(form, x, label) / math.sqrt(3)
    assert bool((by_l2 <= expected).all())
    torch.testing.assert_close(by_l2, expected, rtol=1e-12, atol=0)


def test_bad_arguments() -> None:
    form, x, label = trained("feedforward")
    margins = linf_margins(form, x, label)
    with pytest.raises(InputError, match="at least 0"):
        certified_linf(form, x, label, -0.1, margins=margins)
    with pytest.raises(InputError, match="outside the limits"):
        certified_linf(form, x + 1, label, 0.1, limits=(0.0, 1.0), margins=margins)
    with pytest.raises(InputError, match="margins are of"):
        certified_linf(form, x[:5], label[:5], 0.1, margins=margins)
