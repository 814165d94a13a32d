"""Terms of low rank of convolutional networks in the Fourier solver's layout, against the operators that they are."""

from __future__ import annotations

import pytest
import torch

from equilip import nn
from equilip.operators import Circular, Padding, Plain, Recurrence, Zeros
from equilip.solve.low_rank import Factor, rank


@pytest.mark.parametrize("padding", [Zeros(0), Circular(0)], ids=["zeros", "circular"])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_the_factor_is_its_operators(padding: Padding, kernel_size: int) -> None:
    generator = torch.Generator().manual_seed(kernel_size)
    model = nn.LBENConv(
        (2, 6, 5), 4, 3, 0.7, kernel_size=kernel_size, metric=nn.FullMetric(), padding=padding, input_layer=Plain,
        dtype=torch.float64, generator=generator,
    )  # fmt: skip
    assert model.psi is not None
    torch.nn.init.normal_(model.psi, generator=generator)
    W = model.form().detach().W
    assert isinstance(W, Recurrence)
    assert W.ends is not None
    factor = Factor.of(W)
    assert factor.rank == rank(W)
    y = torch.randn(factor.rank, 7, dtype=torch.float64, generator=generator)
    x = torch.randn(6, 5, 4, 7, dtype=torch.float64, generator=generator)
    head, entering = W.ends.head.adjoint(y[:3].mT), W.valid.apply(y[3:].mT)
    expected = (head + W.multipliers * entering) / (2 * 0.7) ** 0.5
    image = factor.apply(y)
    torch.testing.assert_close(image.permute(3, 2, 0, 1).flatten(1), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((image * x).sum(), (y * factor.adjoint(x)).sum(), rtol=1e-12, atol=1e-11)
