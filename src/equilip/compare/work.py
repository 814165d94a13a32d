"""Carrying out a comparison: first every family's plan, then every network; what is there already is not done again."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from equilip import data
from equilip.compare import measure, plan
from equilip.compare.results import Comparison, collect
from equilip.compare.settings import Settings
from equilip.errors import ConfigError
from equilip.form import write_whole
from equilip.paper.pool import Listener, spread

FORMAT = "equilip.comparison-settings/1"


def carry_out(
    settings: Settings,
    out: Path,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    said: Listener | None = None,
) -> Comparison:
    """Do what is still to be done in ``out``, and return what was found. jobs: how many networks at once.

    Raises ConfigError where ``out`` holds another comparison or no family has a place in this one, DataError, and what
    training raises, for the first network that fails.
    """
    say = said or (lambda name, text: None)
    dataset = data.load(settings.data, data_dir, limit=settings.limit)
    places = {family.name: plan.absent(family, settings, dataset) for family in settings.chosen}
    families = {family.name: family for family in settings.chosen if places[family.name] is None}
    if not families:
        raise ConfigError("no family has a place: " + "; ".join(f"{name}: {why}" for name, why in places.items()))
    out.mkdir(parents=True, exist_ok=True)
    _settle(settings, out)
    planless = {name: family for name, family in families.items() if plan.read(out, family) is None}
    spread(planless, partial(plan.make, settings, out, data_dir), jobs, say)
    tasks = {}
    for seed in settings.seeds:
        for name, family in families.items():
            found = plan.read(out, family)
            assert found is not None
            folder = f"{name}-{seed}"
            if not measure.finished(out / folder):
                config = plan.config(family, settings, dataset, seed, found.width, found.epochs)
                tasks[folder] = folder, config
    spread(tasks, partial(measure.carry_out, settings, out, data_dir), jobs, say)
    return collect(settings, out, dataset)


def _settle(settings: Settings, out: Path) -> None:
    """Write down what the comparison is; ConfigError where ``out`` holds another.

    More or fewer families and seeds make no other comparison: each network stands by itself.
    """
    file = out / "settings.json"
    own = {"format": FORMAT, **settings.as_table()}
    other, changed = own, []
    if file.is_file():
        try:
            other = json.loads(file.read_bytes())
            changed = [name for name in own if name not in ("families", "runs") and other.get(name) != own[name]]
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{file} is damaged: {error}; choose another --out") from error
    if changed:
        raise ConfigError(
            f"{out} holds a comparison with other {', '.join(changed)}: {other.get(changed[0])!r} where this has "
            f"{own[changed[0]]!r}; choose another --out, or repeat the command that began it"
        )
    write_whole(file, (json.dumps(own, indent=1) + "\n").encode())
