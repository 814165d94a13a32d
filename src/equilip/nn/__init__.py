"""Trainable modules: ordinary parameters in, a form out; forward is solving the form."""

from equilip.nn.additive import SumBounded
from equilip.nn.aol import AOL
from equilip.nn.cayley import Cayley
from equilip.nn.constrained import ColumnSums, ConstrainedLinear, Entries, RowSums
from equilip.nn.convolutional import LBENConv, MonotoneConv
from equilip.nn.cpl import CPL
from equilip.nn.explicit import Explicit
from equilip.nn.feedforward import FeedForward, Residual, sequential_form
from equilip.nn.feedforward_conv import FeedForwardConv
from equilip.nn.frozen import Frozen
from equilip.nn.glue import AveragePool2d, PadChannels, ScaledAveragePool2d, SpaceToDepth
from equilip.nn.guarantee import Guarantee
from equilip.nn.image import ImageLayer
from equilip.nn.image_affine import AOLConv, CayleyConv, SpectralConv
from equilip.nn.image_potential import CPLConv, SLLConv
from equilip.nn.image_sandwich import SandwichConv
from equilip.nn.last import NormalisedRows
from equilip.nn.layer import AffineLayer, LipschitzLayer, PotentialLayer
from equilip.nn.lben import LBEN
from equilip.nn.metrics import ChannelMetric, FullMetric, IdentityMetric, ImageMetric, PixelMetric
from equilip.nn.module import EquilibriumModule
from equilip.nn.monotone import MonotoneNetwork
from equilip.nn.monotonic import MonotonicWrapper
from equilip.nn.multi_tier import MultiTierMonotone
from equilip.nn.nemon import NEMON
from equilip.nn.nemon_conv import NEMONConv
from equilip.nn.sandwich import Sandwich, SandwichLinear
from equilip.nn.sll import SLL
from equilip.nn.sorting import GroupSort, MaxMin
from equilip.nn.spectral import Spectral
from equilip.nn.stack import Pointwise, Stack
from equilip.nn.standardise import Standardise
from equilip.nn.unconstrained import Unconstrained

__all__ = [
    "AOL",
    "CPL",
    "LBEN",
    "NEMON",
    "SLL",
    "AOLConv",
    "AffineLayer",
    "AveragePool2d",
    "CPLConv",
    "Cayley",
    "CayleyConv",
    "ChannelMetric",
    "ColumnSums",
    "ConstrainedLinear",
    "Entries",
    "EquilibriumModule",
    "Explicit",
    "FeedForward",
    "FeedForwardConv",
    "Frozen",
    "FullMetric",
    "GroupSort",
    "Guarantee",
    "IdentityMetric",
    "ImageLayer",
    "ImageMetric",
    "LBENConv",
    "LipschitzLayer",
    "MaxMin",
    "MonotoneConv",
    "MonotoneNetwork",
    "MonotonicWrapper",
    "MultiTierMonotone",
    "NEMONConv",
    "NormalisedRows",
    "PadChannels",
    "PixelMetric",
    "Pointwise",
    "PotentialLayer",
    "Residual",
    "RowSums",
    "SLLConv",
    "Sandwich",
    "SandwichConv",
    "SandwichLinear",
    "ScaledAveragePool2d",
    "SpaceToDepth",
    "Spectral",
    "SpectralConv",
    "Stack",
    "Standardise",
    "SumBounded",
    "Unconstrained",
    "sequential_form",
]
