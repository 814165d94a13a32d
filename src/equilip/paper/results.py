"""What an experiment found, read back from its runs, beside what was published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from equilip.errors import ConfigError, FormatError
from equilip.paper.experiment import Experiment, Network, Published
from equilip.paper.stages import CURVE, Stage, finished
from equilip.train import metrics, runs

#: Points of test error by which a network may be above the published one and still count as reproduced.
ROOM = 0.3


@dataclass(frozen=True)
class Result:
    """The numbers of one network; slopes with respect to the standardised input.

    unconverged: test samples without equilibrium; train_unconverged: training samples, in the last epoch. gamma: the
    bound that it was trained with; proved: the one that was proved of its stored numbers, None where nothing was.
    eps, fast_gradient_error: the sizes of the gradient steps, standardised, and the shares of errors after them.
    seconds: of training. bugs: files that say what contradicted a proof.
    """

    network: Network
    test_error_percent: float
    unconverged: int
    train_unconverged: int
    largest_slope: float
    gamma: float | None
    proved: float | None
    eps: tuple[float, ...]
    fast_gradient_error: tuple[float, ...]
    seconds: float
    bugs: tuple[str, ...]

    @property
    def published(self) -> Published | None:
        return self.network.published

    @property
    def tightness(self) -> float | None:
        """The largest slope found as a share of the proved bound; None where nothing is proved."""
        return None if self.proved is None else self.largest_slope / self.proved

    @property
    def error_reproduced(self) -> bool | None:
        """Whether the test error is at most the published one and ROOM; None where none of the kind was published."""
        if self.published is None or not self.published.alike:
            return None
        return self.test_error_percent <= self.published.test_error_percent + ROOM + 1e-9

    @property
    def tightness_reproduced(self) -> bool | None:
        """Whether the slope found is as near to the proved bound as the authors' was to γ; None where they had none, or
        where none of the kind was published."""
        if self.published is None or not self.published.alike or self.published.tightness is None:
            return None
        return self.tightness is not None and self.tightness >= self.published.tightness

    def as_table(self) -> dict[str, Any]:
        """The numbers as plain values."""
        published = self.published
        return {
            "name": self.network.name,
            "label": self.network.label,
            "test_error_percent": self.test_error_percent,
            "unconverged": self.unconverged,
            "train_unconverged": self.train_unconverged,
            "largest_slope": self.largest_slope,
            "gamma": self.gamma,
            "proved": self.proved,
            "tightness": self.tightness,
            "eps": list(self.eps),
            "fast_gradient_error": list(self.fast_gradient_error),
            "training_seconds": self.seconds,
            "bugs": list(self.bugs),
            "published_test_error_percent": None if published is None else published.test_error_percent,
            "published_largest_slope": None if published is None else published.largest_slope,
            "published_tightness": None if published is None else published.tightness,
            "error_reproduced": self.error_reproduced,
            "tightness_reproduced": self.tightness_reproduced,
        }


def collect(experiment: Experiment, out: Path) -> tuple[Result, ...]:
    """The results of every network. ConfigError where one is not finished, FormatError for a file that is not ours."""
    return tuple(read(network, out / network.name) for network in experiment.networks)


def read(network: Network, folder: Path) -> Result:
    """The result of one network from its run directory; errors as in :func:`collect`."""
    if set(finished(network, folder)) != set(Stage):
        raise ConfigError(f"{folder} is not finished; call again with --resume")
    evaluation, attacked, curve = (values_of(folder / f"{name}.json") for name in ("evaluation", "attack", CURVE))
    epochs = metrics.read(folder)
    try:
        return Result(
            network=network,
            test_error_percent=float(evaluation["test_error_percent"]),
            unconverged=int(evaluation["unconverged"]),
            train_unconverged=epochs[-1].train_unconverged if epochs else 0,
            largest_slope=float(attacked["largest_slope"]),
            gamma=runs.load_config(folder).model.gamma,
            proved=None if attacked["certified"] is None else float(attacked["certified"]),
            eps=tuple(map(float, curve["eps"])),
            fast_gradient_error=tuple(map(float, curve["error"])),
            seconds=sum(epoch.seconds for epoch in epochs),
            bugs=tuple(map(str, attacked["bugs"])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{folder} does not hold the results of an experiment, or they are damaged: {error}"
        ) from error


def values_of(file: Path) -> dict[str, Any]:
    """The contents of a result's file; FormatError where it is damaged."""
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise FormatError(f"{file} is not a result of equilip, or it is damaged: {error}") from error
    if not isinstance(values, dict):
        raise FormatError(f"{file} is not a result of equilip")
    return values
