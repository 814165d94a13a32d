"""Upper bounds on the spectral norm of a convolution by Gram iteration (mathematics 6).

With G₀ = A and G_{t+1} = G_tᴴ G_t, the norm of A is at most ‖G_t‖_F^(1/2^t), and the excess shrinks to nothing as t
grows. A circular convolution is such a matrix at every frequency, so its bound is exact in the limit. One with zero
padding p on images of n pixels is a compression of the circular one on any N >= n + p pixels, never of the one
on n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.operators.convolution import Circular, Conv2d

#: What rounding may have taken from a computed bound: far more than the iteration's own error (mathematics 6).
ROUNDED_UP = 1 + 1e-12


def gram_bound(matrices: Tensor, steps: int = 6) -> float:
    """An upper bound on the largest spectral norm of ``matrices`` (batch, m, n), real or complex, in float64.

    Within a factor of min(m, n)^(1/2^(steps + 1)) of it. Every Gram matrix is divided by its size, which keeps the
    powers in range; the logarithms of the sizes are added up. Zero matrices give 0.
    """
    G = matrices.detach()
    root = 1.0
    if G.is_complex():
        # The same matrices in real arithmetic, which is far faster here: same norms, Frobenius norms √2 times as large.
        real, imaginary = G.real, G.imag
        G = torch.cat([torch.cat([real, -imaginary], dim=-1), torch.cat([imaginary, real], dim=-1)], dim=-2)
        root = 2.0**0.5
    G = G.double()
    if G.shape[-2] < G.shape[-1]:
        G = G.mT
    logarithm = torch.zeros(G.shape[0], dtype=torch.float64, device=G.device)
    for _ in range(steps):
        size = torch.linalg.vector_norm(G, dim=(-2, -1))
        safe = torch.where(size > 0, size, 1.0)
        logarithm = 2 * (logarithm + safe.log())
        G = G / safe[:, None, None]
        G = G.mT @ G
    size = torch.linalg.vector_norm(G, dim=(-2, -1)) / root
    bounds = torch.where(size > 0, ((size.clamp(min=1e-300).log() + logarithm) / 2**steps).exp(), 0.0)
    return float(bounds.amax()) * ROUNDED_UP if len(bounds) else 0.0


def symbol(kernel: Tensor, height: int, width: int) -> Tensor:
    """The matrices (height, width, m, c) that a circular correlation with ``kernel`` (m, c, k, l) is, per frequency.

    Kernels larger than the image wrap around, as the convolution does; the centre is at (k // 2, l // 2).
    """
    m, c, k, l = kernel.shape  # noqa: E741
    tall, wide = -(-k // height) * height, -(-l // width) * width
    padded = torch.nn.functional.pad(kernel, (0, wide - l, 0, tall - k))
    folded = padded.reshape(m, c, tall // height, height, wide // width, width).sum(dim=(2, 4))
    centred = folded.roll((-(k // 2), -(l // 2)), dims=(2, 3))
    return torch.fft.fft2(centred).conj().permute(2, 3, 0, 1)


def convolution_norm(operator: Conv2d, steps: int = 6) -> float:
    """A tight upper bound on the spectral norm of a convolution, true for the stored numbers.

    Any stride: striding only leaves out rows of the map of stride 1.
    """
    _, height, width = operator.shape
    k, l = operator.kernel.shape[2:]  # noqa: E741
    p = operator.padding.width
    if isinstance(operator.padding, Circular):
        size = (height, width)
    else:
        size = (height + min(p, k - 1), width + min(p, l - 1))
    kernel = operator.kernel.detach().double()
    # Real kernels: a frequency and its opposite have the same norm.
    bound = gram_bound(symbol(kernel, *size)[: size[0] // 2 + 1].flatten(0, 1), steps)
    return bound * operator.repeats**0.5 * ROUNDED_UP


def exact_circular_norm(operator: Conv2d) -> float:
    """The spectral norm of a circular convolution of stride 1, by the singular values of its symbol, rounded up.

    Raises InputError for any other convolution, for which it would not be the norm.
    """
    k, l = operator.kernel.shape[2:]  # noqa: E741
    p = operator.padding.width
    if not isinstance(operator.padding, Circular) or operator.stride != 1 or (2 * p + 1, 2 * p + 1) != (k, l):
        raise InputError("singular values of the symbol are those of circular convolutions of stride 1 only")
    values = torch.linalg.svdvals(symbol(operator.kernel.detach().double(), *operator.shape[1:]))
    return float(values.amax()) * ROUNDED_UP
