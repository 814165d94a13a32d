"""What a comparison is told: the data, how large and how long the trainings are, and what is measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from equilip.compare.families import EVERY, EVERY_NAME, NAMES, Family
from equilip.errors import ConfigError
from equilip.train.toml import nearest


@dataclass(frozen=True)
class Settings:
    """One comparison. Every network is trained with seeds ``seed``, ``seed`` + 1, ... as often as ``runs`` says.

    parameters: of every network, as nearly as its width allows. seconds: of the processor, for every training. batch,
    lr: of every training, whose learning rate goes as one-cycle does. eps: the raw l2 distances that are certified and
    attacked. loss_eps, temperature: of the margin that bounded families train for, with a bound of 1 in raw units.
    attacked: how many test samples, the first ones. search: seconds for the multipliers of each certificate.
    increasing, decreasing: the inputs of the monotonic family. families: their names.
    Raises ConfigError for what cannot work.
    """

    data: str
    limit: int | None = None
    families: tuple[str, ...] = NAMES
    parameters: int = 10_000
    seconds: float = 10.0
    runs: int = 3
    seed: int = 0
    batch: int = 64
    lr: float = 1e-2
    eps: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0)
    loss_eps: float = 0.3
    temperature: float = 0.15
    attacked: int = 500
    search: float = 20.0
    increasing: tuple[int, ...] = ()
    decreasing: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in self.families:
            if name not in EVERY_NAME:
                raise ConfigError(f"unknown family {name!r}; {nearest(name, EVERY_NAME)}")
        if not self.families or len(set(self.families)) != len(self.families):
            raise ConfigError("name each family to be compared once")
        for name in ("parameters", "runs", "batch", "attacked"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seconds", "lr", "loss_eps", "temperature", "search"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"{name} must be a positive number, got {getattr(self, name):g}")
        if not self.eps or any(not (math.isfinite(e) and e > 0) for e in self.eps):
            raise ConfigError("eps must be positive distances, at least one")

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.seed + k for k in range(self.runs))

    @property
    def chosen(self) -> tuple[Family, ...]:
        """The families in their own order."""
        return tuple(family for family in EVERY if family.name in self.families)

    def as_table(self) -> Mapping[str, Any]:
        """The fields as plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


#: What suits the data sets that are known by name; every other has the defaults.
KNOWN = {
    "digits": Settings("digits", parameters=6_000, seconds=4.0, batch=32, eps=(0.1, 0.2, 0.5, 1.0), loss_eps=0.6),
    "mnist": Settings(
        "mnist",
        parameters=50_000,
        seconds=20.0,
        runs=2,
        batch=128,
        eps=(0.1, 0.3, 1.0, 1.58),
        loss_eps=1.0,
        attacked=200,
    ),
    "fashion-mnist": Settings("fashion-mnist", parameters=50_000, seconds=20.0, runs=2, batch=128, attacked=200),
    "cifar10": Settings(
        "cifar10",
        parameters=200_000,
        seconds=60.0,
        runs=2,
        batch=128,
        eps=(0.05, 0.1, 0.14, 0.3),
        loss_eps=0.2,
        attacked=200,
    ),
}


def settings(data: str, **changes: Any) -> Settings:
    """The settings of a data set, changed where something is not None; ConfigError as :class:`Settings`."""
    known = KNOWN.get(data, Settings(data))
    return replace(known, **{name: value for name, value in changes.items() if value is not None})
