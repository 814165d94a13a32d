"""What a training run is told, as frozen dataclasses that say no to values that cannot work. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from equilip.errors import ConfigError
from equilip.train.toml import nearest

MODELS = ("lben", "monotone", "feedforward")
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "elu", "softplus", "hardtanh", "sigmoid", "identity")
SCHEDULES = ("constant", "step")
DTYPES = ("float32", "float64")


def option(default: Any, help: str, choices: tuple[str, ...] = ()) -> Any:
    """A field that knows what the command line says about it."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True)
class TrainConfig:
    """One training run: data, network, optimiser. Every field is a key of a TOML file and a flag of
    ``equilip train``.

    Raises ConfigError for values that cannot work, naming the field.
    """

    data: str = option("digits", "data set: digits, mnist or fashion-mnist")
    limit: int | None = option(None, "use only the first N samples of each part")
    model: str = option("lben", "parametrisation of the network", MODELS)
    width: int = option(80, "number of neurons")
    gamma: float | None = option(
        None,
        "bound on the slope of an lben, with respect to the standardised input; if left out, it is only well-posed",
    )
    epsilon: float = option(1.0, "margin of an lben's well-posedness")
    m: float = option(1.0, "strong monotonicity of a monotone network")
    activation: str = option("relu", "nonlinearity of every neuron", ACTIVATIONS)
    epochs: int = option(30, "passes over the training data")
    batch: int = option(128, "samples per step")
    lr: float = option(1e-3, "learning rate of Adam")
    schedule: str = option("step", "learning rate: constant, or divided by 10 every --step-epochs", SCHEDULES)
    step_epochs: int = option(10, "epochs between divisions of the learning rate")
    tolerance: float | None = option(None, "relative residual of every solve; chosen by dtype if left out")
    seed: int = option(0, "seed of the initial weights and of the order of the samples")
    dtype: str = option("float32", "number format", DTYPES)
    device: str = option("cpu", "where to compute: cpu, cuda, cuda:1, ...")

    def __post_init__(self) -> None:
        for name, choices in (
            ("model", MODELS),
            ("activation", ACTIVATIONS),
            ("schedule", SCHEDULES),
            ("dtype", DTYPES),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"unknown {name} {value!r}; {nearest(value, choices)}")
        for name in ("limit", "width", "epochs", "batch", "step_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name in ("gamma", "epsilon", "m", "lr", "tolerance"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value:g}")
        if self.gamma is not None and self.model != "lben":
            raise ConfigError(f"gamma is a property of the model lben; a {self.model} network has none to set")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed must be between 0 and 2^63 - 1, got {self.seed}")

    def as_table(self) -> Mapping[str, Any]:
        """The fields as plain values, None where nothing was chosen."""
        return asdict(self)
