"""The W of a multi-tier network: its definition, its triangle, and the inequality that is its reason."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.errors import InputError
from equilip.operators import Circular, Conv2d, Padding, Part, Tiers, Transposed, Zeros, tier_shapes

few = settings(deadline=None, derandomize=True, max_examples=30)
ZEROS = Zeros(0)


def make(
    size: tuple[int, int] = (5, 6),
    channels: tuple[int, ...] = (2, 3, 1),
    *,
    k: int = 3,
    padding: Padding = ZEROS,
    epsilon: float = 0.3,
    seed: int = 0,
) -> Tiers:
    """A random W."""
    generator = torch.Generator().manual_seed(seed)

    def draw(after: int, before: int) -> torch.Tensor:
        return torch.randn(after, before, k, k, generator=generator, dtype=torch.float64)

    square = tuple(draw(c, c) for c in channels)
    skew = tuple(draw(c, c) for c in channels)
    steps = tuple(draw(after, before) for before, after in pairwise(channels))
    return Tiers(tier_shapes((1, *size), channels), square, skew, steps, padding, epsilon)


def from_definition(W: Tiers) -> torch.Tensor:
    """I - W from the block bidiagonal A and the kernels, as the mathematics has them."""
    k, circular = W.A[0].shape[-1], isinstance(W.padding, Circular)
    full, same = W.padding.of(k // 2 if circular else k - 1), W.padding.of(k // 2)
    starts = [0]
    for size in W.sizes:
        starts.append(starts[-1] + size)
    X = W.epsilon * torch.eye(W.in_size, dtype=torch.float64)
    for i, shape in enumerate(W.shapes):
        here = slice(starts[i], starts[i + 1])
        A, B = Conv2d(W.A[i], shape, full).dense(), Conv2d(W.B[i], shape, same).dense()
        X[here, here] += A.mT @ A + B.mT - B
        if i < len(W.K):
            K = Conv2d(W.K[i], shape, full)
            X[here, here] += K.dense().mT @ K.dense()
            # Every second pixel of K, where A of the next tier makes pixels; outside, K would make zeros.
            images = K.dense().unflatten(0, K.out_shape)
            after = Conv2d(W.A[i + 1], W.shapes[i + 1], full)
            N = torch.zeros(*after.out_shape, images.shape[-1], dtype=torch.float64)
            first = 0 if circular else k // 2
            for row in range(N.shape[1]):
                for column in range(N.shape[2]):
                    # In pixels of the image: 2 (row - first), and K's output starts k // 2 before it.
                    at = (2 * (row - first) + first, 2 * (column - first) + first)
                    if all(0 <= a < b for a, b in zip(at, images.shape[1:3], strict=True)):
                        N[:, row, column] = images[:, at[0], at[1]]
            below = slice(starts[i + 1], starts[i + 2])
            X[below, here] += 2 * after.dense().mT @ N.flatten(0, 2)
    return X


@pytest.mark.parametrize("padding", [Zeros(0), Circular(0)])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (9, 11), (16, 7)])
def test_dense_matrices_confirm_the_construction(padding: Padding, k: int, size: tuple[int, int]) -> None:
    channels = (2, 1) if k == 5 else (2, 3, 1)
    if isinstance(padding, Circular) and k == 5 and size != (8, 8):
        size = (11, 8)
    W = make(size, channels, k=k, padding=padding)
    X = torch.eye(W.in_size, dtype=torch.float64) - W.dense()
    assert torch.allclose(X, from_definition(W), atol=1e-12 * float(X.abs().max()))
    eigenvalues = torch.linalg.eigvalsh(0.5 * (X + X.mT))
    assert float(eigenvalues[0]) >= W.epsilon - 1e-12 * float(eigenvalues[-1])
    start = 0
    for size_ in W.sizes:
        start += size_
        assert not bool(X[start - size_ : start, start:].any())
    # What the solvers are told of it.
    found = W.spectrum()
    assert found.mu == W.epsilon == 0.3
    assert float(eigenvalues[-1]) <= found.L * (1 + 1e-9)
    assert float(torch.linalg.matrix_norm(X, 2)) <= found.norm * (1 + 1e-9)
    assert float(torch.linalg.matrix_norm(W.dense(), 2)) <= W.norm_bound()
    assert torch.equal(W.multipliers, torch.ones(W.in_size, dtype=torch.float64))


@few
@given(
    size=st.tuples(st.integers(1, 11), st.integers(1, 11)),
    channels=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    k=st.sampled_from([1, 3, 5, 7]),
    seed=st.integers(0, 100),
    circular=st.booleans(),
    batch=st.integers(0, 3),
)
def test_adjoints(size: tuple[int, int], channels: list[int], k: int, seed: int, circular: bool, batch: int) -> None:
    last = tier_shapes((1, *size), tuple(channels))[-1]
    if circular and k - 1 > min(last[1:]):
        with pytest.raises(InputError, match="use fewer tiers"):
            make(size, tuple(channels), k=k, padding=Circular(0))
        return
    W = make(size, tuple(channels), k=k, padding=Circular(0) if circular else ZEROS, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, batch, W.in_size, generator=generator, dtype=torch.float64)
    scale = W.norm_bound() * x.norm(dim=1) * y.norm(dim=1)
    for one, other in ((W.apply(x), W.adjoint(y)), (W.split(x), W.split_adjoint(y))):
        assert bool((((one * y).sum(1) - (x * other).sum(1)).abs() <= 1e-12 * scale).all())
    assert torch.allclose(W.plus(x, y), W.apply(x) + y, rtol=0, atol=1e-12 * W.norm_bound() * 40)
    part = Part(1, 1 + W.sizes[-1], W.in_size + 1, torch.float64, torch.device("cpu"))
    v = torch.randn(batch, W.in_size + 1, generator=generator, dtype=torch.float64)
    w = torch.randn(batch, W.sizes[-1], generator=generator, dtype=torch.float64)
    assert torch.equal((part.apply(v) * w).sum(1), (v * part.adjoint(w))[:, 1 : 1 + W.sizes[-1]].sum(1))
    assert torch.equal(Transposed(part).apply(w), part.adjoint(w))
    assert float(torch.linalg.matrix_norm(part.dense(), 2)) <= part.norm_bound()


def test_rebuilding_and_casting() -> None:
    W = make()
    again = W.rebuild(W.tensors)
    x = torch.randn(2, W.in_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.apply(x), W.apply(x))
    narrow = W.to(torch.float32, None)
    assert torch.allclose(narrow.apply(x.float()).double(), W.apply(x), atol=1e-3)


def test_what_cannot_be_is_refused() -> None:
    W = make()
    for change in (
        {"shapes": W.shapes[:1], "A": W.A[:1], "B": W.B[:1], "K": ()},
        {"shapes": (W.shapes[0], W.shapes[0], W.shapes[2])},
        {"A": W.A[:2]},
        {"K": W.K[:1]},
        {"B": tuple(t[:, :, :1, :1] for t in W.B)},
        {"epsilon": 0.0},
        {"epsilon": float("nan")},
        {"A": tuple(t[:, :, :2, :2] for t in W.A), "B": tuple(t[:, :, :2, :2] for t in W.B),
         "K": tuple(t[:, :, :2, :2] for t in W.K)},
    ):  # fmt: skip
        with pytest.raises(InputError):
            replace(W, **change)  # type: ignore[arg-type]
    for start, stop in ((-1, 2), (2, 1), (0, 6)):
        with pytest.raises(InputError):
            Part(start, stop, 5, torch.float64, torch.device("cpu"))
