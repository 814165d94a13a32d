"""An experiment that takes seconds: the first one's networks, tiny and on digits."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from equilip.paper import lben_mnist
from equilip.paper.experiment import Experiment
from equilip.paper.work import carry_out

NAMES = ("lben-1", "unconstrained", "lmt-0.2")


def tiny(*names: str, seed: int = 0, epochs: int = 2) -> Experiment:
    """Some networks of the MNIST experiment with 8 neurons and few samples."""
    whole = lben_mnist.experiment(quick=True, limit=60, seed=seed, data="digits")
    networks = tuple(
        replace(network, config=replace(network.config, width=8, epochs=epochs, lr=1e-2, batch=20))
        for network in whole.networks
        if network.name in (names or NAMES)
    )
    sizes = whole.measures.sizes[::5]
    networks = tuple(
        network
        if network.published is None
        else replace(
            network,
            published=replace(network.published, fast_gradient_error=network.published.fast_gradient_error[::5]),
        )
        for network in networks
    )
    measures = replace(whole.measures, attacked=10, eps=(0.1, 0.5), sizes=sizes, stepped=20, starts=4, rounds=1)
    return replace(whole, networks=networks, measures=measures)


if __name__ == "__main__":
    # What tests start in order to kill it: OUT JOBS EPOCHS NAME...
    carry_out(
        tiny(*sys.argv[4:], epochs=int(sys.argv[3])),
        Path(sys.argv[1]),
        jobs=int(sys.argv[2]),
        said=lambda network, text: (sys.stdout.write(f"{network} {text}\n"), sys.stdout.flush()),
    )
