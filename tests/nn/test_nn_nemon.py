"""NEMON: contracting whatever its parameters are, solved by Jacobi's iteration and by splittings alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.activations import Activation, LeakyReLU, ReLU, Tanh
from equilip.errors import InputError
from equilip.nn import LBEN, NEMON
from equilip.nn.nemon import ContractingRule
from equilip.solve import Averaged, Jacobi, PeacemanRachford, Settings, equilibrium

SCALES = st.lists(st.sampled_from([1e-6, 0.1, 1.0, 10.0, 1e3]), min_size=2, max_size=2)


def network(seed: int, n: int, m: float, scales: list[float], **rest: object) -> NEMON:
    """A random network: scales of T, and of the logarithm of the weights."""
    generator = torch.Generator().manual_seed(seed)
    model = NEMON(4, n, 3, m=m, dtype=torch.float64, generator=generator, **rest)  # type: ignore[arg-type]
    with torch.no_grad():
        model.T.copy_(scales[0] * torch.randn(n, n, dtype=torch.float64, generator=generator))
        model.d.copy_(min(scales[1], 8.0) * torch.randn(n, dtype=torch.float64, generator=generator))
    return model


def measure(W: torch.Tensor, weights: torch.Tensor) -> float:
    """max_i w_ii + Σ_j≠i |w_ij| η_j / η_i."""
    scaled = W.abs() * weights / weights[:, None]
    return float((scaled.sum(1) - scaled.diagonal() + W.diagonal()).amax())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), m=st.sampled_from([-3.0, 0.0, 0.5, 0.999]), scales=SCALES)
def test_it_contracts_for_any_parameters(seed: int, n: int, m: float, scales: list[float]) -> None:
    model = network(seed, n, m, scales)
    W = model.form().W.dense().detach()
    size = float(W.diagonal().abs().amax())
    assert measure(W, model.weights.detach()) <= m + 1e-14 * (1 + size)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), m=st.sampled_from([-1.0, 0.0, 0.9]), scale=st.sampled_from([0.0, 0.3, 3.0]))
def test_its_multipliers_prove_it_well_posed_in_l2(seed: int, m: float, scale: float) -> None:
    model = network(seed, 7, m, [scale, 1.0])
    W, lam = model.form().W.dense().detach(), model.guarantee().multipliers
    P = torch.diag(2 * lam) - lam[:, None] * W - (lam[:, None] * W).mT
    assert float(torch.linalg.eigvalsh(P)[0]) > 0


@pytest.mark.parametrize("sigma", [ReLU(), LeakyReLU(0.2), Tanh()])
@pytest.mark.parametrize("m", [-1.0, 0.0, 0.95])
def test_all_solvers_agree(sigma: Activation, m: float) -> None:
    model = network(3, 20, m, [1.0, 0.7], activation=sigma).eval()
    x = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = [
        model.solve(x, Settings(solver=solver, tolerance=1e-11, max_iterations=100_000)).z.detach()
        for solver in (Jacobi(), PeacemanRachford(), Averaged())
    ]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("sigma", [ReLU(), LeakyReLU(0.2), Tanh()])
def test_gradients_through_jacobi(sigma: Activation) -> None:
    model = network(5, 6, 0.5, [1.0, 0.5], activation=sigma)
    model.settings = Settings(solver=Jacobi(), tolerance=1e-13)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)

    def output(x: torch.Tensor, T: torch.Tensor, d: torch.Tensor, U: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, {"T": T, "d": d, "U": U}, (x,))

    inputs = (x, model.T, model.d, model.U)
    assert torch.autograd.gradcheck(output, inputs, eps=1e-7, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("solver", [Jacobi(), PeacemanRachford()])
def test_the_written_gradient_is_that_of_autograd(solver: Jacobi | PeacemanRachford) -> None:
    model = network(6, 9, 0.3, [1.0, 0.5])
    model.settings = Settings(solver=solver, tolerance=1e-12)
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    fast = torch.autograd.grad(model.train()(x).square().sum(), tuple(model.parameters()))
    y = equilibrium(model.form(), x, model.settings).y
    slow = torch.autograd.grad(y.square().sum(), tuple(model.parameters()))
    for name, a, b in zip(dict(model.named_parameters()), fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=name)


def test_the_rule_and_its_tracked_twin_agree() -> None:
    model = network(7, 8, -0.5, [1.0, 1.0])
    rule = ContractingRule(model.m)
    W, _ = rule.matrix(model.U, model.T, model.d)
    torch.testing.assert_close(W, rule.tracked(model.U, model.T, model.d))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), m=st.sampled_from([-2.0, 0.0, 0.9]))
def test_it_is_rebuilt_from_its_form(seed: int, m: float) -> None:
    model = network(seed, 6, m, [1.0, 1.0])
    form = model.form().detach()
    again = NEMON.from_form(form, model.weights.detach())
    assert again.m <= m + 1e-12
    for name in ("W", "U", "C"):
        ours, theirs = getattr(again.form(), name).dense(), getattr(form, name).dense()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("m", [1.0, 1.5, float("nan"), float("inf")])
def test_m_must_be_below_one(m: float) -> None:
    with pytest.raises(InputError, match="below 1"):
        NEMON(3, 4, 2, m=m)


def test_networks_that_do_not_contract_are_refused() -> None:
    form = LBEN(3, 6, 2, gamma=1.0, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).form().detach()
    with pytest.raises(InputError, match="does not contract"):
        NEMON.from_form(form, torch.ones(6, dtype=torch.float64))


def test_float32_and_state() -> None:
    model = NEMON(5, 8, 2, m=0.2, generator=torch.Generator().manual_seed(0))
    x = torch.rand(4, 5)
    y = model.eval()(x)
    other = NEMON(5, 8, 2, m=0.2)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.eval()(x), y)
    torch.testing.assert_close(model.freeze()(x), y, rtol=1e-4, atol=1e-5)
