"""Upper bounds on the spectral norm of a convolution by Gram iteration (mathematics 6), and an estimate from below.

A circular convolution is a small matrix at every frequency, so :func:`equilip.norms.norm_bound` of these is a bound on
its norm, exact in the limit. One with zero padding p on images of n pixels is a compression of the circular one on any
N >= n + p pixels, never of the one on n. And whatever surrounds the image, Gram iteration of the kernel itself gives
a bound that knows nothing of the image's size.

Every bound is true for the stored numbers: the rounding of each sum of products is bounded and added, and the tables of
cosines are trusted to four units in the last place.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from equilip.errors import InputError
from equilip.norms import norm_bound, powers_of_two, rounded_up, unrolled
from equilip.operators.convolution import Circular, Conv2d, Padding, repeats
from equilip.rounding import UNDERFLOW, gamma

#: Gram steps after which the bound is the norm up to 1e-12: the excess is the rank to the power 2^-(steps + 1).
EXACT = 40


def gram_bound(matrices: Tensor, steps: int = 6) -> float:
    """An upper bound on the largest spectral norm of ``matrices`` (batch, m, n), real or complex; 0 of none."""
    return float(norm_bound(matrices.detach(), steps).amax()) if len(matrices) else 0.0


def symbol(kernel: Tensor, height: int, width: int) -> Tensor:
    """The matrices (height, width, m, c) that a circular correlation with ``kernel`` (m, c, k, l) is, per frequency.

    Kernels larger than the image wrap around, as the convolution does; the centre is at (k // 2, l // 2). For solvers:
    the rounding of a fast Fourier transform is not bounded here.
    """
    m, c, k, l = kernel.shape  # noqa: E741
    tall, wide = -(-k // height) * height, -(-l // width) * width
    padded = functional.pad(kernel, (0, wide - l, 0, tall - k))
    folded = padded.reshape(m, c, tall // height, height, wide // width, width).sum(dim=(2, 4))
    centred = folded.roll((-(k // 2), -(l // 2)), dims=(2, 3))
    return torch.fft.fft2(centred).conj().permute(2, 3, 0, 1)


def circular_bound(kernel: Tensor, height: int, width: int, steps: int = 6) -> Tensor:
    """Upper bounds (...) on the norms of circular correlations with ``kernel`` (..., m, c, k, l) of such images.

    In the kernel's dtype, differentiable. Within a factor of min(m, c)^(1/2^(steps + 1)) of the norm.
    """
    wide = kernel.double()
    taps = wide.flatten(-2)
    waves = _waves(kernel.shape[-2:], height, width, kernel.device)
    # A frequency and its opposite have the same norm, so half of them suffice.
    matrices = torch.complex(*(torch.movedim(taps @ wave, -1, -3) for wave in waves))
    # An entry of the tables is off by at most 64 units of rounding: 50 for its angle, 4 for its cosine.
    sums = taps.abs().sum(-1)
    doubt = 2 * gamma(taps.shape[-1] + 96) * sums.square().sum((-2, -1)).clamp(min=UNDERFLOW).sqrt()
    doubt = doubt + 4 * sums.shape[-1] * sums.shape[-2] * taps.shape[-1] * UNDERFLOW
    found = (norm_bound(matrices, steps).amax(-1) + doubt.detach()) * (1 + 4 * gamma(4))
    zero = taps.detach().abs().amax((-3, -2, -1)) == 0
    return rounded_up(torch.where(zero, torch.zeros_like(found), found), kernel.dtype)


def _waves(kernel: torch.Size, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of 2π (f x / height + g y / width), (k l, frequencies), the products reduced exactly first."""
    rows, columns = height // 2 + 1, width

    def angles(frequencies: int, taps: int, pixels: int) -> Tensor:
        product = torch.outer(torch.arange(taps, device=device), torch.arange(frequencies, device=device))
        return 2 * math.pi / pixels * (product % pixels).double()

    first, second = angles(rows, kernel[0], height), angles(columns, kernel[1], width)
    theta = (first[:, None, :, None] + second[None, :, None, :]).flatten(2).flatten(0, 1)
    return theta.cos(), theta.sin()


def convolution_bound(
    kernel: Tensor, image: tuple[int, int], padding: Padding, stride: int = 1, steps: int = 6
) -> Tensor:
    """Upper bounds (...) on the norms of convolutions with ``kernel`` (..., m, c, k, l) of images of (h, w) pixels.

    True for the stored numbers, differentiable, in the kernel's dtype. Within a factor of rank^(1/2^(steps + 1)) of
    the norm of the circular convolution that it is a part of, which is the convolution itself for circular padding
    whose stride divides the image. Raises InputError where the convolution does not exist.
    """
    k, l = kernel.shape[-2:]  # noqa: E741
    checked = Conv2d(kernel.detach().reshape(-1, *kernel.shape[-3:])[: kernel.shape[-4]],
                     (kernel.shape[-3], *image), padding, stride)  # fmt: skip
    often = repeats(image, (k, l), padding) ** 0.5 * (1 + 4 * gamma(1))
    p = padding.width
    if isinstance(padding, Circular):
        if any(size % stride for size in image):
            stride = 1  # striding leaves out rows of the map of stride 1, whose norm is no smaller
        height, width = (length // stride for length in image)
    else:
        sizes = zip(image, (k, l), checked.out_shape[1:], strict=True)
        height, width = (_without_wrapping(n, taps, p, stride, out) for n, taps, out in sizes)
    bound = circular_bound(_phases(kernel, p, stride), height, width, steps)
    return bound if often <= 1 + 1e-9 else rounded_up(bound.double() * often, kernel.dtype)


def _phases(kernel: Tensor, p: int, stride: int) -> Tensor:
    """The kernel (..., m, c s², k', l') of stride 1 that does to an image's phases what ``kernel`` does at stride s.

    Pixel s v + r of a row is pixel v of phase r, and tap a reaches pixel s u + a - p: taps go by (a - p) mod s.
    """
    if stride == 1:
        return kernel
    before = -p % stride
    sizes = [before + taps for taps in kernel.shape[-2:]]
    k, l = (-(-size // stride) for size in sizes)  # noqa: E741
    padded = functional.pad(kernel, (before, l * stride - sizes[1], before, k * stride - sizes[0]))
    split = padded.unflatten(-1, (l, stride)).unflatten(-3, (k, stride))
    phases = split.movedim((-3, -1), (-4, -3)).flatten(-5, -3)
    return phases


def _without_wrapping(n: int, k: int, p: int, stride: int, out: int) -> int:
    """The smallest torus on which no tap that reaches the image of n pixels comes round to it again (mathematics 6)."""
    before = -(-p // stride)
    coarse, taps = -(-n // stride), -(-(k + -p % stride) // stride)
    return max(coarse + before, out + taps - 1 - before, coarse, out)


def convolution_norm(operator: Conv2d, steps: int = 6) -> float:
    """A tight upper bound on the spectral norm of a convolution, true for the stored numbers."""
    image = (operator.shape[1], operator.shape[2])
    kernel = operator.kernel.detach().double()
    return float(convolution_bound(kernel, image, operator.padding, operator.stride, steps))


def exact_circular_norm(operator: Conv2d) -> float:
    """The spectral norm of a circular convolution of stride 1, at most 1e-11 of it too large.

    Raises InputError for any other convolution, for which it would not be the norm.
    """
    k, l = operator.kernel.shape[2:]  # noqa: E741
    p = operator.padding.width
    if not isinstance(operator.padding, Circular) or operator.stride != 1 or (2 * p + 1, 2 * p + 1) != (k, l):
        raise InputError("the norm at the image's own frequencies is that of circular convolutions of stride 1 only")
    return convolution_norm(operator, EXACT)


def kernel_gram_bound(kernel: Tensor, steps: int = 3) -> Tensor:
    """An upper bound () on the norm of any convolution with ``kernel`` (m, c, k, l), whatever the size of the images.

    For zero padding of any width, any stride, and circular padding that repeats no pixel. The kernel is convolved with
    itself ``steps`` times and grows to 2^steps (k - 1) + 1; sums of absolute values bound what it is then.
    Differentiable.
    """
    if kernel.dim() != 4 or steps < 0:
        raise InputError(f"expected a kernel (m, c, k, l) and steps >= 0, got {tuple(kernel.shape)}, {steps}")
    G = kernel.double()
    G = G if G.shape[0] <= G.shape[1] else G.transpose(0, 1)
    grown = 1.0 + 2.0 * gamma(G.numel() * 4 ** (steps + 1) + 16)
    losses, scales = [], []
    for _ in range(steps):
        scale, inverse = powers_of_two(G.detach().abs().amax())
        G = G * inverse
        _, c, k, l = G.shape  # noqa: E741
        sizes = (G.square().sum((1, 2, 3)) + UNDERFLOW).sqrt()
        shifts = (2 * k - 1) * (2 * l - 1)
        losses.append(2 * gamma(c * k * l + 16) * shifts * sizes.max() * sizes.sum() + shifts * G.numel() * UNDERFLOW)
        scales.append(scale)
        G = autocorrelation(G)
    sums = G.abs().sum((2, 3))
    rows, columns = ((sums.sum(axis).amax() * grown + UNDERFLOW).sqrt() for axis in (1, 0))
    bound = rows * columns * grown
    bound = unrolled(bound, losses, scales, grown)
    return rounded_up(torch.where(kernel.detach().abs().amax() == 0, torch.zeros_like(bound), bound), kernel.dtype)


def autocorrelation(kernel: Tensor) -> Tensor:
    """Σ_{j, a} K[i, j, a] K[i', j, a + d], (m, m, 2k - 1, 2l - 1), of ``kernel`` (m, c, k, l) in float64.

    By one matrix product, whose rounding is that of a sum of products, as not every convolution's is.
    """
    k, l = kernel.shape[2:]  # noqa: E741
    spread = functional.pad(kernel, (l - 1, l - 1, k - 1, k - 1))
    shifted = functional.unfold(spread, (k, l))
    return (kernel.flatten(1) @ shifted).unflatten(-1, (2 * k - 1, 2 * l - 1)).transpose(0, 1)


def power_estimate(operator: Conv2d, steps: int = 50, *, generator: torch.Generator | None = None) -> float:
    """A lower estimate of a convolution's norm by power iteration: ‖A v‖ / ‖v‖ for the best v found, rounded down.

    Never above the norm, and never a bound.
    """
    A = operator.to(torch.float64, torch.device("cpu"))
    assert isinstance(A, Conv2d)
    largest = float(A.kernel.detach().abs().max())
    if largest == 0.0:
        return 0.0
    A = Conv2d(A.kernel.detach() / largest, A.shape, A.padding, A.stride)
    v = torch.randn(1, A.in_size, dtype=torch.float64, generator=generator)
    found = 0.0
    for _ in range(steps):
        v = v / v.norm().clamp(min=1e-300)
        image = A.apply(v)
        found = max(found, float(image.norm() / v.norm().clamp(min=1e-300)))
        v = A.adjoint(image)
    # Each number of A v is a sum of at most kernel.numel() products, in any order.
    lost = gamma(A.kernel.numel() + 8) * A.norm_bound() + 4.0 * gamma(A.in_size + A.out_size + 16) * found
    return max(0.0, found - 2 * lost) * largest * (1.0 - 4.0 * gamma(4))
