"""The convolutional experiment of "Lipschitz bounded equilibrium networks" (Revay, Wang and Manchester, 2020).

81 channels, kernels of 3 x 3 pixels, ε = 0.1, means over 2 x 2 pixels at the output, which begin one pixel outside the
image; a multiplier for every neuron ("full") or none ("identity"); bounds γ from 1 to 50, a network without one, and
two to compare with: a convolutional feed-forward network of as many channels, and a dense equilibrium network.

Batches of 128 without augmentation, 25 epochs of Adam at 1e-3, divided by ten after 15, solves to 1e-2 in training: as
in the scripts that the authors published for CIFAR-10; what they did for SVHN we do not know. Of their feed-forward
network we know the sizes, and that it has channels, means and a linear map; that it has one convolution is our reading.
Everything that is measured is solved in float64, with a proof for every point.

Two things are ours. Networks with the metric "full" and a bound have an input layer that is ``Weighted`` by Λ, for
which a step of the training takes 3 ms a sample at 8 channels; ``Plain``, as published, takes 40. For every other
network here the two are the same map, or cost the same, and theirs is ``Plain``. And networks with a bound start with
input layers and output maps of natural sizes, where the authors' start with norm 1.
"""

from __future__ import annotations

from typing import Any

from equilip.paper.experiment import Experiment, Measures, Network
from equilip.paper.published import Figures
from equilip.train import TrainConfig

GAMMAS = (1.0, 2.0, 3.0, 5.0, 50.0)
METRICS = ("full", "identity")

#: Channels of the convolutional networks, and neurons of the dense one.
CHANNELS, DENSE = 81, 80

#: The networks of a quick run.
QUICK = ("full-1", "full-5", "full-50", "identity-5", "full", "dense-1", "plain")

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

    quick: some of the networks, with 8 channels, on 1,500 samples of each part and for four epochs. limit: use only the
    first samples of each part of the data. seed: of every training and every search.
    """
    channels = 8 if quick else CHANNELS

    def network(own: str, label: str, **changes: Any) -> Network:
        config = TrainConfig(
            data=data,
            limit=(limit or 1500) if quick else limit,
            epochs=4 if quick else 25,
            batch=32 if quick else 128,
            lr=3e-3 if quick else 1e-3,
            tolerance=1e-2,
            schedule="step",
            step_epochs=3 if quick else 15,
            seed=seed,
            device=device,
            **changes,
        )
        return Network(own, label, config, published.networks.get(own))

    def convolutional(own: str, label: str, **changes: Any) -> Network:
        return network(own, label, width=channels, pool=2, pool_padding=1, **changes)

    def equilibrium(own: str, label: str, metric: str, gamma: float | None) -> Network:
        layer = "weighted" if metric == "full" and gamma is not None else "plain"
        return convolutional(own, label, model="lben-conv", epsilon=0.1, metric=metric, gamma=gamma, layer=layer)

    networks = (
        *(
            equilibrium(f"{metric}-{gamma:g}", f"LBEN, {metric}, γ = {gamma:g}", metric, gamma)
            for metric in METRICS
            for gamma in GAMMAS
        ),
        equilibrium("full", "LBEN, full, without a bound", "full", None),
        network("dense-1", "LBEN, dense, γ = 1", model="lben", width=DENSE, gamma=1.0),
        convolutional("plain", "feed-forward, convolutional", model="feedforward-conv"),
    )
    if quick:
        networks = tuple(network for network in networks if network.name in QUICK)
    measures = Measures(
        attacked=20 if quick else 200,
        eps=(0.1, 0.25, 0.5) if quick else (0.1, 0.25, 0.5, 1.0),
        sizes=published.sizes,
        stepped=100 if quick else 500,
        starts=4 if quick else 16,
        rounds=1 if quick else 8,
    )
    return Experiment(name, title, networks, measures, quick)
