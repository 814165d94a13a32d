"""Gradients in the corners: every activation, forward mode, ensembles, standardisation, what is and is not tracked."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from solve_problems import (
    ACTIVATIONS,
    acyclic_matrix,
    contraction_matrix,
    equilibria,
    make,
    problem,
    tensor,
    value_and_slope,
    with_activation,
)
from torch import Tensor

from equilip.activations import Activation, Blockwise, LeakyReLU, ReLU, Softplus, Tanh
from equilip.errors import InputError
from equilip.form import Form, Standardisation, dense
from equilip.solve import (
    Anderson,
    Auto,
    Averaged,
    DouglasRachford,
    ForwardBackward,
    Gradient,
    Implicit,
    JacobianFree,
    Newton,
    PeacemanRachford,
    Phantom,
    Refined,
    Settings,
    Solver,
    Status,
    Substitution,
    Unrolled,
    equilibrium,
    loop,
)

F64 = torch.float64
TIGHT = 1e-12
# torch.func and dynamo warn about what they use themselves.
torchs_own = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def small(kind: str = "monotone", n: int = 5, seed: int = 0) -> tuple[Form, Tensor]:
    """p = 3, q = 2, feed-through, two samples; well-posed with Λ = 1, contracting, or without cycles."""
    rng = np.random.default_rng(seed)
    if kind == "monotone":
        A, B = 0.3 * rng.standard_normal((2, n, n))
        W = 0.2 * np.eye(n) - A.T @ A + B - B.T
    else:
        W = contraction_matrix(rng, n) if kind == "contracting" else acyclic_matrix(rng, n)
    return make(W, seed=1, batch=2)


def function(
    form: Form, settings: Settings, *, acyclic: bool = False
) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """y as a function of (x, W, U, b, C, D, c), and those tensors."""

    def solve(x: Tensor, *weights: Tensor) -> Tensor:
        names = ("U", "b", "C", "D", "c") if acyclic else ("W", "U", "b", "C", "D", "c")
        own = {"W": form.W.dense(), **dict(zip(names, weights, strict=True))}
        made = dense(**own, activation=form.activation, standardisation=form.standardisation)
        return equilibrium(made, x, settings).y

    weights = [form.W.dense(), form.U.dense(), form.b, form.C.dense(), form.D.dense(), form.c]
    return solve, tuple(t.clone().requires_grad_() for t in (weights[1:] if acyclic else weights))


def jacobian(form: Form, x: Tensor) -> Tensor:
    """dy/dx of every sample, (batch, q, p), from the equilibrium in extended precision and a dense inverse."""
    z = equilibria(form, x)
    W, U, C, D = (getattr(form, name).dense().numpy() for name in "WUCD")
    xi = form.standardise(x).numpy()
    s = z @ W.T + xi @ U.T + form.b.numpy()
    _, slopes = value_and_slope(form.activation, s)
    eye = np.eye(len(W))
    own = [C @ np.linalg.solve(eye - (j[:, None] * W), j[:, None] * U) + D for j in slopes.astype(float)]
    units = 1.0 if form.standardisation is None else form.standardisation.std.numpy()
    return tensor(np.stack(own) / units)


# ---------------------------------------------------------------- exact gradients

EXACT: list[tuple[Solver, str]] = [
    (PeacemanRachford(), "monotone"),
    (DouglasRachford(), "monotone"),
    (ForwardBackward(), "monotone"),
    (Newton(), "monotone"),
    (Refined(), "monotone"),
    (Anderson(), "monotone"),
    (Auto(), "monotone"),
    (Averaged(), "contracting"),
    (Anderson(Averaged()), "contracting"),
    (Substitution(), "acyclic"),
    (Auto(), "acyclic"),
]
named = pytest.mark.parametrize(("solver", "kind"), EXACT, ids=lambda c: c if isinstance(c, str) else type(c).__name__)


@pytest.mark.parametrize("sigma", ACTIVATIONS, ids=lambda s: s.kind)
@named
def test_the_jacobian_is_that_of_the_implicit_function_theorem(solver: Solver, kind: str, sigma: Activation) -> None:
    form, x = small(kind)
    form = with_activation(form, sigma)
    x.requires_grad_()
    y = equilibrium(form, x, Settings(solver, tolerance=TIGHT, max_iterations=20_000)).y
    rows = [torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0] for i in range(2)]
    assert torch.allclose(torch.stack(rows, dim=1), jacobian(form, x.detach()), rtol=1e-9, atol=1e-9)


@torchs_own
@pytest.mark.parametrize(
    ("solver", "kind"),
    [case for case in EXACT if case[0] != Anderson(Averaged())],
    ids=lambda c: c if isinstance(c, str) else type(c).__name__,
)
def test_every_tensor_gets_both_derivatives(solver: Solver, kind: str) -> None:
    """In reverse and in forward mode, and once more, at the same time in x, W, U, b, C, D and c."""
    form, x = small(kind, n=4)
    # Forward-backward takes a thousand steps, which want a proximal map in closed form.
    form = with_activation(form, LeakyReLU(0.3) if isinstance(solver, ForwardBackward) else Softplus())
    settings = Settings(solver, tolerance=TIGHT, max_iterations=20_000)
    solve, weights = function(form, settings, acyclic=kind == "acyclic")
    inputs = (x.clone().requires_grad_(), *weights)
    assert torch.autograd.gradcheck(solve, inputs, atol=1e-6, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(solve, inputs, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("sigma", [Tanh(), ReLU(), Blockwise(((Tanh(), 2), (LeakyReLU(0.3), 2)))], ids=lambda s: s.kind)
@pytest.mark.parametrize("solver", [PeacemanRachford(), DouglasRachford(), ForwardBackward(), Newton()], ids=repr)
def test_unrolled_iterations_have_the_same_derivatives(solver: Solver, sigma: Activation) -> None:
    form, x = small(n=4)
    form = with_activation(form, sigma)
    grads = []
    for gradient in (Implicit(), Unrolled()):
        solve, weights = function(form, Settings(solver, gradient, tolerance=TIGHT, max_iterations=20_000))
        own = (x.clone().requires_grad_(), *weights)
        grads.append(torch.autograd.grad(solve(*own).square().sum(), own))
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-7, atol=1e-8)


def test_the_standardisation_is_differentiated_through() -> None:
    form, x = small()
    units = Standardisation(torch.tensor([0.3, -2.0, 10.0], dtype=F64), torch.tensor([0.1, 3.0, 20.0], dtype=F64))
    form = replace(with_activation(form, Tanh()), standardisation=units)
    x.requires_grad_()
    y = equilibrium(form, x, Settings(tolerance=TIGHT)).y
    rows = [torch.autograd.grad(y[:, i].sum(), x, retain_graph=True)[0] for i in range(2)]
    assert torch.allclose(torch.stack(rows, dim=1), jacobian(form, x.detach()), rtol=1e-8, atol=1e-9)


def test_gradients_of_z_and_of_y_together() -> None:
    form, x = small()
    form = with_activation(form, Tanh())

    def both(own: Tensor) -> Tensor:
        solution = equilibrium(form, own, Settings(tolerance=TIGHT))
        return torch.cat([solution.z, solution.y], dim=1)

    assert torch.autograd.gradcheck(both, (x.requires_grad_(),))


@pytest.mark.parametrize("tracked", [(0,), (1,), (2,), (3,), (4,), (6,), (0, 1), (3, 6)])
def test_only_what_is_asked_for_is_tracked(tracked: tuple[int, ...]) -> None:
    form, x = small()
    solve, weights = function(with_activation(form, Tanh()), Settings(tolerance=TIGHT))
    everything = (x.clone().requires_grad_(), *weights)
    full = torch.autograd.grad(solve(*everything).square().sum(), everything)
    some = tuple(t.detach().requires_grad_(i in tracked) for i, t in enumerate(everything))
    part = torch.autograd.grad(solve(*some).square().sum(), [some[i] for i in tracked])
    for i, own in zip(tracked, part, strict=True):
        assert torch.allclose(own, full[i], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "gradient", [Implicit(), JacobianFree(), Phantom(), Unrolled()], ids=lambda g: type(g).__name__
)
def test_nothing_is_tracked_where_nothing_is_asked(gradient: Gradient) -> None:
    form, x = small()
    assert not equilibrium(form, x, Settings(gradient=gradient)).y.requires_grad
    with torch.no_grad():
        assert not equilibrium(form, x.clone().requires_grad_(), Settings(gradient=gradient)).y.requires_grad
    with torch.inference_mode():
        assert torch.allclose(equilibrium(form, x, Settings(gradient=gradient)).y, equilibrium(form, x).y, rtol=1e-7)
    tracked = equilibrium(form, x.clone().requires_grad_(), Settings(gradient=gradient))
    assert tracked.y.requires_grad
    assert not tracked.residual.requires_grad
    assert not tracked.error.requires_grad


def test_inactive_neurons_give_zeros_and_no_nan() -> None:
    """Every neuron off: the gradient is that of the feed-through alone."""
    form, x = small()
    off = replace(form, b=torch.full_like(form.b, -100.0))
    for solver in (PeacemanRachford(), ForwardBackward(), Newton(), Auto(), Anderson(), DouglasRachford()):
        own = x.clone().requires_grad_()
        y = equilibrium(off, own, Settings(solver, tolerance=1e-9)).y
        (grad,) = torch.autograd.grad(y.sum(), own)
        assert torch.allclose(grad, form.D.dense().sum(0).expand_as(grad), rtol=1e-12)


def test_a_cotangent_of_zero_and_of_any_size() -> None:
    form, x = small()
    form = with_activation(form, Tanh())
    x.requires_grad_()
    y = equilibrium(form, x, Settings(tolerance=1e-10)).y
    (one,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
    for scale in (0.0, 1e-100, 1e-12, 1e12, 1e100):
        (own,) = torch.autograd.grad(y, x, scale * torch.ones_like(y), retain_graph=True)
        assert torch.allclose(own, scale * one, rtol=1e-8, atol=0)


def test_batches_of_none_have_gradients() -> None:
    form, _ = small()
    solve, weights = function(form, Settings())
    x = torch.zeros(0, 3, dtype=F64, requires_grad=True)
    grads = torch.autograd.grad(solve(x, *weights).sum(), (x, *weights))
    assert grads[0].shape == (0, 3)
    assert all(not bool(g.any()) for g in grads[1:])


@pytest.mark.parametrize("n", [0, 1])
def test_few_neurons_have_gradients(n: int) -> None:
    form, x = make(np.full((n, n), -0.7), seed=1, batch=3)
    form = with_activation(form, Tanh())
    solve, weights = function(form, Settings(tolerance=TIGHT), acyclic=n == 0)
    own = (x.requires_grad_(), *weights)
    grads = torch.autograd.grad(solve(*own).square().sum(), own)
    assert all(g.shape == t.shape for g, t in zip(grads, own, strict=True))
    if n:
        assert torch.autograd.gradcheck(solve, own, fast_mode=True)
    else:
        y = solve(*own)
        assert torch.allclose(grads[0], 2 * y @ form.D.dense())


def test_the_adjoint_has_a_tolerance_of_its_own() -> None:
    form, x = small()
    form = with_activation(form, Tanh())
    exact = jacobian(form, x).sum(1)
    errors = []
    for tolerance in (1e-1, 1e-4, 1e-10):
        own = x.clone().requires_grad_()
        y = equilibrium(form, own, Settings(PeacemanRachford(), Implicit(tolerance), tolerance=TIGHT)).y
        errors.append(float((torch.autograd.grad(y.sum(), own)[0] - exact).norm() / exact.norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-8


def test_large_batches_are_differentiated_in_chunks() -> None:
    form, _ = small()
    form = with_activation(form, Tanh())
    rows = 2 * loop.CHUNK + 3
    x = torch.randn(rows, 3, generator=torch.Generator().manual_seed(0), dtype=F64, requires_grad=True)
    y = equilibrium(form, x, Settings(tolerance=TIGHT)).y
    (grad,) = torch.autograd.grad(y.sum(), x)
    some = torch.tensor([0, loop.CHUNK, rows - 1])
    assert torch.allclose(grad[some], jacobian(form, x.detach()[some]).sum(1), rtol=1e-8, atol=1e-9)


def test_gradients_in_float32() -> None:
    form, x = small()
    form = with_activation(form, Tanh())
    single = form.to(torch.float32)
    own = x.float().requires_grad_()
    (grad,) = torch.autograd.grad(equilibrium(single, own, Settings(tolerance=1e-6)).y.sum(), own)
    assert grad.dtype == torch.float32
    assert torch.allclose(grad.double(), jacobian(form, x).sum(1), rtol=1e-4, atol=1e-4)


def test_a_flagged_failure_still_has_a_gradient() -> None:
    form, x = small()
    own = x.clone().requires_grad_()
    settings = Settings(PeacemanRachford(), max_iterations=2, tolerance=1e-10, raise_on_failure=False)
    solution = equilibrium(form, own, settings)
    assert solution.status is not Status.CONVERGED
    (grad,) = torch.autograd.grad(solution.y.sum(), own)
    assert bool(grad.isfinite().all())


# ---------------------------------------------------------------- biased gradients


def slopes(form: Form, x: Tensor, gradient: Gradient) -> Tensor:
    solve, weights = function(form, Settings(gradient=gradient, tolerance=TIGHT))
    own = (x.clone().requires_grad_(), *weights)
    return torch.cat([g.flatten() for g in torch.autograd.grad(solve(*own).square().sum(), own)])


def test_phantom_gradients_approach_the_exact_one() -> None:
    form, x = small("contracting")
    form = with_activation(form, Tanh())
    exact = slopes(form, x, Implicit())
    distances = [float((slopes(form, x, Phantom(k, 0.1)) - exact).norm() / exact.norm()) for k in (1, 4, 16, 64)]
    assert distances[0] > 1e-2
    assert all(later < earlier for earlier, later in pairwise(distances))
    assert distances[-1] < 1e-3
    # Damped too little for this W, the steps run away, as the docstring warns.
    assert float((slopes(form, x, Phantom(8, 1.0)) - exact).norm() / exact.norm()) > 10


def test_the_jacobian_free_gradient_is_that_of_one_step() -> None:
    form, x = small("contracting")
    form = with_activation(form, Tanh())
    z = equilibrium(form, x, Settings(tolerance=TIGHT)).z.detach()
    own = x.clone().requires_grad_()
    xi = form.standardise(own)
    (expected,) = torch.autograd.grad(form.output(form.step(z, form.bias(xi)), xi).sum(), own)
    own = x.clone().requires_grad_()
    solution = equilibrium(form, own, Settings(gradient=JacobianFree(), tolerance=TIGHT))
    (got,) = torch.autograd.grad(solution.y.sum(), own)
    assert torch.allclose(got, expected, rtol=1e-9, atol=1e-11)
    assert torch.equal(solution.z.detach(), equilibrium(form, x, Settings(tolerance=TIGHT)).z)


def test_the_value_does_not_depend_on_the_gradient() -> None:
    form, x = small()
    plain = equilibrium(form, x, Settings(tolerance=TIGHT)).y
    for gradient in (JacobianFree(), Phantom(7, 0.3), Unrolled(), Implicit(1e-3)):
        own = x.clone().requires_grad_()
        y = equilibrium(form, own, Settings(gradient=gradient, tolerance=TIGHT)).y
        assert torch.allclose(y, plain, rtol=1e-10, atol=1e-11)


def test_each_says_whether_it_is_exact() -> None:
    assert (Implicit.exact, Unrolled.exact) == (True, True)
    assert (JacobianFree.exact, Phantom.exact) == (False, False)


# ---------------------------------------------------------------- torch.func


@torchs_own
def test_ensembles_of_weights_can_be_mapped() -> None:
    """Another W for every member: what vmap over parameters asks for."""
    members = [small(seed=s)[0] for s in range(3)]
    _, x = small()
    Ws, bs = torch.stack([f.W.dense() for f in members]), torch.stack([f.b for f in members])
    form = with_activation(members[0], Tanh())

    def one(W: Tensor, b: Tensor, row: Tensor) -> Tensor:
        own = dense(W, form.U.dense(), b, form.C.dense(), form.c, activation=form.activation)
        return equilibrium(own, row, Settings(tolerance=TIGHT)).y

    expected = torch.stack([one(W, b, x) for W, b in zip(Ws, bs, strict=True)])
    mapped = torch.func.vmap(one, in_dims=(0, 0, None))(Ws, bs, x)
    assert torch.allclose(mapped, expected, rtol=1e-9, atol=1e-10)

    def loss(W: Tensor, b: Tensor) -> Tensor:
        return one(W, b, x).square().sum()

    grads = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1)))(Ws, bs)
    for i in range(3):
        own = (Ws[i].clone().requires_grad_(), bs[i].clone().requires_grad_())
        for got, want in zip(grads, torch.autograd.grad(loss(*own), own), strict=True):
            assert torch.allclose(got[i], want, rtol=1e-8, atol=1e-9)


@torchs_own
def test_transforms_compose() -> None:
    form, x = small()
    form = with_activation(form, Tanh())
    settings = Settings(tolerance=TIGHT)

    def scalar(row: Tensor) -> Tensor:
        return equilibrium(form, row[None], settings).y.square().sum()

    tracked = x[0].clone().requires_grad_()
    (first,) = torch.autograd.grad(scalar(tracked), tracked, create_graph=True)
    rows = [torch.autograd.grad(part, tracked, retain_graph=True)[0] for part in first]
    assert torch.allclose(torch.func.grad(scalar)(x[0]), first.detach(), rtol=1e-9)
    for hessian in (
        torch.func.hessian(scalar),
        torch.func.jacrev(torch.func.jacrev(scalar)),
        torch.func.jacrev(torch.func.jacfwd(scalar)),
    ):
        assert torch.allclose(hessian(x[0]), torch.stack(rows), rtol=1e-8, atol=1e-9)
    with pytest.raises(InputError, match="197867"):  # torch itself is silently wrong there
        torch.func.jacfwd(torch.func.jacfwd(scalar))(x[0])
    direction = torch.tensor([0.3, -1.0, 2.0], dtype=F64)
    value, slope = torch.func.jvp(scalar, (x[0],), (direction,))
    assert torch.allclose(value, scalar(x[0]))
    assert torch.allclose(slope, first.detach() @ direction, rtol=1e-9)
    each = torch.func.vmap(torch.func.grad(scalar))(x)
    assert torch.allclose(each[0], first.detach(), rtol=1e-9)


@torchs_own
def test_a_mapped_batch_is_one_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of vmap become rows of one batch, not one solve each."""
    form, _ = small()
    calls: list[int] = []
    original = loop.solve

    def count(stages: object, equation: object, *rest: object, **more: object) -> object:
        calls.append(len(equation.bias))  # type: ignore[attr-defined]
        return original(stages, equation, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "solve", count)
    x = torch.randn(11, 3, dtype=F64)
    y = torch.func.vmap(lambda row: equilibrium(form, row[None], Settings(tolerance=TIGHT)).y[0])(x)
    assert calls == [11]
    assert torch.allclose(y, equilibrium(form, x, Settings(tolerance=TIGHT)).y, rtol=1e-9, atol=1e-10)


