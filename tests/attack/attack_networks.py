"""Networks to attack: ones whose answers are known, small trained ones, and random ones of many kinds."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor

from equilip import data, nn
from equilip.activations import Activation
from equilip.form import Form, Standardisation, affine, dense


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(classes: int = 4, p: int = 6, seed: int = 0) -> Form:
    """y = D x + c."""
    return affine(randn(seed, classes, p), 0.3 * randn(seed + 1, classes))


def distances(form: Form, x: Tensor, label: Tensor, order: float = 2.0) -> Tensor:
    """How far each input is from the nearest other class of a linear network, in the norm whose dual is ``order``."""
    A, y = form.D.dense(), form.output(x.new_zeros(len(x), 0), x)
    lead = y.gather(1, label[:, None]) - y
    rows = torch.linalg.vector_norm(A[label][:, None, :] - A, ord=order, dim=2)
    return (lead / rows.clamp(min=1e-300)).scatter(1, label[:, None], torch.inf).amin(dim=1).clamp(min=0.0)


def equilibrium_form(
    n: int,
    p: int,
    q: int,
    seed: int,
    *,
    gamma: float = 2.0,
    activation: Activation | None = None,
    through: bool = False,
) -> Form:
    """A Lipschitz-bounded equilibrium network with random weights; with feed-through D, nothing is promised of it."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        form = nn.LBEN(p, n, q, gamma, epsilon=0.3, dtype=torch.float64, generator=generator).form().detach()
    form = replace(form, b=randn(seed + 7, n), c=0.2 * randn(seed + 8, q))
    if activation is not None:
        form = replace(form, activation=activation)
    if through:
        form = replace(form, D=dense(form.W.dense(), form.U.dense(), form.b, form.C.dense(), form.c,
                                     D=0.3 * randn(seed + 9, q, p)).D)  # fmt: skip
    return form


def standardised(form: Form, seed: int, *, uniform: bool = False) -> Form:
    p = form.in_size
    std = torch.full((p,), 0.4, dtype=torch.float64) if uniform else (0.5 * randn(seed, p)).exp()
    return replace(form, standardisation=Standardisation(0.3 * randn(seed + 1, p), std))


def steepest_pattern(form: Form) -> float:
    """The largest spectral norm over all patterns of slopes 0 and 1 (standardised units)."""
    W, U, C, D = (getattr(form, name).dense() for name in ("W", "U", "C", "D"))
    n = len(W)
    slopes = torch.tensor(list(product((0.0, 1.0), repeat=n)), dtype=torch.float64)
    inner = torch.linalg.solve(torch.eye(n, dtype=W.dtype) - W * slopes[:, None, :], U.expand(len(slopes), *U.shape))
    return float(torch.linalg.matrix_norm(C @ (slopes[:, :, None] * inner) + D, 2).max())


def dense_newton(form: Form, x: Tensor) -> Tensor:
    """y (batch, q) from a solve that shares no code with the library's: semismooth Newton in numpy, relu only."""
    W, U, b, C, c = (t.double().numpy() for t in (form.W.dense(), form.U.dense(), form.b, form.C.dense(), form.c))
    D = form.D.dense().double().numpy()
    out = []
    for xi in form.standardise(x.double()).numpy():
        bias = U @ xi + b
        z = np.zeros(len(b))
        for _ in range(200):
            s = W @ z + bias
            active = (s > 0).astype(float)
            new = np.linalg.solve(np.eye(len(b)) - active[:, None] * W, active * bias)
            if np.allclose(new, z, rtol=0, atol=1e-14):
                break
            z = new
        out.append(C @ z + D @ xi + c)
    return torch.from_numpy(np.array(out))


def digits(kind: str) -> tuple[nn.LBEN | nn.FeedForward, Tensor, Tensor]:
    """A small network trained for a moment on the digits, and test samples: model (float32, eval), x, label."""
    model, x, label = _digits(kind)
    return copy.deepcopy(model), x, label


@cache
def _digits(kind: str) -> tuple[nn.LBEN | nn.FeedForward, Tensor, Tensor]:
    dataset = data.load("digits")
    generator = torch.Generator().manual_seed(0)
    model: nn.LBEN | nn.FeedForward
    if kind == "lben":
        model = nn.LBEN(64, 20, 10, 4.0, standardisation=dataset.standardisation, generator=generator)
    else:
        model = nn.FeedForward(64, (20, 16), 10, standardisation=dataset.standardisation, generator=generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(80):
        rows = torch.arange(128 * step, 128 * (step + 1)) % len(dataset.train_x)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(dataset.train_x[rows]), dataset.train_y[rows]).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model.eval(), dataset.test_x[:100], dataset.test_y[:100]
