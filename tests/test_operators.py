"""Operators: adjoints by inner products, pullbacks against autograd, norm bounds that are bounds."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.errors import InputError
from equilip.operators import Dense, Operator, Zero

checked = settings(deadline=None, derandomize=True, max_examples=25)
sizes = st.tuples(st.integers(0, 6), st.integers(0, 6))


def make(kind: str, rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float64) -> Operator:
    if kind == "zero":
        return Zero((rows, columns), dtype, torch.device("cpu"))
    return Dense(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def vectors(count: int, size: int, seed: int) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)


every = given(kind=st.sampled_from(["dense", "zero"]), shape=sizes, batch=st.integers(0, 4), seed=st.integers(0, 2**31))


@checked
@every
def test_the_adjoint_is_the_adjoint(kind: str, shape: tuple[int, int], batch: int, seed: int) -> None:
    A = make(kind, *shape, seed)
    x, y = vectors(batch, A.in_size, seed), vectors(batch, A.out_size, seed + 7)
    assert A.apply(x).shape == y.shape
    assert A.adjoint(y).shape == x.shape
    assert torch.allclose((A.apply(x) * y).sum(1), (x * A.adjoint(y)).sum(1), rtol=1e-13, atol=1e-13)


@checked
@every
def test_the_transpose_is_an_operator_of_its_own(kind: str, shape: tuple[int, int], batch: int, seed: int) -> None:
    A = make(kind, *shape, seed)
    T = A.transpose()
    x, y = vectors(batch, A.in_size, seed), vectors(batch, A.out_size, seed + 7)
    assert (T.in_size, T.out_size) == (A.out_size, A.in_size)
    assert torch.allclose(T.apply(y), A.adjoint(y), rtol=1e-13, atol=1e-14)
    assert torch.allclose(T.adjoint(x), A.apply(x), rtol=1e-13, atol=1e-14)
    assert torch.equal(T.dense(), A.dense().mT)
    assert torch.equal(T.transpose().dense(), A.dense())


@checked
@every
def test_the_matrix_does_what_the_operator_does(kind: str, shape: tuple[int, int], batch: int, seed: int) -> None:
    A = make(kind, *shape, seed)
    x, offset = vectors(batch, A.in_size, seed), vectors(batch, A.out_size, seed + 3)
    assert A.dense().shape == shape == (A.out_size, A.in_size)
    assert torch.allclose(A.apply(x), x @ A.dense().mT, rtol=1e-13, atol=1e-14)
    assert torch.allclose(A.plus(x, offset), A.apply(x) + offset, rtol=1e-13, atol=1e-13)
    one = torch.ones(A.out_size, dtype=torch.float64)
    assert torch.allclose(A.plus(x, one), A.apply(x) + one, rtol=1e-13, atol=1e-13)
    assert A.plus(x, one).shape == (batch, A.out_size)
    assert torch.equal(A.rebuild(A.tensors).dense(), A.dense())
    assert A.to(torch.float32, None).dense().dtype == torch.float32


@checked
@every
def test_the_pullback_is_that_of_autograd(kind: str, shape: tuple[int, int], batch: int, seed: int) -> None:
    A = make(kind, *shape, seed)
    x, v = vectors(batch, A.in_size, seed), vectors(batch, A.out_size, seed + 7)
    for got, expected in zip(A.pullback(x, v), Operator.pullback(A, x, v) if A.tensors else (), strict=True):
        assert torch.allclose(got, expected, rtol=1e-13, atol=1e-13)
    assert len(A.pullback(x, v)) == len(A.tensors)


@checked
@every
def test_pushforwards_are_derivatives(kind: str, shape: tuple[int, int], batch: int, seed: int) -> None:
    """The maps are linear in their tensors, so the change is that of the operator made of the tangents."""
    A = make(kind, *shape, seed)
    x, y = vectors(batch, A.in_size, seed), vectors(batch, A.out_size, seed + 7)
    tangents = tuple(torch.randn_like(t) for t in A.tensors)
    change = A.rebuild(tangents)
    assert torch.allclose(A.pushforward(tangents, x), change.apply(x), rtol=1e-13, atol=1e-14)
    assert torch.allclose(A.adjoint_pushforward(tangents, y), change.adjoint(y), rtol=1e-13, atol=1e-14)
    nothing = (None,) * len(A.tensors)
    assert torch.equal(A.pushforward(nothing, x), torch.zeros(batch, A.out_size, dtype=torch.float64))
    assert torch.equal(A.adjoint_pushforward(nothing, y), torch.zeros(batch, A.in_size, dtype=torch.float64))


def test_the_pullback_can_be_differentiated() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    A = Dense(torch.randn(2, 4, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda a, b: A.pullback(a, b)[0], (x, v))
    assert torch.autograd.gradgradcheck(lambda a, b: A.pullback(a, b)[0], (x, v))


@checked
@given(
    shape=sizes,
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([0.0, 1e-310, 1e-200, 1e-30, 1.0, 1e30, 1e300]),
    single=st.booleans(),
)
def test_the_norm_bound_is_a_bound(shape: tuple[int, int], seed: int, scale: float, single: bool) -> None:
    matrix = make("dense", *shape, seed).dense() * scale
    if single:
        matrix = matrix.float()
    unit = matrix.double() / scale if scale else matrix.double()
    bound = Dense(matrix).norm_bound()
    true = float(torch.linalg.matrix_norm(unit, 2)) * (scale or 1.0) if matrix.numel() else 0.0
    assert bound >= true * (1 - 1e-14)
    assert bound <= true * (min(shape) ** 0.5 + 1e-6) if matrix.numel() and bound < float("inf") else True


def test_rank_one_matrices_meet_their_bound() -> None:
    """The Frobenius norm is then the spectral norm, so nothing hides a bound that was rounded down."""
    for seed in range(50):
        u, v = vectors(1, 40, seed)[0], vectors(1, 30, seed + 100)[0]
        matrix = torch.outer(u, v)
        exact = sum(int(abs(float(e)) * 2**60) ** 2 for e in matrix.flatten())  # a little below the truth
        assert Dense(matrix).norm_bound() ** 2 * (1 + 2**-52) >= exact / 2**120


def test_zero_has_no_norm() -> None:
    assert Zero((3, 2), torch.float64, torch.device("cpu")).norm_bound() == 0.0
    assert Zero((3, 2), torch.float64, torch.device("cpu")).tensors == ()


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_only_matrices_are_dense_operators(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="matrix"):
        Dense(torch.zeros(shape))
