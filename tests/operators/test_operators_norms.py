"""Norms of convolutions: bounds never below the truth, estimates never above it, for a thousand kernels and more."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.errors import InputError
from equilip.operators import (
    Circular,
    Conv2d,
    Padding,
    Zeros,
    circular_bound,
    convolution_bound,
    convolution_norm,
    kernel_gram_bound,
    power_estimate,
)
from equilip.operators.gram_bound import EXACT, symbol

#: Singular values are themselves rounded.
SVD = 1e-13


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact(kernel: torch.Tensor, image: tuple[int, int], padding: Padding, stride: int = 1) -> float:
    operator = Conv2d(kernel, (kernel.shape[1], *image), padding, stride)
    return float(torch.linalg.matrix_norm(operator.dense(), 2))


@pytest.mark.parametrize("kind", [Zeros, Circular])
def test_a_thousand_kernels(kind: type[Padding]) -> None:
    """Never below the norm, and after six steps as close to it as the theory of the iteration says."""
    close = 0
    for seed in range(1000):
        m, c, k = 1 + seed % 3, 1 + seed // 3 % 2, (1, 3, 5, 3)[seed % 4]
        image = (5 + seed % 2, 5 + seed // 2 % 2)
        kernel, padding = normal(m, c, k, k, seed=seed), kind(k // 2)
        norm = exact(kernel, image, padding)
        bound = float(convolution_bound(kernel, image, padding, steps=6))
        assert norm * (1 - SVD) <= bound
        assert norm * (1 - SVD) <= float(kernel_gram_bound(kernel, 2))
        assert power_estimate(Conv2d(kernel, (c, *image), padding), 3) <= norm * (1 + SVD)
        grow = 0 if kind is Circular else k // 2
        values = torch.linalg.svdvals(symbol(kernel, *(n + grow for n in image)))
        largest = float(values.amax())
        # ‖G_6‖_F^(1/64) is the 128-norm of the singular values.
        theory = float(((values / largest) ** 128).sum(-1).amax()) ** (1 / 128)
        assert bound <= largest * theory * (1 + 1e-12)
        if kind is Circular and theory <= 1 + 1e-6:
            close += 1
            assert bound <= norm * (1 + 1e-6)
    assert kind is Zeros or close >= 700


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    sizes=st.tuples(*[st.integers(1, n) for n in (8, 8, 6, 6)]),
    padding=st.integers(0, 7),
    circular=st.booleans(),
    stride=st.integers(1, 3),
    exponent=st.sampled_from([-150, -8, 0, 8, 140]),
    seed=st.integers(0, 10_000),
)
def test_every_padding_and_stride(
    channels: tuple[int, int],
    sizes: tuple[int, int, int, int],
    padding: int,
    circular: bool,
    stride: int,
    exponent: int,
    seed: int,
) -> None:
    height, width, k, l = sizes  # noqa: E741
    if circular:
        padding = min(padding, height, width)
    k, l = min(k, height + 2 * padding), min(l, width + 2 * padding)  # noqa: E741
    kernel = normal(*channels, k, l, seed=seed)
    kind = Circular(padding) if circular else Zeros(padding)
    operator = Conv2d(kernel * 10.0**exponent, (channels[1], height, width), kind, stride)
    norm = 10.0**exponent * exact(kernel, (height, width), kind, stride)
    for steps in (0, 3, EXACT):
        assert norm * (1 - SVD) <= convolution_norm(operator, steps)
    if not operator.repeats > 1:
        assert norm * (1 - SVD) <= float(kernel_gram_bound(operator.kernel, 2))
    assert power_estimate(operator, 20) <= norm * (1 + SVD)
    if stride > 1 and not (circular and (height % stride or width % stride)):
        # The phases of a strided convolution are one of stride 1, which is no larger than the whole.
        whole = convolution_norm(Conv2d(operator.kernel, operator.shape, kind), EXACT)
        assert circular is False or convolution_norm(operator, EXACT) <= whole * (1 + 1e-11)


@pytest.mark.parametrize(("size", "stride"), [((6, 6), 1), ((5, 7), 1), ((6, 4), 2), ((6, 9), 3)])
def test_circular_bounds_are_exact_where_the_stride_divides(size: tuple[int, int], stride: int) -> None:
    for seed in range(5):
        kernel = normal(2, 2, 3, 3, seed=seed)
        norm = exact(kernel, size, Circular(1), stride)
        assert float(convolution_bound(kernel, size, Circular(1), stride, EXACT)) <= norm * (1 + 1e-11)


def test_rounding_is_paid_for() -> None:
    """Orthogonal convolutions: every singular value is 1, and float32 has nowhere to hide."""
    for seed in range(10):
        Q = torch.linalg.qr(normal(4, 4, seed=seed)).Q
        for dtype in (torch.float32, torch.float64):
            kernel = torch.zeros(4, 4, 3, 3, dtype=dtype)
            kernel[:, :, seed % 3, 1] = Q.to(dtype)
            norm = float(torch.linalg.matrix_norm(kernel[:, :, seed % 3, 1].double(), 2))
            for bound in (circular_bound(kernel, 7, 6, EXACT), kernel_gram_bound(kernel, 1)):
                assert bound.dtype == dtype
                assert norm * (1 - 1e-15) <= float(bound)
            assert float(circular_bound(kernel, 7, 6, EXACT)) <= norm * (
                1 + (1e-6 if dtype == torch.float32 else 1e-11)
            )


def test_batches_zeros_and_what_is_not_finite() -> None:
    kernels = normal(2, 3, 2, 4, 3, 3, seed=0)
    kernels[1, 2] = 0
    found = convolution_bound(kernels, (6, 5), Zeros(1))
    assert found.shape == (2, 3)
    assert float(found[1, 2]) == 0 == float(kernel_gram_bound(kernels[1, 2]))
    for i in range(2):
        for j in range(2):
            assert float(found[i, j]) == pytest.approx(float(convolution_bound(kernels[i, j], (6, 5), Zeros(1))))
    assert power_estimate(Conv2d(kernels[1, 2], (4, 6, 5), Zeros(1))) == 0
    kernels[0, 0, 0, 0, 0, 0] = torch.nan
    assert not bool(convolution_bound(kernels, (6, 5), Zeros(1))[0, 0].isfinite())


def test_gradients() -> None:
    kernel = normal(2, 3, 2, 3, 3, seed=1).requires_grad_()
    for padding, stride in ((Zeros(1), 1), (Zeros(1), 2), (Circular(1), 2)):
        assert torch.autograd.gradcheck(lambda K: convolution_bound(K, (4, 6), padding, stride, 3), kernel)  # noqa: B023
    assert torch.autograd.gradcheck(lambda K: kernel_gram_bound(K, 2), kernel.detach()[0].requires_grad_())
    zero = torch.zeros(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    (convolution_bound(zero, (4, 4), Zeros(1)) + kernel_gram_bound(zero)).backward()
    assert torch.equal(zero.grad, torch.zeros_like(zero))


def test_power_iteration_that_is_cut_short_is_no_bound() -> None:
    short = 0
    for seed in range(20):
        operator = Conv2d(normal(3, 3, 3, 3, seed=seed), (3, 8, 8), Zeros(1))
        estimate = power_estimate(operator, 1, generator=torch.Generator().manual_seed(seed))
        short += estimate < 0.8 * exact(operator.kernel, (8, 8), Zeros(1))
    assert short >= 10


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError):
        kernel_gram_bound(torch.ones(3, 3))
    with pytest.raises(InputError):
        convolution_bound(torch.ones(1, 1, 5, 5), (3, 3), Zeros(0))