@torchs_own
@pytest.mark.parametrize(
    "gradient", [Implicit(), JacobianFree(), Phantom(3, 0.7), Unrolled()], ids=lambda g: type(g).__name__
)
@pytest.mark.parametrize("sigma", [Tanh(), ReLU(), Softplus()], ids=lambda s: s.kind)
def test_forward_mode_is_the_transpose_of_reverse_mode(gradient: Gradient, sigma: Activation) -> None:
    """Biased or not, both modes give one derivative."""
    form, x = small()
    form = with_activation(form, sigma)
    settings = Settings(PeacemanRachford(), gradient, tolerance=TIGHT)

    def solve(own: Tensor) -> Tensor:
        return equilibrium(form, own, settings).y

    direction = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, -0.2]], dtype=F64)
    weights = torch.tensor([[1.0, -2.0], [0.7, 0.1]], dtype=F64)
    _, forward = torch.func.jvp(solve, (x,), (direction,))
    own = x.clone().requires_grad_()
    (reverse,) = torch.autograd.grad((solve(own) * weights).sum(), own)
    assert torch.allclose((forward * weights).sum(), (reverse * direction).sum(), rtol=1e-8)


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "gradient", [Implicit(), JacobianFree(), Phantom(), Unrolled()], ids=lambda g: type(g).__name__
)
@pytest.mark.parametrize("order", [1, 2])
def test_nothing_is_left_to_the_collector(gradient: Gradient, order: int) -> None:
    """A step frees all it made by counting references: a cycle would keep activations until the collector runs."""
    form, x = small()
    form = with_activation(form, Tanh())

    def step() -> weakref.ref[Tensor]:
        own = x.clone().requires_grad_()
        solution = equilibrium(form, own, Settings(gradient=gradient))
        (grad,) = torch.autograd.grad(solution.y.square().sum(), own, create_graph=order == 2)
        if order == 2:
            grad.square().sum().backward()
        return weakref.ref(solution.z)

    for _ in range(2):
        step()
    gc.collect()
    gc.disable()
    try:
        left = step()
        assert left() is None
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_solution_kept_keeps_no_graph() -> None:
    """The report of a solve, residual and error, holds on to nothing that carries gradients."""
    form, x = small()
    own = x.clone().requires_grad_()
    solution = equilibrium(form, own)
    residual = solution.residual
    node = weakref.ref(solution.z.grad_fn)
    del solution
    assert residual.grad_fn is None
    assert node() is None


def test_the_bank_has_gradients_too() -> None:
    """Ill-conditioned equations against dense inverses."""
    for name in ("lben of 12, skewed", "lben of 10, stiff", "well-posed by multipliers unknown", "acyclic of 9"):
        own = problem(name)
        form = with_activation(own.form, Tanh())
        x = own.x.clone().requires_grad_()
        y = equilibrium(form, x, Settings(tolerance=1e-11)).y
        (grad,) = torch.autograd.grad(y.sum(), x)
        expected = jacobian(form, own.x).sum(1)
        assert torch.allclose(grad, expected, rtol=1e-6, atol=1e-7 * float(expected.abs().max())), name
