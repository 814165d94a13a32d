"""Convolutional networks: gradients, the inequality by dense matrices, and the bound under attack."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nn_ascent import Networks, climb
from nn_memory import kept

from equilip import form as forms
from equilip import nn
from equilip.errors import InputError
from equilip.form import Standardisation
from equilip.nn import ChannelMetric, FullMetric, IdentityMetric, ImageMetric, LBENConv, MonotoneConv, PixelMetric
from equilip.operators import Circular, InputLayer, Padding, Plain, Weighted, Zeros
from equilip.solve import (
    FourierPeacemanRachford,
    PeacemanRachford,
    PreconditionedForwardBackward,
    Settings,
    equilibrium,
)

METRICS = [FullMetric(), ChannelMetric(), ImageMetric(), IdentityMetric()]
PADDINGS = [Zeros(0), Circular(0)]
LAYERS = [Weighted, Plain]
EXACT = Settings(tolerance=1e-12)
#: Of gradient ascent.
STEPS = 1000


def make(
    metric: PixelMetric,
    padding: Padding,
    layer: type[InputLayer] = Weighted,
    *,
    k: int = 3,
    gamma: float | None = 0.8,
    size: tuple[int, int] = (4, 4),
    seed: int = 0,
    epsilon: float = 0.1,
    dtype: torch.dtype = torch.float64,
    standardisation: Standardisation | None = None,
) -> LBENConv:
    """A tiny network whose parameters are all random."""
    generator = torch.Generator().manual_seed(seed)
    model = LBENConv(
        (1, *size), 2, 3, gamma, kernel_size=k, metric=metric, padding=padding, pool=2, epsilon=epsilon,
        input_layer=layer, settings=EXACT, dtype=dtype, generator=generator, standardisation=standardisation,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("psi", "log_a", "log_u", "log_g", "b"):
                parameter.add_(0.7 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def inputs(model: LBENConv, count: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(count, model.in_features, generator=generator, dtype=model.b.dtype)


def dense_twin(model: LBENConv) -> forms.Form:
    """The same network as matrices."""
    form = model.form().detach()
    return forms.dense(form.W.dense(), form.U.dense(), form.b, form.C.dense(), form.c, lam=form.lam)


CASES = [(m, p, layer) for m in METRICS for p in PADDINGS for layer in LAYERS]
every = pytest.mark.parametrize(("metric", "padding", "layer"), CASES)


@every
@pytest.mark.parametrize("k", [1, 3, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dense_matrices_confirm_the_inequality(
    metric: PixelMetric, padding: Padding, layer: type[InputLayer], k: int, dtype: torch.dtype
) -> None:
    # Kernels of 7 pixels wrap around images of 6 and more only.
    model = make(metric, padding, layer, k=k, dtype=dtype, seed=k, size=(6, 6) if k == 7 else (4, 4))
    form = model.form().detach().to(torch.float64)
    assert form.lam is not None
    assert model.gamma is not None
    lam, W = torch.diag(form.lam), form.W.dense()
    U, C = lam @ form.U.dense(), form.C.dense()
    S = 2 * lam - lam @ W - W.mT @ lam - (C.mT @ C + U @ U.mT) / model.gamma
    assert float(torch.linalg.eigvalsh(0.5 * (S + S.mT))[0]) >= 2 * model.epsilon - 1e-9


@every
def test_solutions_are_those_of_the_dense_network(
    metric: PixelMetric, padding: Padding, layer: type[InputLayer]
) -> None:
    model = make(metric, padding, layer).eval()
    x = inputs(model, 3)
    expected = equilibrium(dense_twin(model), x, replace(EXACT, solver=PeacemanRachford()))
    for solver in (FourierPeacemanRachford(), EXACT.solver):
        found = model.solve(x, replace(EXACT, solver=solver))
        assert bool(found.converged.all())
        assert torch.allclose(found.z, expected.z, rtol=1e-9, atol=1e-9)
        distance = (found.z - expected.z).detach().norm(dim=1)
        assert bool((distance <= found.error + expected.error).all())
        assert float(found.error.max()) <= 1e-7
    slow = model.solve(x, Settings(solver=PreconditionedForwardBackward(), tolerance=1e-4, max_iterations=20_000))
    assert bool(slow.converged.all())
    assert bool(((slow.z - expected.z).detach().norm(dim=1) <= slow.error + expected.error).all())
    far = model.solve(x, replace(EXACT, tolerance=0.3))
    assert bool(((far.z - expected.z).detach().norm(dim=1) <= far.error + expected.error).all())
    assert torch.allclose(model(x.unflatten(1, model.shape)), expected.y, atol=1e-8)


@pytest.mark.parametrize(
    ("metric", "padding", "layer", "gamma"),
    [(m, p, Weighted, 0.8) for m in METRICS for p in PADDINGS]
    + [(FullMetric(), Zeros(0), Plain, 0.8), (FullMetric(), Zeros(0), Weighted, None)],
)
def test_derivatives(metric: PixelMetric, padding: Padding, layer: type[InputLayer], gamma: float | None) -> None:
    model = make(metric, padding, layer, gamma=gamma, size=(2, 4) if isinstance(padding, Zeros) else (4, 2))
    x = inputs(model, 1)
    names = [name for name, _ in model.named_parameters()]
    values = tuple(p.detach().clone().requires_grad_() for p in model.parameters())

    def output(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (x,))

    checked = {"atol": 1e-5, "rtol": 1e-4, "fast_mode": True}
    assert torch.autograd.gradcheck(output, (x.requires_grad_(), *values), **checked)
    assert torch.autograd.gradgradcheck(output, (x, *values), **checked)


# Kernels of 7 pixels need larger images, and networks of one size climb together.
@pytest.mark.parametrize("kernels", [(1, 3, 5), (7,)])
def test_ascent_never_beats_the_bound(kernels: tuple[int, ...]) -> None:
    """Every metric, padding, input layer and kernel, with input and output so loud that little room is left."""
    gamma, found = 0.5, []
    for k in kernels:
        for metric, padding, layer in CASES:
            model = make(metric, padding, layer, k=k, gamma=gamma, seed=5, size=(6, 6) if k == 7 else (4, 4))
            with torch.no_grad():
                for loudness in (model.log_u, model.log_g):
                    assert loudness is not None
                    loudness.add_(4.0)
            found.append(model.form())
    slopes = climb(Networks.of(found), STEPS)
    assert float(slopes.min()) > 0.2 * gamma
    # The ascent would notice a bound that is too small by a tenth.
    assert 0.9 * gamma < float(slopes.max()) <= gamma


def test_memory_of_training_does_not_grow_with_the_iterations() -> None:
    model = make(FullMetric(), Zeros(0))
    x = inputs(model, 4)
    rough, few = kept(model, x, 1e-2)
    fine, many = kept(model, x, 1e-12)
    assert many > 2 * few
    assert rough == fine > 0


def test_training_keeps_the_promise() -> None:
    model = make(FullMetric(), Zeros(0), gamma=1.0, dtype=torch.float32)
    model.settings = Settings()
    x, labels = inputs(model, 16), torch.arange(16) % 3
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05
    assert float(climb(Networks.of([model.double().form()]), 100)) <= 1.0


def test_monotone_networks() -> None:
    model = MonotoneConv((2, 4, 6), 3, 2, m=0.3, pool=2, dtype=torch.float64, settings=EXACT).eval()
    W = model.form().W.dense().detach()
    assert float(torch.linalg.eigvalsh(torch.eye(72, dtype=torch.float64) - 0.5 * (W + W.mT))[0]) >= 0.3 - 1e-12
    assert model.guarantee().bound is None
    x = torch.randn(3, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    twin = equilibrium(dense_twin(model), x, EXACT)
    assert torch.allclose(model(x), twin.y, atol=1e-9)


def test_the_frozen_twin_and_stale_forms() -> None:
    model = make(ChannelMetric(), Circular(0)).eval()
    x = inputs(model, 2)
    y = model(x)
    frozen = model.freeze()
    assert torch.equal(frozen(x), y)
    assert not list(frozen.parameters())
    with torch.no_grad():
        model.A.mul_(-1.0)
        model.beta.add_(1.0)
    assert not torch.allclose(model(x), y)
    assert torch.equal(frozen(x), y)
    assert frozen.guarantee() is None


@pytest.mark.parametrize(
    "change",
    [
        {"gamma": 0.0},
        {"gamma": float("nan")},
        {"epsilon": -1.0},
        {"kernel_size": 2},
        {"kernel_size": 9},
        {"pool": 3},
        {"shape": (1, 4)},
        {"shape": (0, 4, 4)},
        {"padding": Circular(0), "kernel_size": 7},
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object]) -> None:
    sizes = {"shape": (1, 4, 4), "channels": 2, "out_features": 3, "gamma": 1.0, "pool": 2}
    with pytest.raises(InputError):
        LBENConv(**{**sizes, **change})  # type: ignore[arg-type]
    assert nn.LBENConv is LBENConv
