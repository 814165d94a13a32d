"""The slope bound of an LBEN is never beaten, whatever its parameters are: gradient ascent on pairs of inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.activations import Activation, LeakyReLU, ReLU, Sigmoid, Tanh
from equilip.errors import InputError
from equilip.nn import LBEN, MonotoneNetwork
from equilip.solve import Newton, Settings


def largest_slope(model: LBEN, seed: int) -> float:
    """The largest ‖y - y'‖ / ‖x - x'‖ that ascent on pairs finds, from near and from far pairs; what the solver's
    proven errors may have added to it is taken off, so that a solve cut short raises no false alarm."""
    generator = torch.manual_seed(seed)
    p = model.in_features
    x = torch.randn(24, p, dtype=torch.float64, generator=generator)
    gap = torch.logspace(-3, 1, 24, dtype=torch.float64)[:, None]
    other = x + gap * torch.randn(24, p, dtype=torch.float64, generator=generator)
    found, gain = 0.0, float(torch.linalg.matrix_norm(model.C.detach(), 2))
    for _ in range(12):
        a, b = x.clone().requires_grad_(), other.clone().requires_grad_()
        one, two = model.solve(a), model.solve(b)
        slope = (one.y - two.y).norm(dim=1) / (a - b).norm(dim=1)
        doubt = gain * (one.error + two.error) / (x - other).norm(dim=1)
        found = max(found, float((slope.detach() - doubt).max()))
        da, db = torch.autograd.grad(slope.clamp(min=1e-30).log().sum(), (a, b))
        rate = 0.3 * (x - other).norm(dim=1, keepdim=True)
        x = x + rate * da / da.norm(dim=1, keepdim=True).clamp(min=1e-30)
        other = other + rate * db / db.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return found


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([0.01, 1.0, 30.0]),
    scales=st.lists(st.sampled_from([1e-3, 0.1, 1.0, 10.0, 100.0]), min_size=5, max_size=5),
    feedthrough=st.booleans(),
    sigma=st.sampled_from([ReLU(), Tanh(), LeakyReLU(0.2), Sigmoid()]),
)
def test_ascent_never_beats_gamma(
    seed: int, gamma: float, scales: list[float], feedthrough: bool, sigma: Activation
) -> None:
    generator = torch.manual_seed(seed)
    # Newton finds in ten steps what takes splittings thousands at such scales; how it is found is no part of the bound.
    hard = Settings(Newton(), tolerance=1e-11, max_iterations=5000, raise_on_failure=False)
    model = LBEN(
        4, 5, 3, gamma, epsilon=0.1, activation=sigma, feedthrough=feedthrough, dtype=torch.float64,
        generator=generator, settings=hard,
    )  # fmt: skip
    with torch.no_grad():
        for parameter, scale in zip((model.V, model.S, model.U, model.C, model.b), scales, strict=True):
            parameter.copy_(scale * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
        model.psi.copy_(torch.randn(5, dtype=torch.float64, generator=generator).clamp(-2, 2))
    assert largest_slope(model.eval(), seed) <= gamma * (1 + 1e-6)


@pytest.mark.parametrize(("p", "q"), [(2, 5), (4, 4), (5, 2)])
@pytest.mark.parametrize("feedthrough", [False, True])
def test_the_matrix_of_the_proof_is_positive_definite(p: int, q: int, feedthrough: bool) -> None:
    gamma, n = 0.7, 6
    model = LBEN(p, n, q, gamma, epsilon=0.2, feedthrough=feedthrough, dtype=torch.float64)
    form, lam = model.form(), model.guarantee().multipliers
    W, U, C, D = (getattr(form, name).dense().detach() for name in "WUCD")
    L = torch.diag(lam)
    P = 2 * L - L @ W - W.T @ L
    corner = -(L @ U + C.T @ D / gamma)
    eye = torch.eye(p, dtype=torch.float64)
    matrix = torch.cat([
        torch.cat([P - C.T @ C / gamma, corner], 1),
        torch.cat([corner.T, gamma * eye - D.T @ D / gamma], 1),
    ])  # fmt: skip
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0
    schur = matrix[:n, :n] - corner @ torch.linalg.solve(matrix[n:, n:], corner.T)
    assert float(torch.linalg.eigvalsh(schur)[0]) >= 2 * 0.2 * (1 - 1e-9)


def test_monotone_networks_are_strongly_monotone_for_any_parameters() -> None:
    for scale in (1e-3, 1.0, 1e3):
        model = MonotoneNetwork(4, 6, 3, m=0.3, dtype=torch.float64)
        with torch.no_grad():
            model.A.mul_(scale)
            model.B.mul_(scale)
        W = model.form().W.dense().detach()
        symmetric = torch.eye(6, dtype=torch.float64) - 0.5 * (W + W.T)
        assert float(torch.linalg.eigvalsh(symmetric)[0]) >= 0.3 * (1 - 1e-6) - 1e-12 * scale**2


def test_eval_is_never_stale_and_state_round_trips() -> None:
    model, other = LBEN(4, 5, 3, 1.0).eval(), LBEN(4, 5, 3, 1.0).eval()
    x = torch.randn(7, 4)

    def fresh(m: LBEN) -> torch.Tensor:
        return m.train()(x)

    before = model(x)
    model.U.data.mul_(2)
    assert not torch.equal(model(x), before)
    assert torch.allclose(model(x), fresh(model), atol=1e-3)
    model.eval()
    model.load_state_dict(other.state_dict())
    assert torch.equal(model(x), other(x))
    double = model.double()
    assert double(x.double()).dtype == torch.float64
    assert torch.allclose(double.freeze()(x.double()), double(x.double()), atol=1e-6)


def test_a_given_form_is_realised_again() -> None:
    model = LBEN(4, 5, 3, 1.0, dtype=torch.float64)
    form = model.form().detach()
    again = LBEN.from_form(form, model.guarantee().multipliers, 1.0).form()
    assert torch.allclose(again.W.dense(), form.W.dense(), atol=1e-10)
    network = MonotoneNetwork(4, 5, 3, dtype=torch.float64)
    again = MonotoneNetwork.from_form(network.form().detach()).form()
    assert torch.allclose(again.W.dense(), network.form().W.dense(), atol=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LBEN(4, 5, 3, -1.0),
        lambda: LBEN(4, 5, 3, 1.0, epsilon=0.0),
        lambda: LBEN(0, 5, 3),
        lambda: LBEN(4, 5, 3, feedthrough=True),
        lambda: LBEN(4, 5, 3, learn_gamma=True),
        lambda: MonotoneNetwork(4, 5, 3, m=0.0),
        lambda: LBEN(4, 5, 3)(torch.zeros(2, 9)),
    ],
)
def test_mistakes_are_named(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError):
        make()
