"""The W of a convolutional network: its definition, and the inequality that is its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.errors import InputError
from equilip.operators import (
    AveragePool,
    Circular,
    Conv2d,
    Dense,
    Ends,
    InputLayer,
    Operator,
    Padding,
    Plain,
    Product,
    Recurrence,
    Torus,
    Transposed,
    Weighted,
    Zeros,
)

CPU = torch.device("cpu")
ZEROS = Zeros(0)
METRICS = {"full": (1, 1, 1), "channel": (1, 0, 0), "image": (0, 1, 1), "identity": (0, 0, 0)}
few = settings(deadline=None, derandomize=True, max_examples=20)


def make(
    *,
    k: int = 3,
    padding: Padding = ZEROS,
    metric: str = "full",
    layer: type[InputLayer] = Weighted,
    gamma: float | None = 0.7,
    seed: int = 0,
    size: tuple[int, int] = (6, 4),
    channels: int = 2,
    epsilon: float = 0.1,
) -> tuple[Recurrence, Operator]:
    """A random W and the U that it is for."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (channels, *size)
    free = METRICS[metric]
    lam = (0.7 * normal(*(n if f else 1 for n, f in zip(shape, free, strict=True)))).exp()
    if metric == "identity":
        lam = torch.ones_like(lam)
    pool = AveragePool(shape, 2, torch.float64, CPU)
    head = Product(Dense(normal(3, pool.out_size)), pool)
    input_layer = layer(normal(channels, 1, k, k))
    ends = None if gamma is None else Ends(input_layer, head, gamma)
    W = Recurrence(shape, lam, normal(3, channels, k, k), normal(channels, channels, k, k), padding, epsilon, ends)
    return W, input_layer.operator(shape, padding, lam)


every = pytest.mark.parametrize(
    ("metric", "padding", "layer", "k"),
    [
        (metric, padding, layer, k)
        for metric in METRICS
        for padding in (Zeros(0), Circular(0))
        for layer in (Weighted, Plain)
        for k in (1, 3)
    ],
)


