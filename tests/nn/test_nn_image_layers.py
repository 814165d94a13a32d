"""Layers of images of slope at most 1: no slope above the bound for any padding and stride, forms, glue, sorting."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from equilip import certify
from equilip.activations import LeakyReLU, ReLU, Tanh
from equilip.errors import InputError
from equilip.form import Form
from equilip.nn import (
    AOLConv,
    AveragePool2d,
    Cayley,
    CayleyConv,
    CPLConv,
    GroupSort,
    LipschitzLayer,
    MaxMin,
    PadChannels,
    Pointwise,
    SandwichConv,
    ScaledAveragePool2d,
    SLLConv,
    SpaceToDepth,
    Spectral,
    SpectralConv,
    Stack,
    Standardise,
    sequential_form,
)
from equilip.operators import Circulant, Circular, Padding, Zeros, circular_bound
from equilip.solve import equilibrium

DOUBLE = {"dtype": torch.float64}
Layer = Callable[..., LipschitzLayer]
#: Odd and even images and kernels, every kind of padding, strides that divide the image and others.
LAYERS: dict[str, Layer] = {
    "cpl-zeros": lambda **k: CPLConv(2, 3, 3, padding=1, image_size=4, **k),
    "cpl-circular-stride": lambda **k: CPLConv(2, None, 3, 2, Circular(1), image_size=(5, 4), activation=Tanh(), **k),
    "cpl-even-kernel": lambda **k: CPLConv(2, 2, 2, image_size=(4, 3), **k),
    "sll-zeros": lambda **k: SLLConv(2, 3, 3, padding=1, image_size=(4, 5), **k),
    "sll-circular": lambda **k: SLLConv(2, 4, 3, 1, Circular(1), image_size=3, activation=LeakyReLU(0.3), **k),
    "sll-stride-wide-padding": lambda **k: SLLConv(1, 3, 2, 2, 3, image_size=(3, 4), **k),
    "sll-repeated-pixels": lambda **k: SLLConv(1, 2, 2, 1, Circular(2), image_size=3, **k),
    "aol-zeros": lambda **k: AOLConv(2, 3, 3, padding=1, image_size=4, **k),
    "aol-circular-stride": lambda **k: AOLConv(3, 2, 3, 2, Circular(1), image_size=(5, 4), **k),
    "aol-repeated-pixels": lambda **k: AOLConv(1, 2, 2, 1, Circular(3), bias=False, image_size=3, **k),
    "spectral-zeros": lambda **k: SpectralConv(2, 3, 3, padding=2, image_size=(4, 3), **k),
    "spectral-stride": lambda **k: SpectralConv(2, 2, 4, 2, 1, image_size=(5, 4), **k),
    "spectral-circular": lambda **k: SpectralConv(3, 2, 3, 1, Circular(1), bias=False, image_size=4, **k),
    "cayley-tall": lambda **k: CayleyConv(2, 3, 3, image_size=(4, 5), **k),
    "cayley-wide": lambda **k: CayleyConv(3, 2, 2, bias=False, image_size=(5, 3), **k),
    "cayley-tall-stride": lambda **k: CayleyConv(1, 5, 3, 2, image_size=(4, 6), **k),
    "cayley-wide-stride": lambda **k: CayleyConv(2, 3, 4, 3, False, image_size=(6, 6), **k),
    "cayley-square-stride": lambda **k: CayleyConv(1, 4, 1, 2, image_size=(2, 6), **k),
    "sandwich-stride": lambda **k: SandwichConv(1, 3, 3, 2, image_size=(4, 6), **k),
    "sandwich-wide-stride": lambda **k: SandwichConv(1, 2, 2, 3, image_size=(3, 6), activation=Tanh(), **k),
    "sandwich": lambda **k: SandwichConv(2, 3, 3, image_size=(4, 3), **k),
    "sandwich-wide": lambda **k: SandwichConv(3, 2, 2, image_size=(3, 5), activation=Tanh(), **k),
}
EVERY = pytest.mark.parametrize("name", list(LAYERS))
GLUE: dict[str, LipschitzLayer] = {
    "pool": AveragePool2d(2, 2, image_size=(4, 6)),
    "scaled-pool": ScaledAveragePool2d(2, 3, image_size=(3, 6)),
    "space-to-depth": SpaceToDepth(2, 2, image_size=(4, 6)),
    "pad-channels": PadChannels(2, 5, image_size=(2, 3)),
    "max-min": MaxMin(4, image_size=(2, 3)),
    "max-min-dense": MaxMin(6),
    "group-sort-1": GroupSort(3, 1),
    "group-sort-3": GroupSort(6, 3, image_size=2),
    "group-sort-5": GroupSort(5, 5),
}


def make(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> LipschitzLayer:
    return LAYERS[name](dtype=dtype, generator=torch.Generator().manual_seed(seed))


def redraw(layer: torch.nn.Module, seed: int, scales: list[float], zeros: int) -> None:
    """Random parameters of each of the ``scales``, row by row, with some output and input channels of zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            value = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
            pick = torch.randint(len(scales), parameter.shape[:1], generator=generator)
            scale = torch.tensor(scales, dtype=torch.float64)[pick].reshape(-1, *[1] * (value.dim() - 1))
            value = value * (scale if parameter.dim() else scales[0])
            if name.endswith("weight") and zeros:
                value[: zeros // 2 + 1] = 0
                value[:, : zeros // 2] = 0
            parameter.copy_(value)


def jacobians(layer: LipschitzLayer, seed: int, scales: tuple[float, ...]) -> float:
    """The largest norm of the slope D + C (1 - JW)⁻¹ J U at inputs of these sizes, from the form's own matrices."""
    form = layer.form().detach().to(torch.float64)
    W, U, C, D = (getattr(form, letter).dense() for letter in "WUCD")
    found, eye = 0.0, torch.eye(len(W), **DOUBLE)
    for scale in scales:
        x = scale * torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(seed), **DOUBLE)
        s = form.bias(x)
        if bool(W.any()):
            s = s + equilibrium(form, x).z @ W.mT
        for j in form.activation.slope(s)[:, :, None]:
            found = max(found, float(torch.linalg.matrix_norm(D + C @ torch.linalg.solve(eye - j * W, j * U), 2)))
    return found


def steepest(layer: LipschitzLayer, seed: int) -> float:
    """The largest slope that gradient ascent on pairs of inputs finds, near and far."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(12, layer.in_features, generator=generator, **DOUBLE)
    gap = torch.logspace(-2, 1, 12, **DOUBLE)[:, None]
    b, found = a + gap * torch.randn(a.shape, generator=generator, **DOUBLE), 0.0
    for _ in range(8):
        a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
        distance = (a - b).norm(dim=1)
        slope = (layer(a) - layer(b)).norm(dim=1) / distance
        found = max(found, float(slope.detach().max()))
        da, db = torch.autograd.grad(slope.clamp(min=1e-30).log().sum(), (a, b))
        rate = 0.3 * distance.detach()[:, None]
        a = a + rate * da / da.norm(dim=1, keepdim=True).clamp(min=1e-30)
        b = b + rate * db / db.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return found


def smallest_eigenvalue(form: Form, lam: Tensor, gamma: float) -> float:
    """Of the LMI of mathematics 1.2, every row and column in units of 2 λ, or of γ for inputs."""
    W, U, C, D = (getattr(form, letter).dense().detach() for letter in "WUCD")
    L = torch.diag(lam)
    corner = -(L @ U + C.T @ D / gamma)
    eye = torch.eye(U.shape[1], dtype=U.dtype)
    top = torch.cat([2 * L - L @ W - W.T @ L - C.T @ C / gamma, corner], 1)
    matrix = torch.cat([top, torch.cat([corner.T, gamma * eye - D.T @ D / gamma], 1)])
    size = torch.cat([2 * lam, gamma * torch.ones_like(eye[0])]).sqrt()
    return float(torch.linalg.eigvalsh(matrix / size[:, None] / size)[0])


@EVERY
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    scales=st.lists(st.sampled_from([1e-8, 1e-3, 1.0, 10.0, 1e8]), min_size=1, max_size=3),
    zeros=st.integers(0, 4),
)
def test_no_slope_above_the_bound(name: str, seed: int, scales: list[float], zeros: int) -> None:
    layer = make(name)
    redraw(layer, seed, scales, zeros)
    assert layer.guarantee().bound == 1.0
    proved = layer.proved_bound()
    # Where Cayley's transform is ill-conditioned, 1e-9 of orthogonality is lost, and the proof says so.
    assert 0.0 <= proved <= 1 + 1e-7
    assert jacobians(layer, seed, (1e-8, 1.0, 1e8)) <= proved * (1 + 1e-12)
    if max(scales) <= 10 and min(scales) >= 1e-3:
        assert steepest(layer, seed) <= 1 + 1e-7


@pytest.mark.parametrize("kind", ["cpl", "sll", "aol", "spectral"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(*[st.integers(1, n) for n in (2, 3, 6, 6, 5)]),
    padding=st.integers(0, 5),
    circular=st.booleans(),
    stride=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_every_size_padding_and_stride(
    kind: str, sizes: tuple[int, ...], padding: int, circular: bool, stride: int, seed: int
) -> None:
    c, m, h, w, k = sizes
    if circular:
        padding = min(padding, h, w)
    k = min(k, min(h, w) + 2 * padding)
    around: Padding = Circular(padding) if circular else Zeros(padding)
    own = {"image_size": (h, w), "generator": torch.Generator().manual_seed(seed), **DOUBLE}
    build = {"cpl": CPLConv, "sll": SLLConv, "aol": AOLConv, "spectral": SpectralConv}[kind]
    layer = build(c, m, k, stride, around, **own)  # type: ignore[arg-type]
    redraw(layer, seed, [0.1, 1.0], zeros=seed % 2)
    assert jacobians(layer, seed, (1.0,)) <= layer.proved_bound() <= 1 + 1e-9
    if kind in ("cpl", "sll"):
        promise = layer.guarantee()
        assert smallest_eigenvalue(layer.form(), promise.multipliers, 1.0) >= -1e-9


@pytest.mark.parametrize("kind", ["cayley", "sandwich"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(*[st.integers(1, n) for n in (2, 6, 3, 3, 9)]),
    stride=st.integers(1, 3),
    seed=st.integers(0, 10_000),
)
def test_every_size_and_stride_of_orthogonal_layers(kind: str, sizes: tuple[int, ...], stride: int, seed: int) -> None:
    c, m, tall, wide, k = sizes
    h, w = tall * stride, wide * stride
    own = {"image_size": (h, w), "generator": torch.Generator().manual_seed(seed), **DOUBLE}
    layer = {"cayley": CayleyConv, "sandwich": SandwichConv}[kind](c, m, min(k, h, w), stride, **own)  # type: ignore
    assert layer.out_shape == (m, tall, wide)
    redraw(layer, seed, [0.1, 1.0], zeros=seed % 2)
    assert jacobians(layer, seed, (1.0,)) <= layer.proved_bound() <= 1 + 1e-9
    promise = layer.guarantee()
    assert smallest_eigenvalue(layer.form(), promise.multipliers, 1.0) >= -1e-9
    if kind == "cayley":
        Q = layer.operator().dense().detach()
        Q = Q if len(Q) >= Q.shape[1] else Q.mT
        assert torch.allclose(Q.mT @ Q, torch.eye(Q.shape[1], **DOUBLE), atol=1e-11)


@pytest.mark.parametrize("build", [CayleyConv, SandwichConv])
def test_a_stride_is_space_to_depth_before_the_layer(build: Layer) -> None:
    one = build(2, 3, 3, 2, image_size=(6, 4), **DOUBLE)
    other = build(8, 3, 2, image_size=(3, 2), **DOUBLE)
    other.load_state_dict(one.state_dict())
    x = torch.randn(3, 2, 6, 4, generator=torch.Generator().manual_seed(0), **DOUBLE)
    assert torch.allclose(one(x), other(torch.nn.functional.pixel_unshuffle(x, 2)), atol=1e-14)


def test_a_circulant_with_a_stride_is_a_strided_convolution() -> None:
    """Its kernel, with the blocks' channels back in their places, read at every s-th pixel of the periodic image."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(2, 3 * 4, 3, 2, generator=generator, **DOUBLE)
    operator = Circulant(kernel, 2)
    x, y = torch.randn(5, 3 * 24, generator=generator, **DOUBLE), torch.randn(5, 2 * 6, generator=generator, **DOUBLE)
    around = torch.nn.functional.pad(x.unflatten(-1, (3, 6, 4)), (0, 2, 0, 4), mode="circular")
    expected = torch.nn.functional.conv2d(around, torch.nn.functional.pixel_shuffle(kernel, 2), stride=2).flatten(1)
    assert torch.allclose(operator.apply(x), expected, atol=1e-12)
    assert torch.allclose(x @ operator.dense().mT, expected, atol=1e-12)
    assert torch.allclose(operator.adjoint(y), y @ operator.dense(), atol=1e-12)
    norm = float(torch.linalg.matrix_norm(operator.dense(), 2))
    assert norm <= operator.norm_bound() <= norm * 1.02
    assert operator.sums() >= norm
    with pytest.raises(InputError, match="whole blocks"):
        Circulant(kernel, 5)


@EVERY
def test_float32_keeps_its_bound(name: str) -> None:
    for seed in range(4):
        layer = make(name, torch.float32)
        redraw(layer, seed, [1e-8, 1.0, 30.0] if seed % 2 else [1.0], zeros=seed % 3)
        assert jacobians(layer, seed, (1.0,)) <= layer.proved_bound() * (1 + 1e-12)
        assert layer.proved_bound() <= 1 + 1e-4
        double = make(name)
        double.load_state_dict(layer.state_dict())
        x = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(seed))
        assert torch.allclose(layer(x).double(), double(x.double()), rtol=1e-3, atol=1e-3)


