"""What every layer of slope at most 1 is in a chain: how networks are kept that are too large for one form."""

from __future__ import annotations

from torch import Tensor

from equilip import links
from equilip.errors import InputError
from equilip.links import Link
from equilip.nn.glue import AveragePool2d, PadChannels, ScaledAveragePool2d, SpaceToDepth
from equilip.nn.image import LinearImageLayer
from equilip.nn.image_potential import PotentialConv
from equilip.nn.image_sandwich import SandwichConv
from equilip.nn.layer import AffineLayer, LipschitzLayer, PotentialLayer
from equilip.nn.sandwich import Sandwich
from equilip.nn.sorting import GroupSort
from equilip.nn.stack import Pointwise
from equilip.operators import Circulant, Conv2d, Dense, Operator


def links_of(layer: LipschitzLayer) -> list[Link]:
    """The layer's function with its present numbers, as one link or two.

    Raises InputError for a layer that has none, and for circular padding that repeats pixels or leaves some out.
    """
    match layer:
        case AffineLayer():
            return [links.Linear(Dense(layer.matrix()), layer.bias)]
        case PotentialLayer():
            return [links.Potential(Dense(layer.weight), layer.metric(), layer.bias, layer.activation)]
        case PotentialConv():
            W = Conv2d(layer.weight, layer.in_shape, layer.padding, layer.stride)
            return [links.Potential(W, layer.metric(), layer.bias, layer.activation)]
        case Sandwich():
            V, C, lam = layer.matrices()
            return [links.Sandwich(Dense(V), Dense(C), layer.bias, layer.activation, lam)]
        case SandwichConv():
            V, C, lam = layer.kernels()
            before, first = _unblocked(Circulant(V, layer.stride))
            return [*before, links.Sandwich(first, Circulant(C), layer.bias, layer.activation, lam)]
        case Pointwise():
            return [links.Pointwise(layer.activation, layer.in_features)]
        case GroupSort():
            return [links.Sort(layer.in_shape, layer.group_size)]
        case AveragePool2d():
            return [links.Pool(layer.in_shape, layer.kernel_size, isinstance(layer, ScaledAveragePool2d))]
        case SpaceToDepth():
            return [links.SpaceToDepth(layer.in_shape, layer.size)]
        case PadChannels():
            return [links.PadChannels(layer.in_features, layer.out_features)]
        case LinearImageLayer():
            before, own = _unblocked(layer.operator())
            return [*before, links.Linear(own, layer.bias)]
    raise InputError(f"a chain knows nothing of {type(layer).__name__}")


def _unblocked(operator: Operator) -> tuple[list[Link], Operator]:
    """A strided circulant is a permutation, then one of stride 1."""
    if isinstance(operator, Circulant) and operator.stride > 1:
        kernel: Tensor = operator.kernel
        return [links.SpaceToDepth(operator.shape, operator.stride)], Circulant(kernel)
    return [], operator
