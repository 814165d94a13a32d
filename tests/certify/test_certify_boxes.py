"""Boxes: no input of a box leads out of what is proved, wherever the steps ended; the published stop is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.activations import Activation, HardTanh, LeakyReLU, ReLU, Sigmoid, Tanh
from equilip.certify import Reachable, reachable
from equilip.errors import IllPosedError, InputError
from equilip.form import Form, Standardisation, dense
from equilip.nn import LBEN, NEMON, FeedForward
from equilip.solve import Jacobi, Prover, Settings, equilibrium
from equilip.solve.embedded import Embedding, boxes

F64 = torch.float64


def network(
    seed: int, n: int = 8, p: int = 4, m: float = 0.3, scale: float = 1.0, spread: float = 0.5,
    sigma: Activation | None = None, dtype: torch.dtype = F64, standardisation: Standardisation | None = None,
) -> Form:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    model = NEMON(p, n, 3, m=m, activation=sigma, dtype=dtype, generator=generator, standardisation=standardisation)
    with torch.no_grad():
        for parameter in (model.T, model.U, model.C):
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator, dtype=F64))
        model.d.copy_(spread * torch.randn(n, generator=generator, dtype=F64))
    return model.form().detach()


def corners_and_more(lower: torch.Tensor, upper: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Points of one box (p,): corners, points of faces, points inside; (count, p)."""
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(count, len(lower), generator=generator, dtype=F64)
    share[: count // 2] = share[: count // 2].round()
    return (lower + share * (upper - lower)).clamp(lower, upper)


def contains(form: Form, found: Reachable, row: int, x: torch.Tensor) -> bool:
    """Whether the equilibria of x, up to their own proven errors, lie in the box of this row."""
    exact = form.to(F64)
    # What the solve leaves open is in the proven error of every neuron.
    solved = equilibrium(exact, x, Settings(tolerance=1e-11, max_iterations=300, raise_on_failure=False))
    slack = Prover(exact).error_by_neuron(x, solved.z)
    inside = (solved.z >= found.z_lower[row] - slack) & (solved.z <= found.z_upper[row] + slack)
    doubt = slack @ exact.C.dense().abs().mT + 1e-12 * (1 + solved.y.abs())
    outputs = (solved.y >= found.lower[row] - doubt) & (solved.y <= found.upper[row] + doubt)
    return bool(inside.all()) and bool(outputs.all())


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 100_000),
    m=st.sampled_from([-2.0, 0.0, 0.9, 0.999]),
    scale=st.sampled_from([1e-3, 1.0, 10.0]),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
    width=st.sampled_from([0.0, 1e-6, 0.1, 10.0]),
    limit=st.sampled_from([0, 2, 6, 1000]),
    sigma=st.sampled_from([ReLU(), LeakyReLU(0.2), Sigmoid(), Tanh(), HardTanh(-0.5, 1.0)]),
    single=st.booleans(),
)
def test_no_input_leaves_its_box(
    seed: int, m: float, scale: float, spread: float, width: float, limit: int, sigma: Activation, single: bool
) -> None:
    """Finished and unfinished iterations alike, near-singular networks, huge and tiny weights, both number formats."""
    dtype = torch.float32 if single else F64
    std = torch.rand(4, generator=torch.Generator().manual_seed(seed)).to(dtype) + 0.2
    form = network(seed, 8, 4, m, scale, spread, sigma, dtype, Standardisation(torch.zeros_like(std), std))
    centre = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed + 1), dtype=F64)
    lower, upper = (
        centre - width * torch.rand(2, 4, dtype=F64, generator=torch.Generator().manual_seed(seed + 2)),
        centre + width,
    )
    try:
        found = reachable(form, lower, upper, limit=limit)
    except IllPosedError:
        assert single  # the cast has eaten the slack of the construction
        return
    for row in range(2):
        assert contains(form, found, row, corners_and_more(lower[row], upper[row], 24, seed))