@EVERY
def test_the_form_is_the_layer_and_its_lmi_holds(name: str) -> None:
    for seed, scales in enumerate(([1.0], [0.1, 10.0], [1e-8, 1.0, 1e4])):
        layer = make(name)
        redraw(layer, seed, scales, zeros=seed)
        form, promise = layer.form(), layer.guarantee()
        x = torch.randn(3, 2, layer.in_features, generator=torch.Generator().manual_seed(seed), **DOUBLE)
        y = layer(x)
        solved = equilibrium(form, x.flatten(0, 1)).y.reshape(y.shape)
        assert torch.allclose(y, solved, rtol=1e-12, atol=1e-12 * (1 + float(y.detach().abs().max())))
        images = layer(x.unflatten(-1, layer.in_shape))
        assert images.shape[2:] == layer.out_shape
        assert torch.equal(images.flatten(2), y)
        assert promise.multipliers.shape == (form.hidden_size,)
        assert bool((promise.multipliers > 0).all())
        assert smallest_eigenvalue(form, promise.multipliers, 1.0) >= -1e-7


@EVERY
def test_what_is_promised_is_proved(name: str) -> None:
    layer = make(name)
    form = sequential_form(torch.nn.Sequential(layer))
    certify.check_guarantee(form, layer.guarantee())
    certify.check_guarantee(layer.form(), layer.guarantee())


