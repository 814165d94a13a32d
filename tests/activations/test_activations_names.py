"""Activations by name, from torch modules and from descriptions; what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from activation_kinds import (
    PLAIN,
    mixed,
)

from equilip.activations import (
    ELU,
    REFUSED,
    Activation,
    HardTanh,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Softplus,
    Tanh,
    activation,
    describe,
    from_module,
    refuse,
    restore,
)
from equilip.errors import ActivationError, EquilipError, FormatError, InputError

# ---------------------------------------------------------------- names, modules, descriptions


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gelu", torch.nn.GELU()),
        ("silu", torch.nn.SiLU()),
        ("mish", torch.nn.Mish()),
        ("selu", torch.nn.SELU()),
        ("hardswish", torch.nn.Hardswish()),
    ],
)
def test_what_no_guarantee_covers_is_refused_with_its_slopes(name: str, function: torch.nn.Module) -> None:
    s = torch.linspace(-12, 12, 400_001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(function(s).sum(), s)
    lower, upper = REFUSED[name]
    # The numbers in the message are the true extremes, rounded outwards or at most in the last digit shown.
    assert lower == pytest.approx(float(slope.min()), abs=2e-5)
    assert upper == pytest.approx(float(slope.max()), abs=2e-5)
    for attempt in (
        lambda: activation(name),
        lambda: activation(name.upper()),
        lambda: from_module(function),
    ):
        with pytest.raises(ActivationError) as caught:
            attempt()
        assert f"[{lower:g}, {upper:g}]" in str(caught.value)
        assert "relu" in str(caught.value)
    assert isinstance(caught.value, InputError)
    assert isinstance(caught.value, EquilipError)
    assert isinstance(caught.value, ValueError)


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ActivationError, match=r"unknown activation 'swish2'.*relu.*tanh"):
        activation("swish2")
    assert isinstance(refuse("GroupSort"), ActivationError)
    with pytest.raises(InputError, match="bogus"):
        activation("relu", bogus=1.0)


@pytest.mark.parametrize("slope", [-0.1, 1.5, math.nan, -math.inf])
def test_leaky_relu_outside_the_unit_interval(slope: float) -> None:
    with pytest.raises(ActivationError, match="negative slope"):
        LeakyReLU(slope)


@pytest.mark.parametrize("alpha", [0.0, -1.0, 1.5, math.nan])
def test_elu_outside_the_unit_interval(alpha: float) -> None:
    with pytest.raises(ActivationError, match="alpha"):
        ELU(alpha)


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, -1.0), (math.nan, 1.0)])
def test_hardtanh_with_no_interval(bounds: tuple[float, float]) -> None:
    with pytest.raises(ActivationError, match="lower < upper"):
        HardTanh(*bounds)


@pytest.mark.parametrize(
    ("module", "sigma"),
    [
        (torch.nn.ReLU(), ReLU()),
        (torch.nn.ReLU(inplace=True), ReLU()),
        (torch.nn.LeakyReLU(0.2), LeakyReLU(0.2)),
        (torch.nn.ReLU6(), HardTanh(0.0, 6.0)),
        (torch.nn.Hardtanh(-2.0, 0.5), HardTanh(-2.0, 0.5)),
        (torch.nn.ELU(0.7), ELU(0.7)),
        (torch.nn.Tanh(), Tanh()),
        (torch.nn.Sigmoid(), Sigmoid()),
        (torch.nn.Softplus(), Softplus()),
        (torch.nn.Identity(), Identity()),
    ],
    ids=repr,
)
def test_modules_of_torch(module: torch.nn.Module, sigma: Activation) -> None:
    assert from_module(module) == sigma
    # Not beyond 20, where torch's softplus is the identity by decree.
    s = torch.linspace(-20, 20, 101, dtype=torch.float64)
    assert torch.allclose(sigma.value(s), module(s.clone()), rtol=1e-15, atol=1e-300)


@pytest.mark.parametrize(
    "module",
    [torch.nn.LeakyReLU(2.0), torch.nn.ELU(3.0), torch.nn.Softsign(), torch.nn.Linear(2, 2), torch.nn.PReLU()],
    ids=repr,
)
def test_modules_that_stand_for_no_activation(module: torch.nn.Module) -> None:
    with pytest.raises(ActivationError):
        from_module(module)


@pytest.mark.parametrize("sigma", [*PLAIN, mixed(), LeakyReLU(0.1 + 2**-50), HardTanh(-1e-300, 3.7e222)], ids=repr)
def test_descriptions_restore_the_very_numbers(sigma: Activation) -> None:
    described = json.loads(json.dumps(describe(sigma, 6)))
    assert sum(block["size"] for block in described) == 6
    assert restore(described) == sigma


@pytest.mark.parametrize(
    "description",
    [
        None,
        7,
        ["relu"],
        [{}],
        [{"kind": "relu"}],
        [{"size": 3}],
        [{"kind": "gelu", "size": 3}],
        [{"kind": "relu", "size": "three"}],
        [{"kind": "relu", "size": None}],
        [{"kind": "relu", "size": -3}],
        [{"kind": "relu", "size": 2.5}],
        [{"kind": "relu", "size": 1e999}],
        [{"kind": "leaky_relu", "size": 3, "negative_slope": 0.5}],
        [{"kind": "leaky_relu", "size": 3, "negative_slope": "0x1p5"}],
        [{"kind": "leaky_relu", "size": 3, "negative_slope": "0x1p99999"}],
        [{"kind": "leaky_relu", "size": 3, "slope": "0x1p-3"}],
        [{"kind": ["relu"], "size": 3}],
        [{"kind": "relu", "size": 10}, {"kind": "tanh", "size": -5}],
    ],
    ids=repr,
)
def test_descriptions_without_sense_are_refused(description: object) -> None:
    with pytest.raises(FormatError):
        restore(description)  # type: ignore[arg-type]