def test_thousands_of_random_networks() -> None:
    """Of three neurons each, a hundred at a time as one form of blocks; all kinds of measures, scales and widths."""
    rng = np.random.default_rng(0)
    for seed in range(20):
        parts = [
            network(100 * seed + k, 3, 2, float(rng.choice([0.0, 0.9, 0.999])), float(rng.choice([0.1, 1.0, 5.0])))
            for k in range(100)
        ]
        W, U, C = (torch.block_diag(*(getattr(part, name).dense() for part in parts)) for name in "WUC")
        form = dense(W, U, torch.cat([part.b for part in parts]), C, torch.cat([part.c for part in parts]))
        lower = torch.from_numpy(rng.standard_normal((1, 200)))
        upper = lower + torch.from_numpy(rng.uniform(0, 1, (1, 200)) * rng.choice([1e-3, 1.0], (1, 200)))
        found = reachable(form, lower, upper, limit=int(rng.choice([2, 20, 2000])))
        assert bool((found.lower <= found.upper).all())
        assert contains(form, found, 0, corners_and_more(lower[0], upper[0], 12, seed))


def test_the_published_stopping_rule_is_unsound() -> None:
    """Stop when a step changes the box by less than 1e-3 of itself, after at most 50 steps: the true point is outside.

    Near-singular networks move slowly, so that the change is small long before the iteration has arrived.
    """
    caught = 0
    for seed in range(20):
        form = network(seed, n=12, p=4, m=0.995)
        x = torch.randn(1, 4, generator=torch.Generator().manual_seed(seed), dtype=F64)
        bias, push = form.bias(x), 1e-3 * form.U.dense().abs().sum(1)
        W, sigma = form.W.dense(), form.activation
        diagonal = torch.diag(W.diagonal())
        up = (W - diagonal).clamp(min=0) + diagonal
        down = W - up
        alpha = float(1 / (1 - W.diagonal().clamp(max=0).amin()))
        l = h = torch.zeros_like(bias)  # noqa: E741
        for _ in range(50):
            new_l = torch.lerp(l, sigma.value(l @ up.mT + h @ down.mT + bias - push), alpha)
            new_h = torch.lerp(h, sigma.value(h @ up.mT + l @ down.mT + bias + push), alpha)
            change = float(
                (torch.cat([new_l - l, new_h - h]).norm()) / torch.cat([new_l, new_h]).norm().clamp(min=1e-12)
            )
            l, h = new_l, new_h  # noqa: E741
            if change < 1e-3:
                break
        z = equilibrium(form, x, Settings(solver=Jacobi(), tolerance=1e-12, max_iterations=100_000)).z
        outside = torch.maximum(l - z, z - h).amax()
        if float(outside) > 1e-6:
            caught += 1
            found = reachable(form, x - 1e-3, x + 1e-3)
            assert bool((found.z_lower <= z + 1e-9).all() and (z <= found.z_upper + 1e-9).all())
            unfinished = reachable(form, x - 1e-3, x + 1e-3, limit=10)
            assert bool((unfinished.z_lower <= z).all() and (z <= unfinished.z_upper).all())
    assert caught >= 5


def test_a_finished_box_is_tight_and_a_point_is_a_point() -> None:
    form = network(1, n=20, p=5)
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = reachable(form, x, x)
    assert float((found.z_upper - found.z_lower).amax()) < 1e-10
    y = equilibrium(form, x, Settings(tolerance=1e-12)).y
    torch.testing.assert_close(found.lower, y, rtol=0, atol=1e-9)
    near, far = reachable(form, x - 0.01, x + 0.01), reachable(form, x - 0.1, x + 0.1)
    assert bool((far.lower <= near.lower).all() and (near.upper <= far.upper).all())


def test_feedforward_networks_get_interval_propagation() -> None:
    generator = torch.Generator().manual_seed(0)
    model = FeedForward(5, (9, 7), 3, dtype=F64, generator=generator)
    x = torch.rand(6, 5, generator=generator, dtype=F64)
    l, h = x - 0.1, x + 0.1  # noqa: E741
    found = reachable(model, l, h)
    for depth, (weight, bias) in enumerate(zip(model.weights, model.biases, strict=True)):
        if depth:
            l, h = l.relu(), h.relu()  # noqa: E741
        plus, minus = weight.clamp(min=0), weight.clamp(max=0)
        l, h = l @ plus.mT + h @ minus.mT + bias, h @ plus.mT + l @ minus.mT + bias  # noqa: E741
    torch.testing.assert_close(found.lower, l.detach(), rtol=0, atol=1e-11)
    torch.testing.assert_close(found.upper, h.detach(), rtol=0, atol=1e-11)
    assert bool((found.lower <= l).all() and (h <= found.upper).all())