@every
def test_the_definition_and_the_inequality(metric: str, padding: Padding, layer: type[InputLayer], k: int) -> None:
    W, U = make(k=k, padding=padding, metric=metric, layer=layer)
    assert W.ends is not None
    gamma, head = W.ends.gamma, W.ends.head
    zeros = isinstance(padding, Zeros)
    A = Conv2d(W.A, W.shape, Zeros(k - 1) if zeros else Circular(k // 2)).dense()
    B = Conv2d(W.B, W.shape, padding.of(k // 2)).dense()
    lam = torch.diag(W.multipliers)
    weighted = lam @ U.dense()
    n = W.in_size
    X = 0.1 * torch.eye(n, dtype=torch.float64) + A.mT @ A + B.mT - B + head.dense().mT @ head.dense() / (2 * gamma)
    rest = lam @ (torch.eye(n, dtype=torch.float64) - W.dense()) - X
    slack = torch.linalg.eigvalsh(rest - weighted @ weighted.mT / (2 * gamma))
    assert float((rest - rest.mT).abs().amax()) <= 1e-11
    assert float(slack[0]) >= -1e-10
    if not zeros:
        assert float(slack[-1]) <= 1e-10
    # The inequality of mathematics 1.2, with the slack that epsilon promises.
    C, P = head.dense(), 2 * lam - lam @ W.dense() - W.dense().mT @ lam
    S = P - (C.mT @ C + weighted @ weighted.mT) / gamma
    assert float(torch.linalg.eigvalsh(0.5 * (S + S.mT))[0]) >= 2 * 0.1 - 1e-10


@every
def test_adjoints_and_spectra(metric: str, padding: Padding, layer: type[InputLayer], k: int) -> None:
    W, _ = make(k=k, padding=padding, metric=metric, layer=layer, seed=1)
    M = W.dense()
    assert torch.allclose(W.transpose().dense(), M.mT, atol=1e-11)
    assert isinstance(W.transpose(), Transposed)
    generator = torch.Generator().manual_seed(2)
    x, offset = torch.randn(2, 3, W.in_size, generator=generator, dtype=torch.float64)
    assert torch.allclose(W.plus(x, offset), x @ M.mT + offset, atol=1e-10)
    assert float(torch.linalg.matrix_norm(M, 2)) <= W.norm_bound()
    X = W.multipliers[:, None] * (torch.eye(W.in_size, dtype=torch.float64) - M)
    eigenvalues = torch.linalg.eigvalsh(0.5 * (X + X.mT))
    known = W.spectrum()
    assert 0.1 - 1e-9 <= known.mu <= float(eigenvalues[0]) + 1e-9
    assert float(eigenvalues[-1]) <= known.L + 1e-9
    assert float(torch.linalg.matrix_norm(X, 2)) <= known.norm + 1e-9
    assert torch.allclose(W.to(torch.float32, None).dense().double(), M, atol=1e-3)


@st.composite
def recurrences(draw: st.DrawFn) -> Recurrence:
    padding, k = draw(st.sampled_from([Zeros(0), Circular(0)])), draw(st.sampled_from([1, 3, 5, 7]))
    # Circular padding cannot be wider than the image; pooling takes blocks of 2 pixels.
    least = max(1, k // 2) if isinstance(padding, Circular) else 1
    size = (2 * draw(st.integers(least, 5)), 2 * draw(st.integers(least, 5)))
    metric, layer = draw(st.sampled_from(list(METRICS))), draw(st.sampled_from([Weighted, Plain]))
    gamma, channels, seed = draw(st.sampled_from([None, 0.5])), draw(st.integers(1, 3)), draw(st.integers(0, 2**31))
    if isinstance(padding, Circular):
        size = (max(size[0], k - 1), max(size[1], k - 1))
    W, _ = make(k=k, padding=padding, metric=metric, layer=layer, gamma=gamma, channels=channels, size=size, seed=seed)
    return W


@few
@given(W=recurrences(), seed=st.integers(0, 2**31))
def test_the_adjoint_of_every_recurrence(W: Recurrence, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 3, W.in_size, generator=generator, dtype=torch.float64)
    for left, right in ((W.apply(x) * y, x * W.adjoint(y)), (W.split(x) * y, x * W.split_adjoint(y))):
        size = left.abs().sum(1) + right.abs().sum(1)
        assert float(((left.sum(1) - right.sum(1)).abs() / size).amax()) <= 1e-12


@pytest.mark.parametrize("layer", [Weighted, Plain])
@pytest.mark.parametrize("gamma", [None, 2.0])
def test_derivatives_in_the_tensors(layer: type[InputLayer], gamma: float | None) -> None:
    W, _ = make(layer=layer, gamma=gamma, size=(4, 4))
    generator = torch.Generator().manual_seed(3)
    x, v = torch.randn(2, 2, W.in_size, generator=generator, dtype=torch.float64)
    tangents = tuple(torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in W.tensors)
    step = 1e-6
    moved = [W.rebuild(tuple(t + s * d for t, d in zip(W.tensors, tangents, strict=True))) for s in (step, -step)]
    change = (moved[0].apply(x) - moved[1].apply(x)) / (2 * step)
    back = (moved[0].adjoint(v) - moved[1].adjoint(v)) / (2 * step)
    assert torch.allclose(W.pushforward(tangents, x), change, rtol=1e-5, atol=1e-5)
    assert torch.allclose(W.adjoint_pushforward(tangents, v), back, rtol=1e-5, atol=1e-5)
    pulled = sum(float((d * g).sum().detach()) for d, g in zip(tangents, W.pullback(x, v), strict=True))
    assert pulled == pytest.approx(float((v * change).sum()), rel=1e-6)


@few
@given(height=st.integers(1, 9), width=st.integers(1, 9), c=st.integers(1, 3), m=st.integers(0, 4), k=st.integers(0, 3))
def test_the_torus_multiplies_circular_convolutions(height: int, width: int, c: int, m: int, k: int) -> None:
    k = min(k, (min(height, width) - 1) // 2)
    generator = torch.Generator().manual_seed(height * 100 + width)
    kernel = torch.randn(c, c, 2 * k + 1, 2 * k + 1, generator=generator, dtype=torch.float64)
    x = torch.randn(m, c, height, width, generator=generator, dtype=torch.float64)
    from equilip.operators.gram_bound import symbol

    torus = Torus(height, width, torch.float64, CPU)
    blocks = torus.blocks(symbol(kernel, height, width)[: torus.rows])
    got = torus.multiply(blocks, torus.embed(x)).permute(3, 2, 0, 1)
    expected = Conv2d(kernel, (c, height, width), Circular(k)).apply(x.flatten(1)).view_as(x)
    assert torch.allclose(got, expected, atol=1e-12)


@every
def test_the_torus_gives_the_same_preactivations(
    metric: str, padding: Padding, layer: type[InputLayer], k: int
) -> None:
    W, _ = make(metric=metric, padding=padding, layer=layer, k=k)
    z = torch.randn(5, W.in_size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        quick = W.plus(z, torch.zeros_like(z))
    assert torch.allclose(quick, W.apply(z), rtol=1e-12, atol=1e-12)


@every
def test_the_estimate_of_the_largest_eigenvalue(metric: str, padding: Padding, layer: type[InputLayer], k: int) -> None:
    W, _ = make(metric=metric, padding=padding, layer=layer, k=k)
    X = W.split(torch.eye(W.in_size, dtype=torch.float64))
    exact = float(torch.linalg.eigvalsh(0.5 * (X + X.mT))[-1])
    assert 0.5 * exact <= W.largest() <= exact * (1 + 1e-5)


def test_subnormal_weights_are_no_weights_but_have_gradients() -> None:
    W, _ = make(layer=Plain)
    assert W.ends is not None
    tiny = (W.ends.input.kernel.float() * 1e-20).requires_grad_()
    tensors = (*(t.float() for t in W.tensors[:3]), tiny, *(t.float() for t in W.tensors[4:]))
    moved = W.rebuild(tensors)
    assert isinstance(moved, Recurrence)
    kernel = moved.input_kernel
    assert not bool(kernel.any())
    (gradient,) = torch.autograd.grad(kernel.sum(), tiny)
    assert bool(gradient.any())


def test_what_breaks_the_proof_is_refused() -> None:
    W, _ = make()
    assert W.ends is not None
    for change in (
        {"epsilon": 0.0},
        {"epsilon": float("nan")},
        {"lam": torch.ones(3, 6, 4)},
        {"A": torch.ones(2, 2, 2, 2)},
        {"B": torch.ones(2, 3, 3, 3)},
        {"ends": replace(W.ends, gamma=-1.0)},
        {"ends": replace(W.ends, head=Dense(torch.ones(2, 5)))},
        {"A": torch.ones(1, 2, 13, 13), "padding": Circular(0)},
    ):
        with pytest.raises(InputError):
            replace(W, **change)
