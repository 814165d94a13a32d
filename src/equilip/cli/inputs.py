"""The data on which a command measures a run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from equilip.cli.output import Output

if TYPE_CHECKING:
    from equilip.chain import Network
    from equilip.data import Dataset


def load_data(options: argparse.Namespace, own: str | None, form: Network, output: Output) -> tuple[str, Dataset]:
    """The data set of ``--data``, else the run's ``own``, by name; ConfigError where there is none or it does not fit.

    ``options`` are those of a command with RUN, ``--data`` and ``options.add_data``.
    """
    from equilip import data
    from equilip.errors import ConfigError

    name = options.data or own
    if name is None:
        raise ConfigError(f"{options.run} does not say which data it is for; name it with --data")
    dataset = data.load(name, options.data_dir, limit=options.limit, progress=output.terminal)
    if dataset.in_features != form.in_size:
        raise ConfigError(
            f"the network in {options.run} takes {form.in_size} numbers, {name} has {dataset.in_features}; "
            "name the right data set with --data"
        )
    if dataset.classes > form.out_size:
        raise ConfigError(
            f"the network in {options.run} tells {form.out_size} classes apart, {name} has {dataset.classes}; "
            "name the right data set with --data"
        )
    return name, dataset