@EVERY
def test_gradients(name: str) -> None:
    layer = make(name)
    x = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(5), **DOUBLE).requires_grad_()
    names = [n for n, _ in layer.named_parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    values = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())
    assert torch.autograd.gradcheck(run, (x, *values), atol=1e-6, fast_mode=True)


@EVERY
def test_gradients_are_finite_where_channels_are_zero(name: str) -> None:
    layer = make(name)
    redraw(layer, 0, [1.0], zeros=2)
    for weights in ("some", "all"):
        if weights == "all":
            with torch.no_grad():
                layer.weight.zero_()
        layer.zero_grad()
        layer(torch.ones(2, layer.in_features, **DOUBLE)).square().sum().backward()
        assert all(bool(p.grad.isfinite().all()) for p in layer.parameters() if p.grad is not None)


@EVERY
def test_parameters_are_all_there_from_the_start_and_nothing_goes_stale(name: str) -> None:
    layer, other = make(name), make(name, seed=1)
    before = set(layer.state_dict())
    x = torch.randn(3, *layer.in_shape, generator=torch.Generator().manual_seed(5), **DOUBLE)
    first = layer.eval()(x)
    assert set(layer.state_dict()) == before
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer(x), other.eval()(x))
    assert not torch.equal(layer(x), first)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer.train()(x).square().sum().backward()
    assert {n for n, p in layer.named_parameters() if p.grad is not None} == before
    optimiser.step()
    assert torch.equal(layer(x), layer.eval()(x)), "what is used in eval is of this step, not of the one before"
    assert not torch.equal(layer(x), other(x))
    assert layer.float()(x.float()).dtype == torch.float32


