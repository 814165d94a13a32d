"""Training configurations: what cannot work is refused before anything runs."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from equilip import activations
from equilip.errors import ConfigError
from equilip.train import config as module
from equilip.train import toml
from equilip.train.config import TrainConfig


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "lbne"}, "unknown model 'lbne'; did you mean 'lben'"),
        ({"activation": "gelu"}, "unknown activation 'gelu'"),
        ({"gamma": -1.0}, "gamma must be a positive number, got -1"),
        ({"gamma": math.nan}, "gamma must be a positive number"),
        ({"epsilon": 0.0}, "epsilon must be a positive number, got 0"),
        ({"lr": math.inf}, "lr must be a positive number, got inf"),
        ({"beta1": 1.0}, "beta1 is a share of the past, from 0 to below 1, got 1"),
        ({"beta2": math.nan}, "beta2 is a share of the past, from 0 to below 1, got nan"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"batch": -3}, "batch must be at least 1"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"seed": -1}, "seed must be between"),
        ({"model": "monotone", "gamma": 1.0}, "gamma is a property of the model lben"),
        ({"model": "feedforward", "feedthrough": True}, "feedthrough is a property of the model lben"),
        ({"learn_gamma": True}, "learn_gamma needs a bound: give gamma"),
        ({"loss": "hinge"}, "unknown loss 'hinge'; did you mean 'margin'|unknown loss 'hinge'; known"),
        ({"loss": "certified", "loss_eps": 0.3}, "the loss certified needs a bound"),
        ({"loss": "lipschitz-margin", "gamma": 1.0}, "needs the distance to train against: give loss_eps"),
        ({"loss_eps": 0.3, "gamma": 1.0}, "loss_eps means nothing to the loss cross-entropy"),
        ({"schedule": "onecycle"}, "unknown schedule 'onecycle'; did you mean 'one-cycle'"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"validation": 1.0}, "validation is a share"),
        ({"validation": math.nan}, "validation is a share"),
        ({"shift": -1}, "shift must be between 0 and 8"),
        ({"patience": 3}, "patience needs data to watch"),
        ({"patience": 0, "validation": 0.1}, "patience must be at least 1"),
        ({"eps": (0.1,)}, r"certified accuracy \(eps\) needs a bound"),
        ({"eps": (-0.1,), "gamma": 1.0}, "a distance cannot be negative or infinite, got -0.1"),
    ],
)
def test_refuses(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**values)


def test_survives_toml() -> None:
    import tomllib

    config = TrainConfig(gamma=0.1, lr=3e-4, seed=7, data="mnist", eps=(0.3, 1.58), feedthrough=True)
    read = tomllib.loads(toml.write(config.as_table()))
    assert toml.build(TrainConfig, read, "x") == config


def test_every_activation_is_known_to_the_library() -> None:
    for name in module.ACTIVATIONS:
        assert activations.activation(name).kind == name


def test_configuration_needs_no_torch() -> None:
    code = "import sys, equilip.train.config, equilip.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
