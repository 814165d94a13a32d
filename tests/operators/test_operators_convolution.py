"""Convolution, pooling and their kin: adjoints by inner products, against torch's own, norm bounds that are bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from equilip.errors import InputError
from equilip.operators import (
    AveragePool,
    Circular,
    Conv2d,
    Diagonal,
    Operator,
    Product,
    Reciprocal,
    Sum,
    Transposed,
    Zeros,
    border_mask,
    convolution_norm,
    exact_circular_norm,
    gram_bound,
    upsample,
)
from equilip.operators.convolution import adjoint_kernel, co_gram_kernel, gram_kernel

checked = settings(deadline=None, derandomize=True, max_examples=40)
few = settings(deadline=None, derandomize=True, max_examples=15)
CPU = torch.device("cpu")


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def convolutions(draw: st.DrawFn, dtype: torch.dtype = torch.float64) -> Conv2d:
    channels, out = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    tall, wide = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    circular = draw(st.booleans())
    least = max(0, -(-(max(tall - height, wide - width)) // 2))
    most = min(height, width) if circular else 7
    if least > most:
        tall, wide, least = min(tall, height), min(wide, width), 0
    padding = draw(st.integers(least, most))
    kernel = normal(out, channels, tall, wide, seed=draw(st.integers(0, 2**31)), dtype=dtype)
    kind = Circular(padding) if circular else Zeros(padding)
    return Conv2d(kernel, (channels, height, width), kind, draw(st.integers(1, 3)))


@st.composite
def others(draw: st.DrawFn) -> Operator:
    size, padding = draw(st.integers(1, 4)), 0
    blocks = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = (draw(st.integers(1, 3)), blocks[0] * size, blocks[1] * size)
    if size > 2 and draw(st.booleans()):
        padding = 1
        shape = (shape[0], shape[1] - 2, shape[2] - 2)
    pool = AveragePool(shape, size, torch.float64, CPU, padding)
    mask = border_mask(shape, draw(st.integers(0, min(shape[1:]) // 2)), dtype=torch.float64, device=CPU)
    seed = draw(st.integers(0, 2**31))
    conv = Conv2d(normal(2, shape[0], 1, 1, seed=seed), shape, Zeros(0))
    makers = [
        pool,
        mask,
        upsample(shape, size, dtype=torch.float64, device=CPU),
        Diagonal(normal(pool.in_size, seed=seed)),
        Reciprocal(normal(pool.in_size, seed=seed)),
        Product(pool, mask),
        Transposed(Product(conv, mask)),
        Sum((mask, Product(Transposed(conv), conv), Product(Transposed(pool), pool))),
    ]
    return makers[draw(st.integers(0, len(makers) - 1))]


def adjoint_error(A: Operator, seed: int, dtype: torch.dtype = torch.float64) -> float:
    """|⟨A x, y⟩ - ⟨x, Aᵀ y⟩| relative to the sizes of the terms that were added up."""
    x, y = normal(3, A.in_size, seed=seed, dtype=dtype), normal(3, A.out_size, seed=seed + 1, dtype=dtype)
    image, back = A.apply(x), A.adjoint(y)
    assert image.shape == y.shape
    assert back.shape == x.shape
    left, right = (image * y).sum(1).double(), (x * back).sum(1).double()
    size = (image * y).abs().sum(1) + (x * back).abs().sum(1)
    return float(((left - right).abs() / size.double().clamp(min=1e-300)).amax())


@checked
@given(A=convolutions(), seed=st.integers(0, 2**31))
def test_the_adjoint_of_a_convolution(A: Conv2d, seed: int) -> None:
    assert adjoint_error(A, seed) <= 1e-12
    assert adjoint_error(A.transpose(), seed) <= 1e-12


@few
@given(A=convolutions(torch.float32), seed=st.integers(0, 2**31))
def test_the_adjoint_in_float32(A: Conv2d, seed: int) -> None:
    assert adjoint_error(A, seed, torch.float32) <= 1e-5


@checked
@given(A=others(), seed=st.integers(0, 2**31))
def test_the_adjoints_of_the_others(A: Operator, seed: int) -> None:
    assert adjoint_error(A, seed) <= 1e-12
    assert adjoint_error(A.transpose(), seed) <= 1e-12


@few
@given(A=st.one_of(convolutions(), others()), seed=st.integers(0, 2**31))
def test_the_matrix_does_what_the_operator_does(A: Operator, seed: int) -> None:
    x, y = normal(2, A.in_size, seed=seed), normal(A.out_size, seed=seed + 1)
    M = A.dense()
    assert M.shape == (A.out_size, A.in_size)
    assert torch.allclose(A.apply(x), x @ M.mT, rtol=1e-12, atol=1e-12)
    assert torch.allclose(A.plus(x, y), x @ M.mT + y, rtol=1e-12, atol=1e-12)
    assert torch.allclose(A.transpose().dense(), M.mT, rtol=1e-12, atol=1e-12)
    assert A.to(torch.float32, None).apply(x.float()).dtype == torch.float32
    assert torch.equal(A.rebuild(A.tensors).dense(), M)
    assert float(torch.linalg.matrix_norm(M, 2)) <= A.norm_bound() * (1 + 1e-14)


@few
@given(A=st.one_of(convolutions(), others()), seed=st.integers(0, 2**31))
def test_derivatives_in_the_tensors(A: Operator, seed: int) -> None:
    x, v = normal(2, A.in_size, seed=seed), normal(2, A.out_size, seed=seed + 1)
    tangents = tuple(normal(*t.shape, seed=seed + i) for i, t in enumerate(A.tensors))
    step = 1e-6
    moved = [A.rebuild(tuple(t + s * d for t, d in zip(A.tensors, tangents, strict=True))) for s in (step, -step)]
    change = (moved[0].apply(x) - moved[1].apply(x)) / (2 * step)
    back = (moved[0].adjoint(v) - moved[1].adjoint(v)) / (2 * step)
    assert torch.allclose(A.pushforward(tangents, x), change, rtol=1e-6, atol=1e-7)
    assert torch.allclose(A.adjoint_pushforward(tangents, v), back, rtol=1e-6, atol=1e-7)
    if tangents:
        pulled = sum(float((d * g).sum().detach()) for d, g in zip(tangents, A.pullback(x, v), strict=True))
        assert pulled == pytest.approx(float((v * change).sum()), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("size", [(5, 5), (4, 7)])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_convolutions_are_those_of_torch(size: tuple[int, int], k: int) -> None:
    layer = torch.nn.Conv2d(2, 3, k, padding=k // 2, padding_mode="circular", bias=False, dtype=torch.float64)
    x = normal(2, 2, *size, seed=0)
    A = Conv2d(layer.weight.detach(), (2, *size), Circular(k // 2))
    assert torch.allclose(A.apply(x.flatten(1)), layer(x).flatten(1), atol=1e-13)


@few
@given(seed=st.integers(0, 2**31), k=st.sampled_from([1, 3, 5]), height=st.integers(5, 8), width=st.integers(5, 8))
def test_composed_kernels(seed: int, k: int, height: int, width: int) -> None:
    kernel, shape = normal(3, 2, k, k, seed=seed), (2, height, width)
    full = Conv2d(kernel, shape, Zeros(k - 1))
    x = normal(2, full.in_size, seed=seed)
    gram = Conv2d(gram_kernel(kernel), shape, Zeros(k - 1))
    assert torch.allclose(full.adjoint(full.apply(x)), gram.apply(x), atol=1e-11)
    round_trip = Conv2d(kernel, shape, Circular(k // 2))
    gram = Conv2d(gram_kernel(kernel), shape, Circular(k - 1))
    assert torch.allclose(round_trip.adjoint(round_trip.apply(x)), gram.apply(x), atol=1e-11)
    # V Vᵀ of the convolution without padding, on a larger image, dominates U Uᵀ of the one with zero padding.
    valid = Conv2d(kernel, (2, height + k - 1, width + k - 1), Zeros(0))
    same = Conv2d(kernel, shape, Zeros(k // 2))
    z = normal(2, valid.out_size, seed=seed)
    co_gram = Conv2d(co_gram_kernel(kernel), (3, height, width), Zeros(k - 1))
    assert torch.allclose(valid.apply(valid.adjoint(z)), co_gram.apply(z), atol=1e-11)
    U = same.dense()
    slack = torch.linalg.eigvalsh(co_gram.dense() - U @ U.mT)
    assert float(slack[0]) >= -1e-10
    for padding in (Zeros(k // 2), Circular(k // 2)):
        B = Conv2d(normal(2, 2, k, k, seed=seed), shape, padding)
        transposed = Conv2d(adjoint_kernel(B.kernel), shape, padding)
        assert torch.allclose(B.adjoint(x), transposed.apply(x), atol=1e-12)


@checked
@given(A=convolutions())
def test_norm_bounds_are_upper_bounds(A: Conv2d) -> None:
    norm = float(torch.linalg.matrix_norm(A.dense(), 2))
    assert norm <= A.norm_bound()
    for steps in (0, 3, 8):
        assert norm <= convolution_norm(A, steps)
    assert convolution_norm(A, 8) <= convolution_norm(A, 3) * (1 + 1e-9)


@few
@given(seed=st.integers(0, 2**31), k=st.sampled_from([1, 3, 5]), size=st.integers(5, 9))
def test_the_circular_norm_is_exact(seed: int, k: int, size: int) -> None:
    A = Conv2d(normal(3, 2, k, k, seed=seed), (2, size, size), Circular(k // 2))
    norm = float(torch.linalg.matrix_norm(A.dense(), 2))
    assert norm <= exact_circular_norm(A) <= norm * (1 + 1e-11)
    assert norm <= convolution_norm(A, 10) <= norm * 1.001


def test_the_size_rule_is_needed() -> None:
    """The circular norm at the image's own size is no bound for zero padding: there are kernels that exceed it."""
    worst = 0.0
    for seed in range(40):
        kernel = normal(1, 1, 3, 3, seed=seed)
        zero = float(torch.linalg.matrix_norm(Conv2d(kernel, (1, 3, 3), Zeros(1)).dense(), 2))
        worst = max(worst, zero / exact_circular_norm(Conv2d(kernel, (1, 3, 3), Circular(1))))
        assert zero <= convolution_norm(Conv2d(kernel, (1, 3, 3), Zeros(1)))
    assert worst > 1.02