# The bugs of published codes (mathematics 4, 6), and the traps.


def test_q_of_the_convolutional_sll_has_an_effect_and_stands_on_the_summed_axis() -> None:
    layer = make("sll-zeros")
    layer(torch.randn(5, layer.in_features, **DOUBLE)).square().sum().backward()
    assert float(layer.log_q.grad.abs().max()) > 1e-4
    K, q = layer.weight.detach(), layer.log_q.detach().exp()
    gram = torch.nn.functional.conv2d(K, K, padding=2).abs().sum((2, 3))
    assert torch.allclose(layer.metric(), (gram * q / q[:, None]).sum(1), rtol=1e-10)


def test_extreme_q_cannot_break_the_convolutional_sll() -> None:
    for theta in (-1e6, -30.0, 30.0, 1e6):
        layer = make("sll-zeros")
        with torch.no_grad():
            layer.log_q[0] = theta
        assert jacobians(layer, 0, (1.0,)) <= 1 + 1e-12


def test_the_norm_at_the_image_s_own_size_would_have_broken_the_cpl() -> None:
    """Zero padding can be larger than circular: T from the frequencies of the image itself is too small."""
    worst = 0.0
    for seed in range(40):
        layer = CPLConv(1, 1, 3, padding=1, image_size=3, **DOUBLE)
        redraw(layer, seed, [1.0], zeros=0)
        W = layer.form().U.dense().detach()
        short = float(circular_bound(layer.weight.detach(), 3, 3, 40)) ** 2
        broken = torch.linalg.matrix_norm(torch.eye(9, **DOUBLE) - 2 / short * W.T @ W, 2)
        worst = max(worst, float(broken))
        assert jacobians(layer, seed, (1.0,)) <= 1 + 1e-12
    assert worst > 1.1


