"""Carrying out an experiment: its networks one after the other, or several at once in processes of their own.

Whatever ends an experiment, what is on the disk is whole, and :func:`carry_out` goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from equilip.paper import linf
from equilip.paper.experiment import Experiment, LinfMeasures, Network
from equilip.paper.pool import Listener, spread
from equilip.paper.stages import Stage, check, finished, perform


def carry_out(
    experiment: Experiment,
    out: Path,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    said: Listener | None = None,
) -> None:
    """Do what is still to be done of the experiment, each network in its folder of ``out``.

    jobs: how many networks at once. Raises, before anything is done, ConfigError where a folder holds another network;
    later what :func:`equilip.paper.stages.perform` raises, for the first network that fails, with the others stopped.
    """
    say = said or (lambda network, text: None)
    for network in experiment.networks:
        check(network, out / network.name)
    open_ = {
        network.name: network
        for network in experiment.networks
        if not _complete(experiment, network, out / network.name)
    }
    out.mkdir(parents=True, exist_ok=True)
    spread(open_, partial(_perform, experiment, out, data_dir), jobs, say)


def _perform(
    experiment: Experiment,
    out: Path,
    data_dir: str | os.PathLike[str] | None,
    network: Network,
    say: Callable[[str], None],
) -> None:
    measures, folder = experiment.measures, out / network.name
    if isinstance(measures, LinfMeasures):
        linf.perform(network, folder, measures, data_dir=data_dir, said=say)
    else:
        perform(network, folder, measures, data_dir=data_dir, said=say)


def _complete(experiment: Experiment, network: Network, folder: Path) -> bool:
    if isinstance(experiment.measures, LinfMeasures):
        return linf.complete(folder)
    return set(finished(network, folder)) == set(Stage)
