"""No attack flips a certified sample inside its radius; outside, attacks do succeed, so they are no strawmen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from certify_networks import SHARED, lben, published, tensor
from torch import Tensor

from equilip import data
from equilip.certify import lipschitz, radius, rows
from equilip.form import Form, Standardisation
from equilip.solve import Settings, equilibrium

NAMES = [f"mnist_fc_lip{gamma}_w80" for gamma in ("0.2", "0.5", "1.0", "5.0")]
NAMES += ["mnist_mon_w80", "mnist_ode_w80", "mnist_lmt_c10_w80", "mnist_lmt_c100_w80"]


def margins(form: Form, x: Tensor, label: Tensor) -> Tensor:
    """y_label - y_j, (batch, q), infinite at the label; solved far more finely than any margin."""
    y = equilibrium(form, x, Settings(tolerance=1e-11)).y
    return (y.gather(1, label[:, None]) - y).scatter(1, label[:, None], torch.inf)


def attack(form: Form, x: Tensor, label: Tensor, size: Tensor, *, steps: int, seed: int = 0) -> Tensor:
    """The smallest margin (batch,) that projected gradient descent finds within ``size`` (batch,) of each x.

    All samples at once. Three ways of descending in turn: against the smallest margin from the sample itself and from
    a random point, and against the margin of the class that was second at the start.
    """
    second = margins(form, x, label).argmin(dim=1, keepdim=True)
    smallest = torch.full_like(size, torch.inf)
    noise = torch.randn(x.shape, generator=torch.manual_seed(seed), dtype=x.dtype)
    starts = (torch.zeros_like(x), noise / noise.norm(dim=1, keepdim=True) * size[:, None], torch.zeros_like(x))
    for way, start in enumerate(starts):
        shift = start
        for step in range(steps + 1):
            point = (x + shift).requires_grad_()
            found = margins(form, point, label)
            smallest = torch.minimum(smallest, found.detach().amin(dim=1))
            aim = found.gather(1, second)[:, 0] if way == 2 else found.amin(dim=1)
            (gradient,) = torch.autograd.grad(aim.sum(), point)
            length = size * (2.0 if step < steps // 2 else 0.4)
            shift = shift - length[:, None] * gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-30)
            shift = shift * (size / shift.norm(dim=1).clamp(min=1e-300)).clamp(max=1.0)[:, None]
    return smallest


def assert_radii_hold(form: Form, x: Tensor, label: Tensor, *, method: str, steps: int) -> None:
    bound = lipschitz(form)
    found = radius(form, x, label, bound=bound, pairs=rows(form, bound, method=method))
    double = replace(form.to(torch.float64), lam=tensor(bound.multipliers))
    certified = found > 0
    assert certified.double().mean() > 0.5
    x, label, found = x[certified].double(), label[certified], found[certified]
    # The exact margin is positive everywhere inside; the solve is finer than 1e-9.
    assert (attack(double, x, label, found * (1 - 1e-12), steps=steps) > -1e-9).all()
    flipped = attack(double, x, label, 4 * found, steps=steps) < 0
    assert flipped.double().mean() > 0.5, "an attack that never succeeds shows nothing"


def images(count: int) -> tuple[Tensor, Tensor]:
    if not (SHARED / "data" / "mnist").is_dir():
        pytest.skip(f"the data {SHARED / 'data' / 'mnist'} is not here")
    mnist = data.load("mnist", SHARED / "data", limit=count)
    return mnist.test_x, mnist.test_y


@pytest.mark.parametrize("name", ["mnist_fc_lip1.0_w80", "mnist_mon_w80", "mnist_lmt_c10_w80"])
def test_no_attack_flips_a_certified_image(name: str) -> None:
    assert_radii_hold(published(name), *images(200), method="scale", steps=10)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_no_attack_flips_a_certified_image_however_long(name: str, dtype: torch.dtype) -> None:
    assert_radii_hold(published(name).to(dtype), *images(300), method="sdp", steps=40)


@pytest.mark.parametrize("method", ["scale", "sdp"])
def test_no_attack_flips_a_random_network(method: str) -> None:
    rng = np.random.default_rng(7)
    form = lben(rng, 20, 12, 5, gamma=2.0)
    std = tensor(np.exp(0.5 * rng.standard_normal(12)))
    form = replace(
        form,
        b=tensor(0.5 * rng.standard_normal(20)),
        standardisation=Standardisation(tensor(rng.standard_normal(12)), std),
    )
    x = torch.from_numpy(rng.standard_normal((300, 12)))
    label = equilibrium(form, x).y.argmax(dim=1)
    assert_radii_hold(form, x, label, method=method, steps=15)