@pytest.mark.parametrize("padding", [0, 1, 2, Circular(2)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_way_back_is_the_adjoint_for_every_padding_and_stride(padding: int | Padding, stride: int) -> None:
    """Published layers hard-wire a padding of 1, and their shapes break for a stride."""
    layer = CPLConv(2, 3, 3, stride, padding, image_size=(5, 6), **DOUBLE)
    form = layer.form()
    T = layer.metric()[0]
    assert torch.allclose(form.C.dense(), -2 / T * form.U.dense().mT, atol=1e-14)


@pytest.mark.parametrize("size", [(4, 7), (5, 6), (6, 4), (3, 3)])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_cayley_is_orthogonal_on_odd_and_even_and_oblong_images(size: tuple[int, int], scale: float) -> None:
    for channels in ((2, 3), (3, 3), (3, 2)):
        layer = CayleyConv(*channels, 3, image_size=size, **DOUBLE)
        with torch.no_grad():
            layer.weight.mul_(scale)
            layer.length.mul_(scale)
        operator = layer.operator()
        Q = operator.dense().detach()
        Q = Q if channels[1] >= channels[0] else Q.mT
        assert torch.allclose(Q.mT @ Q, torch.eye(Q.shape[1], **DOUBLE), atol=1e-8)
        x = torch.randn(2, layer.in_features, **DOUBLE)
        # An odd width survives the half spectrum; products with the matrix agree.
        assert torch.allclose(operator.apply(x), x @ operator.dense().mT, atol=1e-12)
        y = torch.randn(2, layer.out_features, **DOUBLE)
        assert torch.allclose(operator.adjoint(y), y @ operator.dense(), atol=1e-12)


def test_a_kernel_that_would_be_cropped_is_refused() -> None:
    for build in (CayleyConv, SandwichConv):
        with pytest.raises(InputError, match="does not fit"):
            build(1, 1, 5, image_size=(4, 6))
        with pytest.raises(InputError, match="does not fit"):
            build(1, 1, 5, 2, image_size=(4, 6))
        with pytest.raises(InputError, match="stride of 2 does not divide"):
            build(1, 1, 3, 2, image_size=(4, 5))
        with pytest.raises(InputError, match="stride"):
            build(1, 1, 3, 0, image_size=(4, 4))


# Glue and sorting.


@pytest.mark.parametrize("name", list(GLUE))
def test_glue_is_what_it_says_and_its_norm_is_exact(name: str) -> None:
    layer = GLUE[name].double()
    x = torch.randn(4, *layer.in_shape, generator=torch.Generator().manual_seed(0), **DOUBLE)
    y, promise, form = layer(x), layer.guarantee(), layer.form()
    assert y.shape == (4, *layer.out_shape)
    assert torch.allclose(equilibrium(form, x.flatten(1)).y, y.flatten(1), rtol=1e-12, atol=1e-12)
    assert torch.equal(layer(x.flatten(1)), y.flatten(1))
    assert smallest_eigenvalue(form, promise.multipliers, promise.bound) >= -1e-12
    norm = jacobians(layer, 0, (1.0,))
    assert norm == pytest.approx(promise.bound, rel=1e-12)
    assert norm * (1 - 1e-14) <= layer.proved_bound() <= promise.bound * (1 + 1e-12)
    assert not list(layer.parameters())
    assert layer.float()(x.float()).dtype == torch.float32
    layer.double()


def test_glue_against_torch() -> None:
    x = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(0), **DOUBLE)
    assert torch.allclose(GLUE["pool"].double()(x), torch.nn.AvgPool2d(2)(x))
    assert torch.equal(GLUE["space-to-depth"].double()(x), torch.nn.PixelUnshuffle(2)(x))
    pooled = ScaledAveragePool2d(2, 2, image_size=(4, 6)).double()(x)
    assert torch.allclose(pooled, 2 * torch.nn.AvgPool2d(2)(x))
    assert torch.equal(PadChannels(2, 3, image_size=(4, 6)).double()(x)[:, 2], torch.zeros(3, 4, 6, **DOUBLE))


@pytest.mark.parametrize(("group", "channels"), [(2, 4), (3, 6), (4, 4), (5, 5)])
def test_sorting_sorts_and_its_network_is_one_form(group: int, channels: int) -> None:
    layer = GroupSort(channels, group, image_size=(2, 2)).double()
    x = torch.randn(50, channels, 2, 2, generator=torch.Generator().manual_seed(0), **DOUBLE)
    expected = x.reshape(50, -1, group, 2, 2).sort(dim=2).values.reshape(x.shape)
    assert torch.equal(layer(x), expected)
    form = layer.form()
    assert form.hidden_size == channels // group * 4 * group * (group - 1) // 2
    assert torch.allclose(equilibrium(form, x.flatten(1)).y, expected.flatten(1), rtol=1e-12, atol=1e-12)
    certify.check_guarantee(form, layer.guarantee())
    bound = certify.lipschitz(form)
    assert bound.value <= 1 + 1e-6


# Stacks.


def stack(seed: int = 0, gamma: float = 0.7) -> Stack:
    own = {"generator": torch.Generator().manual_seed(seed), **DOUBLE}
    layers = [
        SpaceToDepth(1, 2, image_size=6).double(), PadChannels(4, 6, image_size=3).double(),
        CPLConv(6, 2, 3, padding=1, image_size=3, **own), MaxMin(6, image_size=3).double(),
        CayleyConv(6, 2, 3, image_size=3, **own), Pointwise(ReLU(), 18).double(),
        SandwichConv(2, 2, 2, image_size=3, **own), SLLConv(2, 3, 3, 1, Circular(1), image_size=3, **own),
        AOLConv(2, 3, 3, padding=1, image_size=3, **own), ScaledAveragePool2d(3, 3, image_size=3).double(),
        Cayley(3, 2, **own),
    ]  # fmt: skip
    return Stack(layers, gamma)


def test_a_stack_of_images_is_one_form_with_a_bound_below_the_product() -> None:
    for seed in range(2):
        model = stack(seed)
        if seed:
            redraw(model.layers, seed, [0.3, 1.0], zeros=0)
        x = torch.randn(5, 1, 6, 6, generator=torch.Generator().manual_seed(seed), **DOUBLE)
        form, y = model.form(), model(x)
        assert torch.equal(model(x.flatten(1)), y)
        assert torch.allclose(equilibrium(form, x.flatten(1)).y, y, rtol=1e-12, atol=1e-12)
        certify.check_guarantee(form, model.guarantee())
        product = model.proved_bound()
        assert product <= 0.7 * (1 + 1e-9)
        assert [name for name, _ in model.factors()][:3] == ["SpaceToDepth", "PadChannels", "CPLConv"]
        bound = certify.lipschitz(form)
        assert bound.value < 0.99 * product
        assert steepest(model, seed) <= bound.value  # type: ignore[arg-type]


def test_a_large_stack_keeps_the_product_and_refuses_a_form() -> None:
    own = {"generator": torch.Generator().manual_seed(0)}
    model = Stack([
        CPLConv(3, 16, 3, padding=1, image_size=32, **own), AOLConv(3, 8, 3, 2, 1, image_size=32, **own),
        Pointwise(ReLU(), 8 * 256), ScaledAveragePool2d(8, 16, image_size=16), Spectral(8, 10, **own),
    ], 2.0)  # fmt: skip
    product = model.proved_bound()
    assert product <= 2.0 * (1 + 1e-4)
    assert product == pytest.approx(2.0 * math.prod(bound for _, bound in model.factors()), rel=1e-5)
    with pytest.raises(InputError, match=r"stack\.chain\(\)"):
        model.form()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    J = torch.autograd.functional.jacobian(lambda v: model(v[None])[0], x[0]).flatten(1)
    assert float(torch.linalg.matrix_norm(J.double(), 2)) <= product


def test_a_stack_of_glue_alone() -> None:
    model = Stack([AveragePool2d(2, 2, image_size=4), MaxMin(2, image_size=2)], 3.0)
    assert 1.5 <= model.proved_bound() <= 1.5 * (1 + 1e-6)
    assert certify.lipschitz(model.double()).value <= 1.5 * (1 + 1e-6)


def test_layers_of_images_stand_in_a_sequential_beside_ordinary_ones() -> None:
    mean, std = torch.linspace(0, 1, 16, **DOUBLE), torch.linspace(0.5, 2, 16, **DOUBLE)
    network = torch.nn.Sequential(
        Standardise(mean, std, **DOUBLE), AOLConv(1, 4, 3, padding=1, image_size=4, **DOUBLE),
        MaxMin(4, image_size=4).double(),
        ScaledAveragePool2d(4, 2, image_size=4).double(), torch.nn.Flatten(), torch.nn.Linear(16, 3, **DOUBLE),
    )  # fmt: skip
    x = torch.randn(6, 1, 4, 4, **DOUBLE)
    form = sequential_form(network)
    assert torch.allclose(equilibrium(form, x.flatten(1)).y, network(x), rtol=1e-12, atol=1e-12)
    assert certify.lipschitz(form).value > 0


def test_circulants() -> None:
    kernel = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(0), **DOUBLE)
    operator = Circulant(kernel)
    norm = float(torch.linalg.matrix_norm(operator.dense(), 2))
    assert norm <= operator.norm_bound() <= norm * 1.02
    assert operator.sums() >= norm
    with pytest.raises(InputError):
        Circulant(kernel[0])


@pytest.mark.parametrize(
    "build",
    [
        lambda: CPLConv(0, 1, 3, image_size=4),
        lambda: SLLConv(1, 1, 3, 0, image_size=4),
        lambda: AOLConv(1, 2, 5, image_size=3),
        lambda: AOLConv(1, 2, 3, padding=-1, image_size=3),
        lambda: SpectralConv(1, 1, 3, 1, Circular(5), image_size=4),
        lambda: AveragePool2d(1, 3, image_size=4),
        lambda: SpaceToDepth(1, 2, image_size=(4, 5)),
        lambda: PadChannels(3, 2, image_size=2),
        lambda: GroupSort(5, 2),
        lambda: AOLConv(1, 2, 3, image_size=4)(torch.ones(1, 2, 4, 4)),
        lambda: Stack([SpaceToDepth(1, 2, image_size=4), CPLConv(1, 1, 3, image_size=4)]),
        lambda: Stack([SpaceToDepth(1, 2, image_size=4), CPLConv(16, 1, 1, image_size=1)]),
    ],
)
def test_mistakes_are_named(build: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        build()
