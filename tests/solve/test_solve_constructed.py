"""Rounding of convolutional networks: what is allowed for is never less than what happens, in longer numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equilip import nn
from equilip.operators import Circular, Conv2d, InputLayer, Operator, Padding, Plain, Recurrence, Weighted, Zeros
from equilip.solve.constructed import Constructed


def long(operator: Operator) -> np.ndarray:
    """The matrix in extended precision; its entries are stored numbers, so nothing is rounded."""
    return operator.apply(torch.eye(operator.in_size, dtype=torch.float64)).mT.numpy().astype(np.longdouble)


def exact(W: Recurrence) -> np.ndarray:
    """X = ε I + AᵀA + Bᵀ - B + (CᵀC + K)/(2γ), multiplied out in extended precision."""
    assert W.ends is not None
    full = W.A.shape[-1] - 1 if isinstance(W.padding, Zeros) else W.A.shape[-1] // 2
    A = long(Conv2d(W.A, W.shape, W.padding.of(full)))
    B = long(Conv2d(W.B, W.shape, W.padding.of(W.B.shape[-1] // 2)))
    C, V = long(W.ends.head), long(W.valid)
    lam = W.multipliers.numpy().astype(np.longdouble)
    if isinstance(W.ends.input, Plain):
        V = lam[:, None] * V
    twice = 2 * np.longdouble(W.ends.gamma)
    return W.epsilon * np.eye(len(lam), dtype=np.longdouble) + A.T @ A + B.T - B + (C.T @ C + V @ V.T) / twice


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 2.0**-60, reason="no numbers longer than float64 here")
@pytest.mark.parametrize("padding", [Zeros(0), Circular(0)], ids=["zeros", "circular"])
@pytest.mark.parametrize("layer", [Plain, Weighted])
@pytest.mark.parametrize("loud", [1e-3, 1.0, 1e3])
def test_rounding_is_allowed_for(padding: Padding, layer: type[InputLayer], loud: float) -> None:
    generator = torch.Generator().manual_seed(1)
    model = nn.LBENConv(
        (2, 6, 6), 4, 3, 0.7, metric=nn.FullMetric(), padding=padding, input_layer=layer, pool=2, dtype=torch.float64,
        generator=generator,
    )  # fmt: skip
    assert model.psi is not None
    assert model.log_u is not None
    torch.nn.init.normal_(model.psi, std=2.0, generator=generator)
    with torch.no_grad():
        model.log_u += 2 * np.log(loud)
        model.beta *= loud
    form = model.form().detach()
    W = form.W
    assert isinstance(W, Recurrence)
    proof, X = Constructed(form, W), exact(W)
    # Points of every size and direction, and those that X changes least: the most cancels there.
    z = torch.randn(60, W.in_size, dtype=torch.float64, generator=generator)
    least = torch.linalg.svd(torch.from_numpy(X.astype(np.float64)))[2][-20:]
    for points in (z, 1e-9 * z, least):
        size = points.norm(dim=1).numpy()
        for matrix, image in ((X, W.split(points)), (X.T, W.split_adjoint(points))):
            off = image.numpy().astype(np.longdouble) - points.numpy().astype(np.longdouble) @ matrix.T
            assert (np.sqrt((off**2).sum(1)) <= (proof.X_doubt + proof.unit * proof.X_size) * size).all()
