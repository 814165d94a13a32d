"""What a comparison found: every network's numbers, and over the seeds their means and spreads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from equilip.compare import measure, plan
from equilip.compare.families import Family
from equilip.compare.measure import Measured
from equilip.compare.settings import Settings
from equilip.data import Dataset
from equilip.errors import ConfigError


@dataclass(frozen=True)
class Spread:
    """The mean of some numbers, and the smallest and largest of them."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(sum(values) / len(values), min(values), max(values))


@dataclass(frozen=True)
class Result:
    """One family: what was measured of the network of each seed."""

    family: Family
    width: int
    measured: tuple[Measured, ...]

    def spread(self, number: Callable[[Measured], float]) -> Spread:
        """A number over the seeds."""
        return Spread.of([number(one) for one in self.measured])

    def spread_where_known(self, number: Callable[[Measured], float | None]) -> Spread | None:
        """The same over the seeds that have it; None where none has."""
        known = [value for one in self.measured if (value := number(one)) is not None]
        return Spread.of(known) if known else None

    @property
    def bugs(self) -> tuple[str, ...]:
        return tuple(bug for one in self.measured for bug in one.bugs)

    def as_table(self, seeds: Sequence[int]) -> dict[str, Any]:
        """The numbers as plain values."""
        runs = [
            {"seed": seed, **asdict(one), "tightness": one.tightness}
            for seed, one in zip(seeds, self.measured, strict=True)
        ]
        return {
            "name": self.family.name,
            "label": self.family.label,
            "kind": self.family.kind,
            "width": self.width,
            "runs": runs,
        }


@dataclass(frozen=True)
class Comparison:
    """All families: those that were trained, and why the others were not (label, reason)."""

    settings: Settings
    results: tuple[Result, ...]
    absent: tuple[tuple[str, str], ...]

    def front(self, index: int) -> tuple[Result, ...]:
        """The families that no other beats in both mean clean accuracy and mean certified accuracy at eps[index]."""

        def place(result: Result) -> tuple[float, float]:
            return (
                result.spread(lambda one: one.certified[index]).mean,
                result.spread(lambda one: one.clean).mean,
            )

        def beaten(result: Result) -> bool:
            x, y = place(result)
            return any(a >= x and b >= y and (a, b) != (x, y) for a, b in map(place, self.results))

        return tuple(sorted((result for result in self.results if not beaten(result)), key=place))


def collect(settings: Settings, out: Path, dataset: Dataset) -> Comparison:
    """Everything that lies in ``out``. ConfigError where it is not finished, FormatError for files of another kind."""
    results, absent = [], []
    for family in settings.chosen:
        reason = plan.absent(family, settings, dataset)
        if reason is not None:
            absent.append((family.label, reason))
            continue
        found = plan.read(out, family)
        folders = [out / f"{family.name}-{seed}" for seed in settings.seeds]
        if found is None or not all(measure.finished(folder) for folder in folders):
            raise ConfigError(f"the comparison in {out} is not finished: {family.label} is missing; call with --resume")
        results.append(Result(family, found.width, tuple(measure.read(folder) for folder in folders)))
    return Comparison(settings, tuple(results), tuple(absent))
