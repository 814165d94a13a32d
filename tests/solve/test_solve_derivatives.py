"""Gradients through an equilibrium: exact ones of every order, biased ones that say so, torch.func, no leaks."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

from equilip import form as forms
from equilip.activations import Activation, ReLU, Tanh
from equilip.errors import InputError
from equilip.form import Form
from equilip.nn import LBEN
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
    Substitution,
    Unrolled,
    equilibrium,
)

N, P, Q = 4, 3, 2


def random_form(kind: str, sigma: Activation, seed: int = 0) -> Form:
    """A small float64 form: well-posed with Λ = 1, contracting in l-infinity, or without cycles."""
    generator = torch.manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    T = draw(N, N)
    if kind == "contracting":
        W = 0.8 * T / T.abs().sum(1, keepdim=True)
    elif kind == "acyclic":
        W = T.tril(-1)
    else:
        A, B = 0.2 * draw(N, N), 0.2 * draw(N, N)
        W = 0.3 * torch.eye(N, dtype=torch.float64) - A.T @ A + B - B.T
    return forms.dense(W, draw(N, P), draw(N), draw(Q, N), draw(Q), activation=sigma)


CASES: list[tuple[Solver, str]] = [
    (Auto(), "monotone"),
    (PeacemanRachford(), "monotone"),
    (DouglasRachford(), "monotone"),
    (ForwardBackward(), "monotone"),
    (Newton(), "monotone"),
    (Refined(), "monotone"),
    (Anderson(), "monotone"),
    (Averaged(), "contracting"),
    (Substitution(), "acyclic"),
    (Auto(), "acyclic"),
]


def outputs(form: Form, settings: Settings):  # type: ignore[no-untyped-def]
    def solve(x: Tensor, W: Tensor, U: Tensor, b: Tensor) -> Tensor:
        own = forms.dense(W, U, b, form.C.dense(), form.c, activation=form.activation)
        return equilibrium(own, x, settings).y

    x = torch.randn(2, P, dtype=torch.float64, generator=torch.manual_seed(1))
    tensors = (x, form.W.dense(), form.U.dense(), form.b)
    return solve, tuple(t.clone().requires_grad_() for t in tensors)


@pytest.mark.parametrize("gradient", [Implicit(), Unrolled()], ids=lambda g: type(g).__name__)
@pytest.mark.parametrize("sigma", [ReLU(), Tanh()], ids=lambda s: s.kind)
@pytest.mark.parametrize(("solver", "kind"), CASES, ids=lambda c: c if isinstance(c, str) else type(c).__name__)
def test_first_and_second_derivatives(solver: Solver, kind: str, sigma: Activation, gradient: Gradient) -> None:
    assert gradient.exact
    settings = Settings(solver=solver, gradient=gradient, tolerance=1e-13, max_iterations=20_000)
    solve, inputs = outputs(random_form(kind, sigma), settings)
    if kind == "acyclic":  # a step in any direction of W would close a cycle
        inputs = (inputs[0], inputs[1].detach(), *inputs[2:])
    if not solver.unrolls and isinstance(gradient, Unrolled):
        with pytest.raises(InputError, match="no derivative"):
            solve(*inputs)
        return
    assert torch.autograd.gradcheck(solve, inputs, atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(solve, inputs, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("gradient", [JacobianFree(), Phantom(steps=2, damping=0.5)], ids=lambda g: type(g).__name__)
def test_biased_gradients_are_biased_and_say_so(gradient: Gradient) -> None:
    assert not gradient.exact
    form = random_form("contracting", Tanh())

    def slope(own: Gradient) -> Tensor:
        solve, inputs = outputs(form, Settings(gradient=own, tolerance=1e-12))
        y = solve(*inputs)
        return torch.cat([g.flatten() for g in torch.autograd.grad(y.square().sum(), inputs)])

    exact = slope(Implicit())
    distance = float((slope(gradient) - exact).norm() / exact.norm())
    assert distance > 1e-3
    assert float((slope(Phantom(steps=200, damping=1.0)) - exact).norm() / exact.norm()) < 1e-6


def test_a_third_derivative() -> None:
    form = random_form("monotone", Tanh())

    def third(x: Tensor) -> Tensor:
        y = equilibrium(form, x, Settings(tolerance=1e-13)).y.sum()
        (first,) = torch.autograd.grad(y, x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x, create_graph=True)
        return second

    x = torch.randn(2, P, dtype=torch.float64, generator=torch.manual_seed(2)).requires_grad_()
    assert torch.autograd.gradcheck(third, (x,), atol=1e-5, fast_mode=True)


# torch's own hessian and dynamo warn of what they use themselves.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_func_agrees_with_autograd() -> None:
    model = LBEN(P, N, Q, gamma=1.0, activation=Tanh(), dtype=torch.float64, settings=Settings(tolerance=1e-13))
    for mode in (True, False):
        model.train(mode)
        x = torch.randn(5, P, dtype=torch.float64, generator=torch.manual_seed(3))

        def one(row: Tensor) -> Tensor:
            return model(row[None])[0]

        backward = torch.func.vmap(torch.func.jacrev(one))(x)
        forward = torch.func.vmap(torch.func.jacfwd(one))(x)
        expected = torch.stack([torch.autograd.functional.jacobian(one, row) for row in x])
        assert torch.allclose(backward, expected, atol=1e-10)
        assert torch.allclose(forward, expected, atol=1e-10)
        hessian = torch.func.hessian(lambda row: one(row).sum())(x[0])
        assert torch.allclose(hessian, hessian.T, atol=1e-9)


def test_per_sample_gradients_and_changed_parameters() -> None:
    model = LBEN(P, N, Q, gamma=1.0, dtype=torch.float64, settings=Settings(tolerance=1e-12)).eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    x = torch.randn(4, P, dtype=torch.float64, generator=torch.manual_seed(4))

    def loss(own: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(model, own, (row[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for name, p in model.named_parameters():
        for i, row in enumerate(x):
            (expected,) = torch.autograd.grad(model(row[None]).square().sum(), p)
            assert torch.allclose(each[name][i], expected, atol=1e-9), name
    doubled = {name: 2 * p for name, p in parameters.items()}
    changed = torch.func.functional_call(model, doubled, (x,))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert torch.allclose(model(x), changed, atol=1e-10)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_inference_gives_the_same() -> None:
    model = LBEN(P, N, Q, gamma=1.0).eval()
    x = torch.randn(6, P, generator=torch.manual_seed(5))
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager")
        assert torch.equal(compiled(x), model(x))


def test_a_training_step_leaves_no_garbage() -> None:
    model = LBEN(P, N, Q, gamma=1.0).train()
    x = torch.randn(6, P)
    for _ in range(3):
        model(x).sum().backward()
        equilibrium(model.form(), x).y.sum().backward()
    gc.collect()
    left = []
    for _ in range(5):
        model(x).sum().backward()
        equilibrium(model.form(), x).y.sum().backward()
        left.append(gc.collect())
    # What a step leaves, every step leaves; the collector also counts what others in this process leave now and then.
    assert min(left) == 0


def test_one_node_and_the_pieces_have_the_same_gradient() -> None:
    model = LBEN(P, 6, Q, gamma=0.7, dtype=torch.float64, settings=Settings(tolerance=1e-13)).train()
    x = torch.randn(5, P, dtype=torch.float64).requires_grad_()
    wanted = (x, *model.parameters())
    weights = torch.randn(5, Q, dtype=torch.float64)
    one = torch.autograd.grad((model(x) * weights).sum(), wanted)
    pieces = torch.autograd.grad((equilibrium(model.form(), x, model.settings).y * weights).sum(), wanted)
    for a, b in zip(one, pieces, strict=True):
        assert torch.allclose(a, b, atol=1e-10)
