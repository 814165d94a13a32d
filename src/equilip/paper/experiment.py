"""What a published experiment consists of: networks, what is measured of each, and what its authors measured.

Slopes and perturbation sizes called ``standardised`` are with respect to the standardised input, as papers state them.
"""

from __future__ import annotations

from dataclasses import dataclass

from equilip.train import TrainConfig


@dataclass(frozen=True)
class Published:
    """What the authors reported of one network.

    largest_slope: the steepest that they found, standardised. gamma: the bound that it was trained with, if any.
    fast_gradient_error: the share of wrong classes after one gradient step of each of the experiment's sizes.
    differs: what our network or its training has otherwise, so that its numbers only stand beside these; empty where
    nothing is, so that they can reproduce them.
    """

    test_error_percent: float
    largest_slope: float
    gamma: float | None = None
    fast_gradient_error: tuple[float, ...] = ()
    differs: str = ""

    @property
    def tightness(self) -> float | None:
        """largest_slope / gamma; None where they had no bound."""
        return None if self.gamma is None else self.largest_slope / self.gamma

    @property
    def alike(self) -> bool:
        """Whether our numbers can reproduce these."""
        return not self.differs


@dataclass(frozen=True)
class Network:
    """One network of an experiment: ``name`` is its run directory, ``label`` what people read."""

    name: str
    label: str
    config: TrainConfig
    published: Published | None = None

    @property
    def may_fail(self) -> bool:
        """Whether it may have inputs without equilibrium, so that nothing may be provable about it."""
        return self.config.model == "unconstrained"

    @property
    def family(self) -> str:
        """Which networks it belongs with in a figure: those with a bound of one kind and one metric."""
        if self.config.gamma is None:
            return "other networks"
        return "LBEN" if self.config.model == "lben" else f"LBEN, {self.config.metric}"


@dataclass(frozen=True)
class Measures:
    """What is measured of each network after it is trained and certified.

    attacked: how many test samples, the first ones, are attacked at the raw l2 distances ``eps``.
    sizes: of the fast-gradient steps, standardised. stepped: how many test samples, the last ones, take them.
    starts, rounds: of the search for the largest slope.
    """

    attacked: int
    eps: tuple[float, ...]
    sizes: tuple[float, ...]
    stepped: int
    starts: int
    rounds: int


@dataclass(frozen=True)
class LinfMeasures:
    """The same in the maximum norm: accuracies at the distances ``eps``, raw and increasing.

    attacked: how many test samples, the first ones, are attacked; certified are all. seconds: to search a bound in.
    """

    eps: tuple[float, ...]
    attacked: int
    starts: int
    rounds: int
    seconds: float


@dataclass(frozen=True)
class Experiment:
    """Networks to train, and what to measure of each. quick: a shortened one, whose numbers compare with nothing."""

    name: str
    title: str
    networks: tuple[Network, ...]
    measures: Measures | LinfMeasures
    quick: bool = False
