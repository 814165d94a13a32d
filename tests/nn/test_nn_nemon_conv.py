"""NEMONConv: contracting whatever its parameters are; what it computes is what its matrices compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip.activations import Activation, LeakyReLU, ReLU, Tanh
from equilip.errors import FormatError, InputError
from equilip.form import Form, Standardisation, dense, load
from equilip.nn import NEMONConv
from equilip.operators import Circular, Contraction, Padding, Zeros
from equilip.solve import Newton, Prover, Settings, equilibrium
from equilip.solve.channel_embedding import image_boxes
from equilip.solve.embedded import boxes

F64 = torch.float64
PADDINGS = [Zeros(0), Circular(0)]


def network(
    seed: int, *, m: float = 0.3, scale: float = 3.0, spread: float = 0.5, padding: Padding = PADDINGS[0],
    stride: int = 1, dtype: torch.dtype = F64, sigma: Activation | None = None, pool: int = 1,
) -> NEMONConv:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    units = Standardisation(*(torch.rand(60, generator=generator, dtype=F64).to(dtype) + 0.2 for _ in range(2)))
    model = NEMONConv(
        (2, 6, 5), 3, 4, m=m, padding=padding, stride=stride, pool=pool, activation=sigma, standardisation=units,
        dtype=dtype, generator=generator,
    )  # fmt: skip
    with torch.no_grad():
        model.K.mul_(scale)
        model.d.copy_(spread * torch.randn(3, generator=generator, dtype=F64))
    return model


def as_matrices(form: Form) -> Form:
    """The same network with matrices for its maps."""
    W, U, C = (getattr(form, name).dense() for name in "WUC")
    return dense(W, U, form.b, C, form.c, activation=form.activation, standardisation=form.standardisation)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    m=st.sampled_from([-2.0, 0.0, 0.9, 0.999]),
    scale=st.sampled_from([1e-6, 1.0, 30.0, 1e4]),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
    padding=st.sampled_from(PADDINGS),
)
def test_it_contracts_for_any_parameters(seed: int, m: float, scale: float, spread: float, padding: Padding) -> None:
    model = network(seed, m=m, scale=scale, spread=spread, padding=padding)
    form = model.form().detach()
    assert isinstance(form.W, Contraction)
    W, eta = form.W.dense(), form.W.spread(model.weights.detach())
    size = W.abs() * eta / eta[:, None]
    # A row in the middle of the image, or any with circular padding, attains m where its centre tap is not negative.
    measure = size.sum(1) - size.diagonal() + W.diagonal()
    assert float(measure.amax()) <= m + 1e-14 * (1 + float(W.diagonal().abs().amax()))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), padding=st.sampled_from(PADDINGS), scale=st.sampled_from([0.1, 3.0, 30.0]))
def test_what_it_knows_of_its_spectrum_is_true(seed: int, padding: Padding, scale: float) -> None:
    W = network(seed, padding=padding, scale=scale).form().detach().W
    own = W.spectrum()
    assert own is not None
    X = own.lam[:, None] * (torch.eye(W.in_size, dtype=F64) - W.dense())
    values = torch.linalg.eigvalsh(0.5 * (X + X.mT))
    assert 0 < own.mu <= float(values[0]) * (1 + 1e-9)
    assert float(values[-1]) <= own.L * (1 + 1e-9)
    assert float(torch.linalg.matrix_norm(X, 2)) <= own.norm * (1 + 1e-9)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sigma", [ReLU(), LeakyReLU(0.2), Tanh()])
def test_it_is_solved_as_its_matrices_are(padding: Padding, stride: int, sigma: Activation) -> None:
    model = network(1, padding=padding, stride=stride, sigma=sigma).eval()
    form = model.form().detach()
    x = torch.rand(4, 60, generator=torch.Generator().manual_seed(0), dtype=F64)
    found = model.solve(x, Settings(tolerance=1e-11))
    expected = equilibrium(as_matrices(form), x, Settings(solver=Newton(), tolerance=1e-13))
    torch.testing.assert_close(found.y, expected.y, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(model(x.reshape(4, 2, 6, 5)), found.y, rtol=1e-6, atol=1e-7)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    padding=st.sampled_from(PADDINGS),
    away=st.sampled_from([0.0, 1e-12, 1e-3, 10.0]),
    single=st.booleans(),
)
def test_no_point_is_further_away_than_its_error(seed: int, padding: Padding, away: float, single: bool) -> None:
    form = network(seed, padding=padding, dtype=torch.float32 if single else F64, m=0.9).form().detach()
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 60, generator=generator, dtype=F64)
    exact = form.to(F64)
    true = equilibrium(as_matrices(exact), x, Settings(solver=Newton(), tolerance=1e-14, raise_on_failure=False)).z
    z = true + away * torch.randn(true.shape, generator=generator, dtype=F64)
    prover = Prover(form)
    assert prover.well_posed
    slack = 1e-13 * (1 + true.abs())
    assert bool(((z - true).abs() <= prover.error_by_neuron(x, z) + slack).all())
    assert bool(((z - true).norm(dim=1) <= prover.error(x, z) + slack.norm(dim=1)).all())


@pytest.mark.parametrize("padding", PADDINGS)
def test_gradients(padding: Padding) -> None:
    model = network(2, padding=padding, stride=2)
    model.settings = Settings(tolerance=1e-13)
    x = torch.rand(2, 60, generator=torch.Generator().manual_seed(1), dtype=F64, requires_grad=True)
    names = ("K", "d", "U", "b", "C")

    def output(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,))

    inputs = (x, *(getattr(model, name) for name in names))
    assert torch.autograd.gradcheck(output, inputs, eps=1e-7, atol=1e-5, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sigma", [ReLU(), LeakyReLU(0.3)])
def test_boxes_and_their_gradients_are_those_of_the_matrices(padding: Padding, sigma: Activation) -> None:
    W = network(3, padding=padding, sigma=sigma).form().detach().W
    assert isinstance(W, Contraction)
    generator = torch.Generator().manual_seed(0)
    kernel = W.kernel.clone().requires_grad_()
    n = W.in_size
    shapes = ((2, n), (2, n), (3, n))
    inputs = [torch.rand(shape, generator=generator, dtype=F64).requires_grad_() for shape in shapes]
    weights = [torch.randn(shape, generator=generator, dtype=F64) for shape in shapes]

    def results(images: bool) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        own = Contraction(kernel, W.shape, W.padding)
        found = image_boxes if images else boxes
        state = found(own if images else own.dense(), sigma, *inputs, tolerance=1e-13)  # type: ignore[operator]
        value = torch.stack([(part * weight).sum() for part, weight in zip(state, weights, strict=True)]).sum()
        return [part.detach() for part in state], torch.autograd.grad(value, [kernel, *inputs])

    for ours, theirs in zip(results(True), results(False), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_it_is_kept_in_a_file(tmp_path: Path) -> None:
    form = network(4, padding=Circular(0), stride=2, pool=3).form().detach()
    form.save(tmp_path / "form.safetensors")
    again = load(tmp_path / "form.safetensors")
    assert again.sha256 == form.sha256
    x = torch.rand(3, 60, dtype=F64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(equilibrium(again, x).y, equilibrium(form, x).y)
    content = (tmp_path / "form.safetensors").read_bytes()
    for old, new in ((b"circular", b"circulaR"), (b'"stride\\":2', b'"stride\\":3'), (b'"pool\\":3', b'"pool\\":7')):
        assert old in content
        (tmp_path / "other.safetensors").write_bytes(content.replace(old, new))
        with pytest.raises(FormatError):
            load(tmp_path / "other.safetensors")


def test_state_freezing_and_single_precision() -> None:
    model = network(5, dtype=torch.float32)
    other = network(6, dtype=torch.float32)
    other.load_state_dict(model.state_dict())
    x = torch.rand(3, 60, generator=torch.Generator().manual_seed(0))
    y = model.eval()(x)
    torch.testing.assert_close(other.eval()(x), y)
    torch.testing.assert_close(model.freeze()(x), y, rtol=1e-4, atol=1e-5)
    assert np.isfinite(model.solve(x).error_linf.numpy()).all()


def test_mistakes() -> None:
    with pytest.raises(InputError, match="below 1"):
        NEMONConv((1, 4, 4), 2, 3, m=1.0)
    with pytest.raises(InputError, match="kernel_size"):
        NEMONConv((1, 4, 4), 2, 3, kernel_size=2)
    with pytest.raises(InputError, match="pool"):
        NEMONConv((1, 5, 5), 2, 3, pool=2)
    with pytest.raises(InputError, match="positive whole"):
        NEMONConv((1, 4, 4), 2, 3, stride=0)
    with pytest.raises(InputError, match="same shape"):
        Contraction(torch.zeros(2, 2, 3, 3), (2, 4, 4), Zeros(0))
