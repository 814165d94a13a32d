"""MNIST against changes of every pixel: contracting networks (Jafarpour and others, 2021) and boxes (2022).

Networks that contract in a weighted maximum norm, trained against boxes of half-width 0.11, beside those that were
not: an LBEN with γ = 1, a monotone network, and a feed-forward one trained against intervals. The authors published
figures without numbers, trained on points, so there is nothing to hold ours against but each other.

The settings are ours: 200 neurons (80 of the networks with l2 guarantees, as published for those), Adam with a rate
that rises and falls once. A gate stands in front of one network, 784 neurons that hold back changes of nearly black and
nearly white pixels; the others read standardised pixels.
"""

from __future__ import annotations

from typing import Any

from equilip.paper.experiment import Experiment, LinfMeasures, Network
from equilip.train import TrainConfig

NAME = "nemon-mnist"

#: Half-width of the boxes in training: a little more than the 0.1 that matters in the end.
EPS = 0.11


def experiment(
    *, quick: bool = False, seed: int = 0, limit: int | None = None, device: str = "cpu", data: str = "mnist"
) -> Experiment:
    """The whole experiment; ``quick`` trains small networks on 500 images, to see that it works.

    It leaves out the network with a gate, whose 784 neurons more take a minute to certify.

    seed: of every training and every search. limit: use only the first samples of each part of the data.
    """

    def network(name: str, label: str, epochs: int, **changes: Any) -> Network:
        options = {
            "width": 200,
            "batch": 250,
            "lr": 3e-3,
            "schedule": "one-cycle",
            **changes,
        }
        if quick:
            options |= {"width": min(options["width"], 4 if "conv" in name else 20), "batch": 20}
        config = TrainConfig(
            data=data,
            limit=(limit or 500) if quick else limit,
            epochs=2 if quick else epochs,
            seed=seed,
            device=device,
            **options,
        )
        return Network(name, label, config)

    boxes = {"loss": "boxes", "loss_eps": EPS}
    networks = (
        network("nemon-boxes", "NEMON, boxes", 20, model="nemon", **boxes),
        *([] if quick else [network("nemon-gate", "NEMON, boxes, gate 1/8", 6, model="nemon", gate=0.125, **boxes)]),
        network("nemon-points", "NEMON, points", 6, model="nemon"),
        network("nemon-conv", "convolutional NEMON, boxes", 8, model="nemon-conv", width=8, stride=2, pool=1, **boxes),
        network("intervals", "feed-forward, intervals", 20, model="feedforward", depth=2, **boxes),
        network("lben", "LBEN, γ = 1", 10, model="lben", gamma=1.0, width=80),
        network("monotone", "monotone", 10, model="monotone", width=80),
    )
    measures = LinfMeasures(
        eps=(0.02, 0.05, 0.1, 0.15),
        attacked=100 if quick else 1000,
        starts=8 if quick else 32,
        rounds=2 if quick else 8,
        seconds=2.0 if quick else 30.0,
    )
    return Experiment(NAME, "MNIST against changes of every pixel", networks, measures, quick)
