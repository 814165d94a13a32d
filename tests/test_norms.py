"""Norms of matrices: never below the truth from above, never above it from below."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.errors import InputError
from equilip.norms import norm_bound, norm_found


def exact(matrix: torch.Tensor) -> float:
    """The norm, up to float64 rounding, from singular values; scaled first, so that nothing leaves the range."""
    largest = float(matrix.double().abs().max())
    return largest * float(torch.linalg.svdvals(matrix.double() / largest)[0]) if largest else 0.0


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 10_000),
    exponents=st.lists(st.sampled_from([-300, -150, -8, 0, 8, 140]), min_size=2, max_size=2),
    rank=st.integers(1, 12),
    steps=st.integers(0, 12),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_bound_is_never_below_the_norm(
    shape: tuple[int, int], seed: int, exponents: list[int], rank: int, steps: int, dtype: torch.dtype
) -> None:
    generator = torch.manual_seed(seed)
    powers = [10.0 ** (max(-30, min(8, e)) if dtype == torch.float32 else e) for e in exponents]
    scale = torch.tensor(powers, dtype=torch.float64)[torch.randint(2, (shape[0], 1), generator=generator)]
    factors = (torch.randn(n, rank, dtype=torch.float64, generator=generator) for n in shape)
    matrix = ((next(factors) @ next(factors).mT) * scale).to(dtype)
    found = norm_bound(matrix, steps)
    assert found.dtype == dtype
    norm = exact(matrix)
    assert float(found) >= norm * (1 - 1e-14), "singular values are themselves rounded"
    # Rank^(1/2^(steps + 1)) is what theory gives; float32 may round up once more.
    room = 1e-12 if dtype == torch.float64 else 1e-6
    assert float(found) <= norm * min(shape) ** (0.5 ** (steps + 1)) * (1 + room) + 1e-38 * (dtype == torch.float32)
    assert norm_found(matrix, 30, generator=generator) <= norm * (1 + 1e-15)


def test_the_bound_pays_for_rounding() -> None:
    # Orthonormal columns: every singular value is 1, and rounding errors of the products have nowhere to hide.
    for seed in range(20):
        Q = torch.linalg.qr(torch.randn(50, 20, dtype=torch.float64, generator=torch.manual_seed(seed))).Q
        assert float(norm_bound(Q, 30)) >= exact(Q)
        assert float(norm_bound(Q, 30)) <= 1 + 1e-8


def test_zeros_batches_and_what_is_not_finite() -> None:
    some = torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=torch.manual_seed(0))
    some[1, 1] = 0
    found = norm_bound(some, 20)
    assert found.shape == (3, 2)
    assert float(found[1, 1]) == 0
    expected = torch.linalg.matrix_norm(some, 2)
    assert torch.allclose(found, expected, rtol=1e-6)
    assert not norm_bound(torch.tensor([[1.0, torch.nan]])).isfinite()
    assert not norm_bound(torch.tensor([[1.0, torch.inf]])).isfinite()
    assert norm_bound(torch.zeros(0, 3)).shape == ()
    assert norm_found(torch.zeros(2, 3)) == 0


def test_the_gradient_is_that_of_the_largest_singular_value() -> None:
    matrix = torch.randn(5, 4, dtype=torch.float64, generator=torch.manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda A: norm_bound(A, 4), matrix)
    assert torch.autograd.gradgradcheck(lambda A: norm_bound(A, 4), matrix)
    (gradient,) = torch.autograd.grad(norm_bound(matrix, 12), matrix)
    u, _, v = torch.linalg.svd(matrix.detach())
    assert torch.allclose(gradient, torch.outer(u[:, 0], v[0]), atol=1e-6)
    zero = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    norm_bound(zero).backward()
    assert torch.equal(zero.grad, torch.zeros(3, 2, dtype=torch.float64))


def test_power_iteration_comes_from_below_even_when_it_is_cut_short() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0, 1.1], dtype=torch.float64))
    short = norm_found(matrix, 1, generator=torch.manual_seed(0))
    assert short < 1.1
    assert float(norm_bound(matrix, 1)) > 1.1
    assert norm_found(matrix, 300, generator=torch.manual_seed(0)) == pytest.approx(1.1, rel=1e-6)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError):
        norm_bound(torch.ones(3))
    with pytest.raises(InputError):
        norm_bound(torch.ones(3, 3), -1)
    with pytest.raises(InputError):
        norm_found(torch.ones(3))
