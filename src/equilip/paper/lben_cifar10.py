"""CIFAR-10: convolutional networks, as :mod:`equilip.paper.images` says, and a dense one.

The authors published the weights of four of these networks with their test errors, the largest slopes they found and,
of the convolutional ones, the errors of a fast-gradient attack; lben_cifar10.json holds those figures. The attack's
errors are multiples of 1/500 there; which images they were we do not know, so the curves compare loosely.
"""

from __future__ import annotations

from equilip.paper.experiment import Experiment
from equilip.paper.images import QUICK_EVERY, bounds, images
from equilip.paper.published import figures

#: What differs from the published networks, of those for which something does.
UNLIKE = {
    "full-1": "our input layer is weighted by Λ, theirs is plain, and training starts at other sizes of both ends",
    "identity-5": "training starts at other sizes of the input layer and of the output map",
    "dense-1": "how long theirs was trained we do not know",
}

NAME = "lben-cifar10"
TITLE = "CIFAR-10 with convolutional Lipschitz-bounded equilibrium networks"


def experiment(
    *, quick: bool = False, seed: int = 0, limit: int | None = None, device: str = "cpu", data: str = "cifar10"
) -> Experiment:
    """The whole experiment, for a machine with a GPU; ``quick`` is for seeing that it works on any.

    seed: of every training and every search. limit: use only the first samples of each part of the data.
    """
    shortened = quick or limit is not None
    published = figures(NAME, bounds(), unlike=UNLIKE, shortened=shortened, every=QUICK_EVERY if quick else 1)
    return images(NAME, TITLE, data, published, quick=quick, seed=seed, limit=limit, device=device)
