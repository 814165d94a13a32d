"""The convolutional feed-forward network: its form is the network, and what is proved of it holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nn_ascent import Networks, climb

from equilip import certify, checker, form, nn
from equilip.activations import Tanh
from equilip.errors import InputError
from equilip.form import Standardisation
from equilip.operators import Circular, Padding, Zeros
from equilip.solve import Settings, equilibrium

PADDINGS = [Zeros(0), Circular(0)]


def draw(padding: Padding, kernel_size: int = 3, seed: int = 0, **options: object) -> nn.FeedForwardConv:
    generator = torch.Generator().manual_seed(seed)
    size = {"kernel_size": kernel_size, "padding": padding, "generator": generator, "dtype": torch.float64}
    return nn.FeedForwardConv((2, 6, 6), 3, 4, **size, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_the_form_is_the_network(padding: Padding, kernel_size: int) -> None:
    standardisation = Standardisation(torch.full((72,), 0.3).double(), torch.linspace(0.5, 2, 72).double())
    model = draw(padding, kernel_size, pool=2, activation=Tanh(), standardisation=standardisation)
    x = torch.rand(5, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = equilibrium(model.form(), x.flatten(1), Settings(tolerance=1e-12))
    torch.testing.assert_close(model(x), found.y, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(x.flatten(1)), model(x))
    torch.testing.assert_close(model(x[0]), model(x)[0])
    assert float(found.error.max()) < 1e-9
    assert not model.form().W.apply(torch.randn(3, 108).double()).any()


@pytest.mark.parametrize("padding", PADDINGS)
def test_against_torchs_own_layers(padding: Padding) -> None:
    model = draw(padding, pool=4, pool_padding=1)
    mode = "circular" if isinstance(padding, Circular) else "zeros"
    convolution = torch.nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode, dtype=torch.float64)
    linear = torch.nn.Linear(model.C.shape[1], 4, dtype=torch.float64)
    layers = torch.nn.Sequential(
        convolution, torch.nn.ReLU(), torch.nn.AvgPool2d(4, padding=1), torch.nn.Flatten(), linear
    )
    convolution.weight, convolution.bias, linear.weight, linear.bias = model.U, model.b, model.C, model.c
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(x), layers(x))


def test_gradients() -> None:
    model = draw(Zeros(0), pool=2, activation=Tanh())
    x = torch.randn(2, 72, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *p: model(x), (x, *model.parameters()))


@pytest.mark.parametrize("padding", PADDINGS)
def test_no_slope_beats_what_is_proved(padding: Padding) -> None:
    models = [draw(padding, seed=seed, pool=2) for seed in range(4)]
    forms = [model.form().detach() for model in models]
    bounds = torch.tensor([certify.lipschitz(model).value for model in models], dtype=torch.float64)
    assert (climb(Networks.of(forms), 60) <= bounds).all()
    for own, bound in zip(forms, bounds, strict=True):
        # Whatever neurons are on: relu's slopes in any pattern, all of them among these.
        patterns = torch.rand(50, own.hidden_size, 1, generator=torch.Generator().manual_seed(0)) < 0.5
        patterns[0] = True
        slopes = torch.linalg.matrix_norm(own.C.dense() @ (patterns * own.U.dense()), ord=2)
        assert slopes.amax() <= bound


def test_the_bound_is_sharp_where_one_pixel_is_read() -> None:
    model = draw(Zeros(0), kernel_size=1)
    with torch.no_grad():
        for own in model.parameters():
            own.zero_()
        # One channel is twice one of the input, and one output reads one of its pixels.
        model.U[0, 1], model.C[2, 7] = 2.0, 3.0
    assert certify.lipschitz(model).value == pytest.approx(6.0, rel=1e-6)


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_certificate_is_checked_and_a_smaller_bound_is_refused(padding: Padding, tmp_path: Path) -> None:
    model = draw(padding, pool=2, standardisation=Standardisation(torch.zeros(72), torch.full((72,), 0.25)))
    model.form().save(tmp_path / "form.safetensors")
    bound = certify.lipschitz(model)
    bound.save(tmp_path / "certificate.json")
    assert checker.check(tmp_path / "certificate.json").valid
    assert bound.value_raw >= 4 * bound.value
    replace(bound, value=0.99 * bound.value).save(tmp_path / "certificate.json")
    assert not checker.check(tmp_path / "certificate.json").valid
    again = form.load(tmp_path / "form.safetensors")
    x = torch.rand(2, 72, dtype=torch.float64)
    torch.testing.assert_close(equilibrium(again, x).y, model(x), rtol=0, atol=1e-6)


def test_sizes_that_do_not_fit() -> None:
    for options, words in (
        ({"kernel_size": 4}, "kernel_size"),
        ({"pool": 4}, "blocks of 4"),
        ({"padding": Circular(0), "kernel_size": 7, "shape": (1, 2, 2)}, "padded circularly"),
        ({"shape": (6, 6)}, "channels, height, width"),
    ):
        given = {"shape": (2, 6, 6), "channels": 3, "out_features": 4} | options
        with pytest.raises(InputError, match=words):
            nn.FeedForwardConv(**given)  # type: ignore[arg-type]
