"""The convolutional experiment of "Lipschitz bounded equilibrium networks" (Revay, Wang and Manchester, 2020).

81 channels, kernels of 3 x 3 pixels, means over 2 x 2 at the output, ε = 0.1; a multiplier for every neuron ("full") or
none ("identity"); bounds γ from 1 to 50, a network without one, and dense networks to compare with: one hidden layer,
with a bound and without.

Three things are ours. The input layer is ``Weighted``, which the Fourier solver takes for any metric, where theirs is
``Plain``. How long they trained is not in what they published: 40 epochs of Adam at 1e-3, divided by ten every 15, in
batches of 64, are our choice. And the feed-forward network is dense: nothing here proves bounds of large convolutional
ones. Solves in training go to residuals of 1e-2; everything that is measured is solved in float64.
"""

from __future__ import annotations

from typing import Any

from equilip.paper.experiment import Experiment, Measures, Network
from equilip.paper.published import Figures
from equilip.train import TrainConfig

GAMMAS = (1.0, 2.0, 3.0, 5.0, 50.0)
METRICS = ("full", "identity")

#: Neurons of the dense networks: of the equilibrium network as published, and of the feed-forward one.
DENSE, FEEDFORWARD = 80, 512


#: Of the step sizes that were published a quick run takes one in so many.
QUICK_EVERY = 8


def bounds() -> dict[str, float]:
    """γ of every network that has one, by name."""
    return {f"{metric}-{gamma:g}": gamma for metric in METRICS for gamma in GAMMAS} | {"dense-1": 1.0}


def images(
    name: str,
    title: str,
    data: str,
    published: Figures,
    *,
    quick: bool,
    seed: int,
    limit: int | None,
    device: str,
) -> Experiment:
    """The experiment on one data set. published: the authors' figures, by the names of the networks here.

    quick: 8 channels, 200 samples of each part and two epochs. limit: use only the first samples of each part of the
    data. seed: of every training and every search.
    """

    def network(own: str, label: str, **changes: Any) -> Network:
        config = TrainConfig(
            data=data,
            limit=(limit or 200) if quick else limit,
            epochs=2 if quick else 40,
            batch=20 if quick else 64,
            lr=3e-3 if quick else 1e-3,
            tolerance=1e-2,
            schedule="step",
            step_epochs=1 if quick else 15,
            seed=seed,
            device=device,
            **changes,
        )
        return Network(own, label, config, published.networks.get(own))

    def convolutional(own: str, label: str, metric: str, gamma: float | None) -> Network:
        width = 8 if quick else 81
        return network(own, label, model="lben-conv", width=width, epsilon=0.1, pool=2, metric=metric, gamma=gamma)

    networks = (
        *(
            convolutional(f"{metric}-{gamma:g}", f"LBEN, {metric}, γ = {gamma:g}", metric, gamma)
            for metric in METRICS
            for gamma in GAMMAS
        ),
        convolutional("full", "LBEN, full, without a bound", "full", None),
        network("dense-1", "LBEN, dense, γ = 1", model="lben", width=DENSE, gamma=1.0),
        network("plain", "feed-forward, dense", model="feedforward", width=FEEDFORWARD),
    )
    measures = Measures(
        attacked=5 if quick else 200,
        eps=(0.1, 0.5) if quick else (0.1, 0.25, 0.5, 1.0),
        sizes=published.sizes,
        stepped=20 if quick else 500,
        starts=4 if quick else 16,
        rounds=1 if quick else 8,
    )
    return Experiment(name, title, networks, measures, quick)