def test_leads_are_proved_and_better_than_intervals() -> None:
    form = network(2, n=15, p=5)
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=F64)
    label = torch.arange(8) % 3
    found = reachable(form, x - 0.05, x + 0.05)
    leads = found.leads(label)
    intervals = found.lower.gather(1, label[:, None]) - found.upper
    for j in range(3):
        rows = label != j
        assert bool((leads[rows, j] >= intervals[rows, j] - 1e-12).all())
        assert bool(leads[~rows, j].isinf().all())
    for row in range(8):
        y = equilibrium(form, corners_and_more(x[row] - 0.05, x[row] + 0.05, 60, row), Settings(tolerance=1e-11)).y
        others = [j for j in range(3) if j != label[row]]
        assert bool((y[:, [int(label[row])]] - y[:, others] >= leads[row, others] - 1e-9).all())


def test_an_lben_can_be_boxed_only_where_it_contracts() -> None:
    gentle = LBEN(4, 6, 2, gamma=1.0, dtype=F64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        gentle.V.mul_(0.1)
        gentle.S.mul_(0.1)
        gentle.psi.zero_()
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    form = gentle.form().detach()
    assert contains(form, reachable(form, x - 0.1, x + 0.1), 0, corners_and_more(x[0] - 0.1, x[0] + 0.1, 20, 0))
    with torch.no_grad():
        gentle.S.mul_(100.0)
    with pytest.raises(IllPosedError, match="comparison"):
        reachable(gentle, x, x)


def test_boxes_that_make_no_sense() -> None:
    form = network(0)
    x = torch.zeros(2, 4, dtype=F64)
    for lower, upper in ((x + 1, x), (x, x[:1]), (x, x * torch.nan)):
        with pytest.raises(InputError):
            reachable(form, lower, upper)
    with pytest.raises(InputError, match="labels"):
        reachable(form, x, x).leads(torch.tensor([0, 3]))
    assert reachable(form, x[:0], x[:0]).lower.shape == (0, 3)


@pytest.mark.parametrize("sigma", [ReLU(), LeakyReLU(0.3), Tanh()])
def test_gradients_through_boxes(sigma: Activation) -> None:
    form = network(3, n=5, p=3, sigma=sigma)
    generator = torch.Generator().manual_seed(0)
    centre, points = (
        torch.randn(2, 5, generator=generator, dtype=F64),
        torch.randn(3, 5, generator=generator, dtype=F64),
    )
    radius = 0.3 * torch.rand(2, 5, generator=generator, dtype=F64)
    inputs = [t.requires_grad_() for t in (form.W.dense().clone(), centre, radius, points)]

    def run(W: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return boxes(W, sigma, *rest, tolerance=1e-13)

    assert torch.autograd.gradcheck(run, inputs, eps=1e-7, atol=1e-5, rtol=1e-5)


def test_training_boxes_are_those_that_are_proved() -> None:
    form = network(4, n=10, p=4)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    radius = 0.1 * form.U.dense().abs().sum(1).expand(3, -1)
    c, r, z = boxes(form.W.dense(), form.activation, form.bias(x), radius, form.bias(x), tolerance=1e-13)
    proved = reachable(form, x - 0.1, x + 0.1)
    torch.testing.assert_close(c - r, proved.z_lower, rtol=0, atol=1e-10)
    torch.testing.assert_close(c + r, proved.z_upper, rtol=0, atol=1e-10)
    torch.testing.assert_close(z, equilibrium(form, x, Settings(tolerance=1e-12)).z, rtol=0, atol=1e-9)


def test_weights_above_one_are_boxed_where_slopes_allow() -> None:
    """A sigmoid's slopes are at most a quarter, so that a neuron may read itself by more than one."""
    form = network(5, n=4, p=3, sigma=Sigmoid())
    W = form.W.dense().clone()
    W.diagonal().fill_(1.5)
    W *= 0.5
    W.diagonal().fill_(1.2)
    own = Form(type(form.W)(W), form.U, form.b, form.C, form.D, form.c, form.activation)
    assert not Embedding(W, Sigmoid()).exact
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    try:
        found = reachable(own, x - 0.2, x + 0.2)
    except IllPosedError:
        pytest.skip("the random W is too large")
    corners = corners_and_more(x[0] - 0.2, x[0] + 0.2, 20, 0)
    z = torch.zeros(20, 4, dtype=F64)
    for _ in range(3000):
        z = 0.5 * z + 0.5 * own.step(z, own.bias(corners))
    assert bool((z >= found.z_lower - 1e-9).all() and (z <= found.z_upper + 1e-9).all())
