"""Scalar nonlinearities: value, slope, slope interval and proximal map.

Every guarantee of this library asks one thing of an activation: that it acts elementwise and that every
secant slope lies in [0, 1] (mathematics 0). Such a σ is the proximal map of a convex function f, and the
splitting solvers need the proximal map of αf for other steps α (mathematics 1.7):

    prox_α(v) = σ(t)  where  (1 - α) σ(t) + α t = v.

Only for projections (relu, hardtanh) is that σ itself again; for tanh and its kin using σ in its place
converges to a wrong point. Activations whose slopes leave [0, 1] cannot be built here: :func:`refuse` names
their slope interval.
"""

from __future__ import annotations

from equilip.activations.activation import Activation, Step
from equilip.activations.blockwise import Blockwise, blocks, join, slope_bounds
from equilip.activations.names import REFUSED, activation, describe, from_module, refuse, restore
from equilip.activations.piecewise import HardTanh, Identity, LeakyReLU, ReLU
from equilip.activations.slopes import Slopes
from equilip.activations.smooth import ELU, Sigmoid, SmoothActivation, Softplus, Tanh

__all__ = [
    "ELU",
    "REFUSED",
    "Activation",
    "Blockwise",
    "HardTanh",
    "Identity",
    "LeakyReLU",
    "ReLU",
    "Sigmoid",
    "Slopes",
    "SmoothActivation",
    "Softplus",
    "Step",
    "Tanh",
    "activation",
    "blocks",
    "describe",
    "from_module",
    "join",
    "refuse",
    "restore",
    "slope_bounds",
]
