"""Linear maps: apply, adjoint, norm bound, dense matrix.

A form asks its W, U, C and D for nothing else, so a convolutional network is the same form with other
linear maps, and no solver or certificate asks "dense or convolution?" except where a matrix makes a better
method possible; then it asks :meth:`Operator.dense`.
"""

from equilip.operators.algebra import Product, Sum
from equilip.operators.circulant import Circulant
from equilip.operators.contraction import Contraction
from equilip.operators.convolution import Circular, Conv2d, Padding, Shape, Zeros
from equilip.operators.dense import Dense, Zero
from equilip.operators.diagonal import Diagonal, Reciprocal, border_mask
from equilip.operators.gram_bound import (
    circular_bound,
    convolution_bound,
    convolution_norm,
    exact_circular_norm,
    gram_bound,
    kernel_gram_bound,
    power_estimate,
)
from equilip.operators.operator import Operator, Spectrum, Transposed, WithProof
from equilip.operators.part import Part
from equilip.operators.pooling import AveragePool, upsample
from equilip.operators.recurrence import Ends, InputLayer, Plain, Recurrence, Weighted
from equilip.operators.tiers import Tiers, tier_shapes
from equilip.operators.torus import Torus

__all__ = [
    "AveragePool",
    "Circulant",
    "Circular",
    "Contraction",
    "Conv2d",
    "Dense",
    "Diagonal",
    "Ends",
    "InputLayer",
    "Operator",
    "Padding",
    "Part",
    "Plain",
    "Product",
    "Reciprocal",
    "Recurrence",
    "Shape",
    "Spectrum",
    "Sum",
    "Tiers",
    "Torus",
    "Transposed",
    "Weighted",
    "WithProof",
    "Zero",
    "Zeros",
    "border_mask",
    "circular_bound",
    "convolution_bound",
    "convolution_norm",
    "exact_circular_norm",
    "gram_bound",
    "kernel_gram_bound",
    "power_estimate",
    "tier_shapes",
    "upsample",
]
