"""The published networks: bounds as small as a prototype of the semidefinite programme found, and never beaten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from certify_networks import published

from equilip.certify import lipschitz, prove, rows
from equilip.checker import check
from equilip.errors import IllPosedError, ProofError
from equilip.form import Form

#: name: (declared bound, the prototype's bound, the largest slope anyone found).
KNOWN = {
    "mnist_fc_lip0.5_w80": (0.5, 0.4821, 0.458),
    "mnist_fc_lip1.0_w80": (1.0, 0.9158, 0.865),
    "mnist_fc_lip5.0_w80": (5.0, 3.1226, 2.912),
    "mnist_mon_w80": (None, 8.7524, 7.752),
    "mnist_ode_w80": (None, 11.7637, 9.800),
    "mnist_lmt_c10_w80": (None, 33.96, 32.42),
    "mnist_lmt_c100_w80": (None, 25.50, 24.87),
}


def steepest(form: Form) -> float:
    """The largest slope that ascent finds over slopes in [0, 1]^n, from a few random starts, in float64."""
    W, U, C = (getattr(form, name).dense().double() for name in ("W", "U", "C"))
    n = W.shape[0]
    raw = torch.randn(8, n, generator=torch.manual_seed(0), dtype=torch.float64).requires_grad_()
    step = torch.optim.Adam([raw], lr=0.3)
    best = 0.0
    for _ in range(60):
        slopes = raw.sigmoid()
        inner = torch.linalg.solve(torch.eye(n).double() - W * slopes[:, None, :], U.expand(8, *U.shape))
        jacobian = C @ (slopes[:, :, None] * inner)
        norms = torch.linalg.matrix_norm(jacobian @ jacobian.mT, 2)
        best = max(best, float(norms.detach().max()) ** 0.5)
        step.zero_grad()
        (-norms.sum()).backward()
        step.step()
    return best


@pytest.mark.parametrize("name", KNOWN)
def test_bounds_of_published_networks(name: str, tmp_path: Path) -> None:
    form = published(name)
    declared, prototype, found = KNOWN[name]
    bound = lipschitz(form)
    assert bound.converged
    assert found < bound.value <= prototype * (1 + 1e-3)
    assert steepest(form) <= bound.value
    assert bound.inflation < 1 + 1e-9
    assert bound.seconds < 10
    form.save(tmp_path / "form.safetensors")
    bound.save(tmp_path / "certificate.json")
    assert check(tmp_path / "certificate.json").valid
    if declared is not None:
        assert bound.value <= lipschitz(form, method="scale").value <= declared
        assert prove(form, declared).value == declared
        with pytest.raises(ProofError):
            prove(form, 0.9 * bound.value)
    pairs = rows(form, bound).pairs
    assert (pairs <= np.sqrt(2) * bound.value * (1 + 1e-15)).all()


def test_the_published_float32_numbers_are_certified_too() -> None:
    form = published("mnist_fc_lip1.0_w80").to(torch.float32)
    assert lipschitz(form).value == pytest.approx(0.9158, rel=1e-3)
    assert prove(form, 1.0).value == 1.0


def test_colour_images_have_their_own_units() -> None:
    form = published("cifar_fc_lip1.0_w80")
    bound = lipschitz(form)
    assert bound.value < 0.8
    # The proof with each channel's own std beats dividing by the smallest.
    assert bound.value_raw < bound.value / 0.2435


def test_the_unconstrained_network_gets_an_honest_none() -> None:
    with pytest.raises(IllPosedError, match="no multipliers"):
        lipschitz(published("mnist_uncon_w80"))
