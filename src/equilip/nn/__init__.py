"""Trainable modules: ordinary parameters in, a form out; forward is solving the form."""

from equilip.nn.explicit import Explicit
from equilip.nn.feedforward import FeedForward, Residual, sequential_form
from equilip.nn.guarantee import Guarantee
from equilip.nn.lben import LBEN
from equilip.nn.module import EquilibriumModule
from equilip.nn.monotone import MonotoneNetwork
from equilip.nn.nemon import NEMON
from equilip.nn.standardise import Standardise
from equilip.nn.unconstrained import Unconstrained

__all__ = [
    "LBEN",
    "NEMON",
    "EquilibriumModule",
    "Explicit",
    "FeedForward",
    "Guarantee",
    "MonotoneNetwork",
    "Residual",
    "Standardise",
    "Unconstrained",
    "sequential_form",
]
