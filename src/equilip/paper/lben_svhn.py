"""SVHN: convolutional networks, as :mod:`equilip.paper.images` says.

The authors published no figures of single networks; the steps of the fast-gradient attack are those of CIFAR-10.
"""

from __future__ import annotations

from equilip.paper import lben_cifar10
from equilip.paper.experiment import Experiment
from equilip.paper.images import QUICK_EVERY, images
from equilip.paper.published import Figures, figures

NAME = "lben-svhn"
TITLE = "SVHN with convolutional Lipschitz-bounded equilibrium networks"


def experiment(
    *, quick: bool = False, seed: int = 0, limit: int | None = None, device: str = "cpu", data: str = "svhn"
) -> Experiment:
    """The whole experiment, for a machine with a GPU; ``quick`` is for seeing that it works on any.

    seed: of every training and every search. limit: use only the first samples of each part of the data.
    """
    sizes = figures(lben_cifar10.NAME, {}, every=QUICK_EVERY if quick else 1).sizes
    return images(NAME, TITLE, data, Figures({}, sizes), quick=quick, seed=seed, limit=limit, device=device)
