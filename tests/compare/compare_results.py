"""A comparison of all families with numbers that were made up."""

from __future__ import annotations

from equilip.compare.families import FAMILIES, Family
from equilip.compare.measure import Measured
from equilip.compare.results import Comparison, Result
from equilip.compare.settings import Settings


def measured(clean: float, certified: tuple[float, ...], **changes: object) -> Measured:
    values = {
        "parameters": 5980, "epochs": 20, "clean": clean, "certified": certified, "attacked": certified, "bound": 1.0,
        "declared": 1.0, "slope": 0.9, "train_seconds": 4.0, "infer_microseconds": 3.0, "certify_seconds": 1.0,
        "memory": 10**5, "infer_memory": 10**5, "bugs": (),
    }  # fmt: skip
    return Measured(**{**values, **changes})


def result(family: Family, *runs: Measured) -> Result:
    return Result(family, 40, runs)


def everything(bugs: tuple[str, ...] = ()) -> Comparison:
    """Two seeds of each family; nothing is proved of monDEQ, and the monotonic one is absent."""
    settings = Settings("digits", runs=2, parameters=6_000)
    results = []
    for number, family in enumerate(FAMILIES[:-1]):
        changes = {"bound": None, "declared": None} if family.name == "mondeq" else {}
        runs = [
            measured(
                0.9 + 0.004 * number + 0.01 * seed,
                tuple(max(0.0, 0.9 - 0.03 * number - 0.5 * eps - 0.02 * seed) for eps in settings.eps),
                bugs=bugs if number == 0 else (),
                **changes,
            )
            for seed in (0, 1)
        ]
        results.append(result(family, *runs))
    return Comparison(settings, tuple(results), (("monotonic", "this data has ten classes"),))
