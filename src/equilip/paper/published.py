"""The figures that authors published, as they lie beside the experiments in JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from equilip.paper.experiment import Published


@dataclass(frozen=True)
class Figures:
    """What was published, by network, and the sizes of the fast-gradient steps, standardised."""

    networks: Mapping[str, Published]
    sizes: tuple[float, ...]


def figures(
    experiment: str,
    gammas: Mapping[str, float],
    *,
    unlike: Mapping[str, str] | None = None,
    shortened: bool = False,
    every: int = 1,
) -> Figures:
    """What was published of an experiment's networks.

    gammas: the bounds of those that have one. unlike: what of our network or of its training differs, of those for
    which something does. shortened: ours are trained for less long, or on fewer samples, which all then differ by.
    every: of the step sizes take only every so many, from the first on.
    """
    differs = {} if unlike is None else unlike
    file = resources.files(__package__).joinpath(f"{experiment.replace('-', '_')}.json")
    stored = json.loads(file.read_text(encoding="utf-8"))
    networks = {
        name: Published(
            test_error_percent=values["test_error_percent"],
            largest_slope=values["largest_slope"],
            gamma=gammas.get(name),
            fast_gradient_error=tuple(values["fast_gradient_error"][::every]),
            differs="ours were trained for less long, or on fewer samples" if shortened else differs.get(name, ""),
        )
        for name, values in stored["networks"].items()
    }
    return Figures(networks, tuple(stored["fast_gradient_eps"][::every]))
