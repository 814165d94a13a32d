"""Layers of slope at most 1: no slope above the bound, the LMI of the form, the bugs of published codes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equilip import certify
from equilip.activations import LeakyReLU, ReLU, Sigmoid, Tanh
from equilip.errors import InputError
from equilip.form import Form, Standardisation
from equilip.nn import (
    AOL,
    CPL,
    SLL,
    Cayley,
    LipschitzLayer,
    NormalisedRows,
    Pointwise,
    Sandwich,
    SandwichLinear,
    Spectral,
    Stack,
    sequential_form,
)
from equilip.solve import equilibrium

DOUBLE = {"dtype": torch.float64}
LAYERS: dict[str, Callable[..., LipschitzLayer]] = {
    "cpl": lambda **k: CPL(4, 6, **k),
    "cpl-narrow": lambda **k: CPL(5, 2, activation=Tanh(), **k),
    "sll": lambda **k: SLL(4, 6, **k),
    "sll-narrow": lambda **k: SLL(5, 2, activation=LeakyReLU(0.3), **k),
    "aol": lambda **k: AOL(4, 6, **k),
    "aol-wide": lambda **k: AOL(6, 3, **k),
    "cayley-tall": lambda **k: Cayley(3, 5, **k),
    "cayley-wide": lambda **k: Cayley(5, 3, bias=False, **k),
    "cayley-square": lambda **k: Cayley(4, 4, **k),
    "sandwich": lambda **k: Sandwich(3, 5, **k),
    "sandwich-wide": lambda **k: Sandwich(5, 3, activation=Sigmoid(), **k),
    "sandwich-linear": lambda **k: SandwichLinear(4, 3, **k),
    "spectral": lambda **k: Spectral(4, 6, **k),
    "normalised-rows": lambda **k: NormalisedRows(4, 6, **k),
}
EVERY = pytest.mark.parametrize("name", list(LAYERS))


def make(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> LipschitzLayer:
    return LAYERS[name](dtype=dtype, generator=torch.Generator().manual_seed(seed))


def redraw(layer: torch.nn.Module, seed: int, scales: list[float], zeros: int) -> None:
    """Random parameters of each of the ``scales``, row by row, with some rows (or columns) of zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            value = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            pick = torch.randint(len(scales), parameter.shape[:1], generator=generator)
            scale = torch.tensor(scales, dtype=torch.float64)[pick].reshape(-1, *[1] * (value.dim() - 1))
            value = value * (scale if parameter.dim() else scales[0])
            if name.endswith("weight") and zeros:
                value[: zeros // 2 + 1] = 0
                value[:, : zeros // 2] = 0
            parameter.copy_(value)


def largest_slope(layer: LipschitzLayer | Stack, seed: int) -> float:
    """The largest slope that ascent on pairs of inputs finds, near and far, less what rounding can have added to it."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(24, layer.in_features, generator=generator, **DOUBLE)
    gap = torch.logspace(-2, 2, 24, **DOUBLE)[:, None]
    b, found = a + gap * torch.randn(a.shape, generator=generator, **DOUBLE), 0.0
    for _ in range(6):
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        distance = (a - b).norm(dim=1)
        slope = (layer(a) - layer(b)).norm(dim=1) / distance
        doubt = (rounding(layer, a) + rounding(layer, b)) / distance
        found = max(found, float((slope - doubt).detach().max()))
        da, db = torch.autograd.grad(slope.clamp(min=1e-30).log().sum(), (a, b))
        rate = 0.3 * distance.detach()[:, None]
        a = a + rate * da / da.norm(dim=1, keepdim=True).clamp(min=1e-30)
        b = b + rate * db / db.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return found


def rounding(layer: LipschitzLayer | Stack, x: Tensor) -> Tensor:
    """How far outputs (batch,) can be from exact ones by rounding alone: 16 of it in every sum of products."""
    if isinstance(layer, Stack):
        return 1e-12 * (1 + x.detach().norm(dim=1))
    form = layer.form()
    W, C, D = (getattr(form, letter).dense().detach().abs() for letter in "UCD")
    s = x.detach().abs() @ W.T + form.b.detach().abs()
    y = s @ C.T + x.detach().abs() @ D.T + form.c.detach().abs()
    return 16 * torch.finfo(torch.float64).eps * y.norm(dim=1)


def jacobian_norm(layer: torch.nn.Module, size: int, seed: int) -> float:
    """The largest norm of the Jacobian at some inputs, small and large."""
    generator = torch.Generator().manual_seed(seed)
    found = 0.0
    for scale in (1e-8, 1.0, 1e8):
        x = scale * torch.randn(size, dtype=torch.float64, generator=generator)
        jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0], x)
        found = max(found, float(torch.linalg.matrix_norm(jacobian.double(), 2)))
    return found


def smallest_eigenvalue(form: Form, lam: Tensor, gamma: float) -> float:
    """Of the LMI of mathematics 1.2, every row and column of it in units of 2 λ, or of γ for inputs."""
    W, U, C, D = (getattr(form, letter).dense().detach() for letter in "WUCD")
    L = torch.diag(lam)
    corner = -(L @ U + C.T @ D / gamma)
    eye = torch.eye(U.shape[1], dtype=U.dtype)
    matrix = torch.cat([
        torch.cat([2 * L - L @ W - W.T @ L - C.T @ C / gamma, corner], 1),
        torch.cat([corner.T, gamma * eye - D.T @ D / gamma], 1),
    ])  # fmt: skip
    # Multipliers may differ by many orders of magnitude.
    size = torch.cat([2 * lam, gamma * torch.ones_like(eye[0])]).sqrt()
    return float(torch.linalg.eigvalsh(matrix / size[:, None] / size)[0])


@EVERY
@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    scales=st.lists(st.sampled_from([1e-8, 1e-3, 1.0, 10.0, 1e8]), min_size=1, max_size=3),
    zeros=st.integers(0, 4),
)
def test_no_slope_above_the_bound(name: str, seed: int, scales: list[float], zeros: int) -> None:
    layer = make(name)
    redraw(layer, seed, scales, zeros)
    bound = layer.guarantee().bound
    assert bound is not None
    assert all(bool(parameter.isfinite().all()) for parameter in layer.parameters())
    assert largest_slope(layer, seed) <= bound * (1 + 1e-9)
    assert jacobian_norm(layer, layer.in_features, seed) <= bound * (1 + 1e-9)


@EVERY
def test_no_slope_above_the_bound_in_float32(name: str) -> None:
    for seed in range(5):
        layer = make(name, torch.float32)
        redraw(layer, seed, [1e-8, 1.0, 30.0] if seed % 2 else [1.0], zeros=seed % 3)
        double = make(name)
        double.load_state_dict(layer.state_dict())
        # The numbers that float32 stores, in a network without further rounding.
        form = layer.form().detach().to(torch.float64)
        bound = layer.guarantee().bound
        assert bound is not None
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(layer.in_features, dtype=torch.float64, generator=generator)
        slope = torch.diag(form.activation.slope(form.bias(x[None]))[0])
        J = form.D.dense() + form.C.dense() @ slope @ form.U.dense()
        assert float(torch.linalg.matrix_norm(J, 2)) <= bound * (1 + 2e-6)
        assert torch.allclose(layer(x[None].float()).double(), double(x[None]), rtol=1e-3, atol=1e-4)


@EVERY
def test_the_form_is_the_layer_and_its_lmi_holds(name: str) -> None:
    for seed, scales in enumerate(([1.0], [0.1, 10.0], [1e-8, 1.0, 1e4])):
        layer = make(name)
        redraw(layer, seed, scales, zeros=seed)
        form, promise = layer.form(), layer.guarantee()
        x = torch.randn(3, 7, layer.in_features, generator=torch.Generator().manual_seed(seed), **DOUBLE)
        y = layer(x)
        assert y.shape == (3, 7, layer.out_features)
        solved = equilibrium(form, x.flatten(0, 1)).y.reshape(y.shape)
        assert torch.allclose(y, solved, rtol=1e-12, atol=1e-12 * float(y.detach().abs().max()))
        assert promise.multipliers.shape == (form.hidden_size,)
        assert bool((promise.multipliers > 0).all())
        assert smallest_eigenvalue(form, promise.multipliers, promise.bound) >= -1e-9


@EVERY
def test_what_is_promised_is_proved(name: str) -> None:
    layer = make(name)
    certify.check_guarantee(layer.form(), layer.guarantee())


@EVERY
def test_the_bound_of_the_stored_numbers_is_proved_and_holds(name: str) -> None:
    for dtype, room in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        for seed, scales in enumerate(([1.0], [1e-3, 10.0], [1e-8, 1.0, 30.0])):
            layer = make(name, dtype)
            redraw(layer, seed, scales, zeros=seed)
            proved, form = layer.proved_bound(), layer.form().detach().to(torch.float64)
            x = torch.randn(20, layer.in_features, generator=torch.Generator().manual_seed(seed), **DOUBLE)
            U, C, D = (getattr(form, letter).dense() for letter in "UCD")
            J = D + (C * form.activation.slope(form.bias(x))[:, None]) @ U
            assert float(torch.linalg.matrix_norm(J, 2).max()) <= proved * (1 + 1e-14)
            assert proved <= layer.guarantee().bound * (1 + room)


@EVERY
def test_gradients(name: str) -> None:
    layer = make(name)
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(5), **DOUBLE).requires_grad_()
    names = [n for n, _ in layer.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())
    assert torch.autograd.gradcheck(run, (x, *values), atol=1e-6)


@EVERY
def test_gradients_are_finite_where_rows_are_zero(name: str) -> None:
    layer = make(name)
    redraw(layer, 0, [1.0], zeros=2)
    for weights in ("some", "all"):
        if weights == "all":
            with torch.no_grad():
                layer.weight.zero_()
        layer.zero_grad()
        layer(torch.ones(2, layer.in_features, **DOUBLE)).square().sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)


@EVERY
def test_parameters_are_all_there_from_the_start_and_nothing_goes_stale(name: str) -> None:
    layer, other = make(name), make(name, seed=1)
    before = {n for n, _ in layer.named_parameters()} | {n for n, _ in layer.named_buffers()}
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(5), **DOUBLE)
    first = layer.eval()(x)
    assert {n for n, _ in layer.named_parameters()} | {n for n, _ in layer.named_buffers()} == before
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other.eval()(x))
    assert not torch.equal(layer(x), first)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.train()(x).square().sum().backward()
    optimiser.step()
    assert torch.equal(layer(x), layer.eval()(x)), "what is used in eval is of this step, not of the one before"
    assert not torch.equal(layer(x), other(x))
    assert layer.float()(x.float()).dtype == torch.float32


# The bugs of published codes (mathematics 4, 6).


def test_a_short_power_iteration_would_have_broken_the_cpl() -> None:
    layer = make("cpl")
    redraw(layer, 3, [1.0], zeros=0)
    W = layer.weight.detach()
    v = torch.zeros(4, **DOUBLE)
    v[0] = 1.0
    v = W.T @ (W @ v)
    estimate = float((W @ v).norm() / v.norm())
    assert estimate < 0.99 * float(torch.linalg.matrix_norm(W, 2)), "else the example shows nothing"
    broken = torch.linalg.matrix_norm(torch.eye(4, **DOUBLE) - 2 / estimate**2 * W.T @ W, 2)
    assert float(broken) > 1.01
    T = layer.metric().detach()
    assert float(torch.linalg.matrix_norm(torch.eye(4, **DOUBLE) - 2 * W.T @ (W / T[:, None]), 2)) <= 1 + 1e-12


def test_q_of_the_sll_has_an_effect_and_stands_on_the_summed_axis() -> None:
    layer = SLL(4, 6, **DOUBLE)
    x = torch.randn(5, 4, **DOUBLE)
    layer(x).square().sum().backward()
    assert float(layer.log_q.grad.abs().max()) > 1e-4
    W, q = layer.weight.detach(), layer.log_q.detach().exp()
    gram = (W @ W.T).abs()
    by_hand = torch.stack([sum(gram[i, j] * q[j] / q[i] for j in range(6)) for i in range(6)])
    assert torch.allclose(layer.metric(), by_hand, rtol=1e-10)


def test_extreme_q_cannot_break_the_sll() -> None:
    for theta in (-1e6, -30.0, 30.0, 1e6):
        layer = make("sll")
        with torch.no_grad():
            layer.log_q[0] = theta
            layer.weight.mul_(3.0)
        T, W = layer.metric().detach(), layer.weight.detach()
        assert float(torch.linalg.eigvalsh(torch.diag(T) - W @ W.T)[0]) >= -1e-12 * float(T.max())
        assert largest_slope(layer, 0) <= 1 + 1e-9


def test_a_column_of_zeros_leaves_the_aol_finite_and_the_rest_alone() -> None:
    layer = make("aol")
    with torch.no_grad():
        layer.weight[:, 1] = 0
    A = layer.matrix().detach()
    assert bool(A.isfinite().all())
    assert float(A[:, 1].abs().max()) == 0
    smaller = AOL(3, 6, **DOUBLE)
    smaller.load_state_dict({"weight": layer.weight[:, [0, 2, 3]], "bias": layer.bias})
    assert torch.allclose(smaller.matrix(), A[:, [0, 2, 3]], rtol=1e-12)


@pytest.mark.parametrize(("p", "q"), [(2, 5), (4, 4), (5, 2)])
def test_cayley_is_orthogonal_and_wide_is_the_transpose(p: int, q: int) -> None:
    for scale in (1e-8, 1.0, 1e8):
        layer = Cayley(p, q, **DOUBLE)
        with torch.no_grad():
            layer.weight.mul_(scale)
            layer.length.mul_(scale)
        Q = layer.matrix().detach()
        Q = Q if q >= p else Q.T
        assert torch.allclose(Q.T @ Q, torch.eye(min(p, q), **DOUBLE), atol=1e-8)
    with torch.no_grad():
        layer.weight.zero_()
    assert float(torch.linalg.matrix_norm(layer.matrix().detach(), 2)) <= 1 + 1e-12


def test_sandwich_matrices_are_row_orthonormal() -> None:
    layer = make("sandwich")
    redraw(layer, 1, [3.0], zeros=0)
    U, C, lam = (t.detach() for t in layer.matrices())
    A, B = (C / lam.sqrt()).T / math.sqrt(2), U * lam.sqrt()[:, None] / math.sqrt(2)
    assert torch.allclose(A @ A.T + B @ B.T, torch.eye(5, **DOUBLE), atol=1e-10)


def test_normalised_rows_and_their_pairs() -> None:
    layer = make("normalised-rows")
    redraw(layer, 2, [1e-8, 1.0, 1e8], zeros=0)
    with torch.no_grad():
        layer.weight[3] = 0
        layer.weight[4] = layer.weight[5]
    A, pairs = layer.matrix().detach(), layer.pair_slopes().detach()
    norms = A.norm(dim=1)
    assert torch.allclose(norms[[0, 1, 2, 4, 5]], torch.ones(5, **DOUBLE), rtol=1e-12)
    assert (norms <= 1).all()
    assert norms[3] == 0
    assert pairs[4, 5] == 0
    x, other = torch.randn(2, 1000, 4, generator=torch.Generator().manual_seed(0), **DOUBLE)
    move = (layer(x) - layer(other)).detach()
    slope = (move[:, :, None] - move[:, None, :]).abs() / (x - other).norm(dim=1)[:, None, None]
    assert (slope.amax(0) <= pairs + 1e-12).all()
    assert (slope.amax(0) >= 0.5 * pairs).all()


# Stacks.


def stack(seed: int = 0, gamma: float = 0.7, **more: object) -> Stack:
    own = {"generator": torch.Generator().manual_seed(seed), **DOUBLE}
    layers = [
        CPL(4, 6, **own), Sandwich(4, 6, **own), SLL(6, 3, **own), AOL(6, 5, **own), Pointwise(Tanh(), 5),
        Cayley(5, 5, **own), Pointwise(ReLU(), 5), Spectral(5, 3, **own),
    ]  # fmt: skip
    return Stack(layers, gamma, **more)


def test_a_stack_is_one_form_with_one_proof() -> None:
    standardisation = Standardisation(torch.full((4,), 0.1, **DOUBLE), torch.tensor([0.5, 1.0, 2.0, 4.0], **DOUBLE))
    for seed in range(4):
        model = stack(seed, standardisation=standardisation)
        if seed:
            redraw(model.layers, seed, [0.1, 1.0, 3.0], zeros=seed % 2)
        form, x = model.form(), torch.randn(9, 4, generator=torch.Generator().manual_seed(seed), **DOUBLE)
        assert torch.allclose(equilibrium(form, x).y, model(x), rtol=1e-12, atol=1e-12)
        assert form.hidden_size == len(model.guarantee().multipliers)
        # The LMI at γ = 1 for the layers, whose outputs are gamma times as large.
        unit = stack(seed, 1.0)
        unit.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("input.")})
        assert smallest_eigenvalue(unit.form(), unit.guarantee().multipliers, 1.0) >= -1e-9
        certify.check_guarantee(form, model.guarantee())
        bound = certify.lipschitz(form)
        assert bound.value <= 0.7 * (1 + 1e-6)
        assert largest_slope(model, seed) <= bound.value_raw <= 1.4 * (1 + 1e-6)


def test_a_stack_learns_its_bound_and_round_trips() -> None:
    model, other = stack(learn_gamma=True), stack(seed=3, gamma=2.0, learn_gamma=True)
    x = torch.randn(5, 4, **DOUBLE)
    model(x).square().sum().backward()
    assert model.log_gamma.grad is not None
    model.load_state_dict(other.state_dict())
    assert model.gamma == pytest.approx(2.0)
    assert torch.equal(model(x), other(x))


def test_layers_stand_in_a_sequential_beside_ordinary_ones() -> None:
    network = torch.nn.Sequential(
        torch.nn.Flatten(),
        CPL(4, **DOUBLE),
        torch.nn.Linear(4, 3, **DOUBLE),
        torch.nn.ReLU(),
        NormalisedRows(3, 2, **DOUBLE),
    )
    x = torch.randn(6, 2, 2, **DOUBLE)
    form = sequential_form(network)
    assert torch.allclose(equilibrium(form, x.flatten(1)).y, network(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "build",
    [
        lambda: CPL(0),
        lambda: SLL(3, 0),
        lambda: AOL(3, -1),
        lambda: Sandwich(0, 3),
        lambda: Stack([]),
        lambda: Stack([CPL(3)], 0.0),
        lambda: Stack([CPL(3), CPL(4)]),
        lambda: Stack([NormalisedRows(3, 2)]),
        lambda: Stack([torch.nn.Linear(3, 2)]),
    ],
)
def test_mistakes_are_named(build: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        build()