def test_gram_bounds_of_special_matrices() -> None:
    assert gram_bound(torch.zeros(2, 3, 4)) == 0.0
    assert gram_bound(torch.zeros(0, 3, 4)) == 0.0
    assert gram_bound(1e150 * torch.eye(3, dtype=torch.float64)[None], 10) == pytest.approx(1e150, rel=1e-2)
    assert gram_bound(1e-150 * torch.eye(3, dtype=torch.float64)[None], 10) == pytest.approx(1e-150, rel=1e-2)
    M = normal(4, 3, 5, seed=0)
    exact = float(torch.linalg.svdvals(M).amax())
    assert exact <= gram_bound(M, 12) <= exact * (1 + 1e-3)


def test_pooling_is_that_of_torch() -> None:
    x = normal(2, 3, 4, 7, seed=0)
    pool = AveragePool((3, 4, 7), 3, torch.float64, CPU, padding=1)
    with pytest.raises(InputError):
        AveragePool((3, 5, 7), 3, torch.float64, CPU, padding=1)
    assert torch.equal(pool.apply(x.flatten(1)), functional.avg_pool2d(x, 3, padding=1).flatten(1))
    up = upsample((3, 4, 7), 2, dtype=torch.float64, device=CPU)
    expected = functional.interpolate(x, scale_factor=2, mode="nearest")
    assert torch.allclose(up.apply(x.flatten(1)), expected.flatten(1), rtol=1e-15)
    mask = border_mask((3, 4, 7), 1, dtype=torch.float64, device=CPU).apply(x.flatten(1)).view_as(x)
    assert torch.equal(mask[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1])
    assert int(mask.count_nonzero()) == 2 * 3 * 2 * 5


@pytest.mark.parametrize(
    "make",
    [
        lambda: Conv2d(torch.ones(1, 2, 3, 3), (1, 5, 5), Zeros(1)),
        lambda: Conv2d(torch.ones(1, 1, 3, 3), (1, 1, 5), Zeros(0)),
        lambda: Conv2d(torch.ones(1, 1, 3, 3), (1, 5, 5), Zeros(1), 0),
        lambda: Conv2d(torch.ones(1, 1, 7, 7), (1, 2, 5), Circular(3)),
        lambda: Zeros(-1),
        lambda: AveragePool((1, 4, 4), 3, torch.float64, CPU),
        lambda: border_mask((1, 4, 4), 3, dtype=torch.float64, device=CPU),
        lambda: Sum((Diagonal(torch.ones(2)), Diagonal(torch.ones(3)))),
        lambda: Product(Diagonal(torch.ones(2)), Diagonal(torch.ones(3))),
        lambda: exact_circular_norm(Conv2d(torch.ones(1, 1, 3, 3), (1, 4, 4), Zeros(1))),
    ],
)
def test_what_does_not_fit_is_refused(make: object) -> None:
    with pytest.raises(InputError):
        make()  # type: ignore[operator]
