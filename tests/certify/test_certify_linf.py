"""ℓ∞ slopes: no linear piece of any network beats a proved bound, and the bound is close to the steepest piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.activations import Activation, Identity, LeakyReLU, ReLU, Sigmoid, Tanh, slope_bounds
from equilip.attack import largest_slope_linf
from equilip.certify import contraction_bounds, lipschitz_linf
from equilip.certify.linf import TRACE_SIZE
from equilip.certify.system import array
from equilip.checker import check
from equilip.errors import IllPosedError, InputError
from equilip.form import Form, Standardisation, dense
from equilip.nn import LBEN, NEMON, FeedForward

F64 = torch.float64


def nemon(
    seed: int, n: int = 8, p: int = 5, m: float = 0.3, scale: float = 1.0, spread: float = 0.5, **rest: object
) -> NEMON:
    generator = torch.Generator().manual_seed(seed)
    model = NEMON(p, n, 3, m=m, generator=generator, **{"dtype": F64, **rest})  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in (model.T, model.U, model.C):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=F64))
        model.d.copy_(spread * torch.randn(n, generator=generator, dtype=F64))
    return model


def steepest(form: Form, seed: int = 0, patterns: int = 600, *, raw: bool = False) -> float:
    """The largest ℓ∞ slope of the linear maps that slopes within the activation's interval can make."""
    form = form.to(F64)
    rng = np.random.default_rng(seed)
    W, U, C, D = (array(getattr(form, name)) for name in "WUCD")
    if raw and form.standardisation is not None:
        U, D = U / array(form.standardisation.std), D / array(form.standardisation.std)
    low, high = (t.numpy() for t in slope_bounds(form.activation, form.hidden_size))
    best = 0.0
    for _ in range(patterns):
        chosen = rng.random(low.size) < rng.choice([0.2, 0.5, 0.8, 0.95])
        d = np.where(chosen, high, low) if rng.random() < 0.7 else rng.uniform(low, high)
        for _ in range(2):
            J = C @ np.linalg.solve(np.eye(low.size) - d[:, None] * W, d[:, None] * U) + D
            row = int(np.abs(J).sum(1).argmax())
            best = max(best, float(np.abs(J).sum(1).max()))
            # Flip every neuron whose slope lowers the steepest output's slope, to first order.
            G = np.linalg.solve(np.eye(low.size) - W.T * d[None, :], C[row])
            inner = W @ np.linalg.solve(np.eye(low.size) - d[:, None] * W, d[:, None] * U) + U
            d = np.where(G * (inner @ np.sign(J[row])) > 0, high, low)
    return best


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    m=st.sampled_from([-2.0, 0.0, 0.9, 0.99999]),
    scale=st.sampled_from([1e-3, 1.0, 10.0]),
    spread=st.sampled_from([0.0, 1.0, 6.0]),
    sigma=st.sampled_from([ReLU(), LeakyReLU(0.2), Sigmoid(), Tanh(), Identity()]),
    single=st.booleans(),
    method=st.sampled_from(["auto", "scale", "comparison"]),
)
def test_no_piece_is_steeper_than_the_bound(
    seed: int, m: float, scale: float, spread: float, sigma: Activation, single: bool, method: str
) -> None:
    dtype = torch.float32 if single else F64
    std = torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype) + 0.2
    form = nemon(seed, n=6, p=4, m=m, scale=scale, spread=spread, activation=sigma, dtype=dtype,
                 standardisation=Standardisation(torch.zeros_like(std), std)).form().detach()  # fmt: skip
    try:
        bound = lipschitz_linf(form, method=method)
    except IllPosedError:
        assert single or m > 0.999  # rounding has eaten the slack of the construction
        return
    assert steepest(form, seed, 60) <= bound.value * (1 + 1e-9)
    assert steepest(form, seed, 60, raw=True) <= bound.value_raw * (1 + 1e-9)
    assert bound.value <= bound.by_comparison
    formulas = contraction_bounds(form)
    if formulas is not None:
        assert bound.value <= formulas.by_row * (1 + 1e-6) <= formulas.paper * (1 + 2e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_is_close_to_the_steepest_slopes(seed: int) -> None:
    """The four random networks on which the paper's formula is ten times too large."""
    model = nemon(seed, n=10, p=6)
    bound, formulas = lipschitz_linf(model), contraction_bounds(model, weights=array(model.weights))
    assert bound.converged
    assert bound.value <= 1.2 * steepest(model.form().detach(), seed)
    # Between inputs that were really tried, too: no piece that occurs nowhere.
    assert bound.value <= 1.2 * largest_slope_linf(model).value
    assert formulas is not None
    assert formulas.paper >= formulas.by_row >= bound.by_comparison * (1 - 1e-9) >= bound.value
    assert formulas.paper > 5 * bound.value


@pytest.mark.parametrize("name", ["lben", "feedthrough", "feedforward", "nemon", "float32", "large inputs"])
def test_certificates_are_valid(name: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    model = {
        "lben": LBEN(5, 8, 3, gamma=1.0, dtype=F64, generator=generator),
        "feedthrough": LBEN(5, 8, 3, gamma=1.0, dtype=F64, generator=generator, feedthrough=True),
        "feedforward": FeedForward(5, (6, 6), 3, dtype=F64, generator=generator),
        "nemon": nemon(3, standardisation=Standardisation(torch.zeros(5).double(), torch.linspace(0.1, 2, 5).double())),
        "float32": nemon(4, dtype=torch.float32),
        "large inputs": nemon(5, p=1600),
    }[name]  # fmt: skip
    form = model.form().detach()
    form.save(tmp_path / "form.safetensors")
    bound = lipschitz_linf(form)
    bound.save(tmp_path / "certificate.json")
    verdict = check(tmp_path / "certificate.json")
    assert verdict.valid, verdict.reason
    assert [(claim.norm, claim.units, claim.bound) for claim in verdict.claims] == [
        ("linf", "standardised", bound.value),
        ("linf", "raw", bound.value_raw),
    ]
    # By the comparison matrix alone, where there is one.
    if name.startswith("lben") or name == "feedthrough":
        with pytest.raises(IllPosedError, match="comparison matrix"):
            lipschitz_linf(form, method="comparison")
        return
    bound = lipschitz_linf(form, method="comparison")
    bound.save(tmp_path / "certificate.json")
    assert bound.method == "comparison"
    assert check(tmp_path / "certificate.json").valid


def test_outputs_are_proved_each_in_its_own_way(tmp_path: Path) -> None:
    """One output reads a chain of positive weights, where the comparison is exact, another one a mixture of signs."""
    rng = np.random.default_rng(0)
    n = 8
    W = -rng.uniform(0.1, 0.9, (n, n))
    np.fill_diagonal(W, 1 - np.abs(W).sum(1))
    W[0, :] = 0.0
    U, C = rng.standard_normal((n, 3)), np.vstack([np.eye(n)[0], rng.standard_normal(n)])
    tensors = (torch.from_numpy(a) for a in (W, U, np.zeros(n), C, np.zeros(2)))
    form = dense(*tensors)
    bound = lipschitz_linf(form)
    form.save(tmp_path / "form.safetensors")
    bound.save(tmp_path / "certificate.json")
    assert check(tmp_path / "certificate.json").valid
    assert bound.value <= min(bound.by_comparison, bound.by_trace)


def test_what_cannot_be_bounded_is_refused() -> None:
    ill = dense(*(torch.full(shape, 2.0, dtype=F64) for shape in ((2, 2), (2, 3), (2,), (1, 2), (1,))))
    with pytest.raises(IllPosedError, match="neither multipliers nor the comparison"):
        lipschitz_linf(ill)
    with pytest.raises(InputError, match="unknown"):
        lipschitz_linf(nemon(0), method="best")


@pytest.mark.parametrize("zero", ["U", "C", "neurons"])
def test_networks_that_do_nothing(zero: str, tmp_path: Path) -> None:
    n = 0 if zero == "neurons" else 4
    rng = np.random.default_rng(1)
    W, U, C = 0.1 * rng.standard_normal((n, n)), rng.standard_normal((n, 3)), rng.standard_normal((2, n))
    if zero in "UC":
        (U if zero == "U" else C)[:] = 0.0
    form = dense(*(torch.from_numpy(a) for a in (W, U, np.zeros(n), C, np.zeros(2))))
    bound = lipschitz_linf(form)
    assert bound.value <= 1e-9
    form.save(tmp_path / "form.safetensors")
    bound.save(tmp_path / "certificate.json")
    assert check(tmp_path / "certificate.json").valid


def test_a_large_network_gets_a_certificate_that_can_be_checked(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    model = NEMON(TRACE_SIZE, 6, 3, generator=generator, dtype=F64)
    bound = lipschitz_linf(model)
    assert bound.method == "comparison", "ten quadratic forms of this size would be refused for their work"
    model.form().detach().save(tmp_path / "form.safetensors")
    bound.save(tmp_path / "certificate.json")
    assert check(tmp_path / "certificate.json").valid
