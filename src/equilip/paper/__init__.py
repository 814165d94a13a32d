"""The published experiments, one file each, and what carries them out.

An experiment is a list of networks, each an ordinary run directory, and of what is measured of each.
:data:`EXPERIMENTS` has them by name. Torch is imported when an experiment is carried out.
"""

from equilip.paper import lben_cifar10, lben_mnist, lben_svhn, nemon_mnist

#: What makes each experiment.
EXPERIMENTS = {room.NAME: room.experiment for room in (lben_mnist, lben_cifar10, lben_svhn, nemon_mnist)}

__all__ = ["EXPERIMENTS"]
