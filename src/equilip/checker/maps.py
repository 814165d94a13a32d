"""Linear maps of chains: matrices, and convolutions as parts of circular ones, with a bound on their norms.

A convolution with zeros around is a part of one on a torus on which nothing comes round to the image again; one of a
larger stride is one of stride 1 of the image's phases. So its norm is at most the largest at the torus's frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from equilip.checker import gram
from equilip.checker.exact import Budget, Exact, Floats
from equilip.checker.files import MAX_INPUTS, natural, record, sequence
from equilip.checker.verdict import Refused

MAX_PIXELS = 2**14  #: of a torus
MAX_NUMBERS = 2**22  #: of a matrix or a kernel


@dataclass(frozen=True, eq=False)
class Map:
    """A matrix (m, c), or a convolution by its kernel (m, c, k, l) and a torus for the image's phases."""

    numbers: Floats
    inputs: int
    outputs: int
    torus: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    circular: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is a matrix."""
        return self.numbers.ndim == 2


def norm(exact: Exact, like: Map, budget: Budget) -> Fraction:
    """At least the norm of the map with these numbers that is otherwise ``like`` another."""
    if exact.integers.ndim == 2:
        return gram.norm_above(gram.matrix(exact), budget)
    kernel = phases(exact, like.stride, like.padding)
    return gram.norm_above(gram.convolution(kernel, like.torus, budget), budget)


def phases(kernel: Exact, stride: int, padding: int) -> Exact:
    """The kernel (m, c s², k', l') of stride 1 that does to an image's phases what this one does at stride s.

    Pixel s v + r of a row is pixel v of phase r; tap a of output u reads pixel s u + a - p, which is of phase
    (a - p) mod s.
    """
    if stride == 1:
        return kernel
    m, c, *taps = kernel.integers.shape
    before = -(-padding // stride)
    size = [(k - 1 - padding) // stride + before + 1 for k in taps]
    split = np.zeros((m, c, stride, stride, *size), dtype=object)
    for a, b in np.ndindex(*taps):
        (v, r), (w, q) = divmod(a - padding, stride), divmod(b - padding, stride)
        split[:, :, r, q, v + before, w + before] = kernel.integers[:, :, a, b]
    return Exact(split.reshape(m, c * stride**2, *size), kernel.exponent, kernel.budget)


def swapped(exact: Exact) -> Exact:
    """The adjoint: rows for columns, and taps counted from the other end."""
    ends = np.flip(exact.integers.swapaxes(0, 1), axis=tuple(range(2, exact.integers.ndim)))
    return Exact(ends, exact.exponent, exact.budget)


def beside(first: Exact, second: Exact) -> Exact:
    """[first, second], side by side; kernels of different sizes both begin at the first tap.

    Where a kernel begins multiplies its part by one number of absolute value 1 at each frequency, which no norm sees.
    """
    rows, split = len(first.integers), first.integers.shape[1]
    size = [max(pair) for pair in zip(first.integers.shape[2:], second.integers.shape[2:], strict=True)]
    low = min(first.exponent, second.exponent)
    both = np.zeros((rows, split + second.integers.shape[1], *size), dtype=object)
    for part, columns in ((first, slice(0, split)), (second, slice(split, None))):
        both[(slice(None), columns, *(slice(0, own) for own in part.integers.shape[2:]))] = part.shifted(
            part.exponent - low
        )
    return Exact(both, low, first.budget)


def parse_map(entry: object, numbers: Floats) -> Map:
    """The map that ``entry`` describes, with these numbers."""
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if numbers.size > MAX_NUMBERS:
        raise Refused(f"a map of {numbers.size} numbers: more than this program checks")
    if kind == "dense":
        record(entry, "a dense map", {"kind"})
        if numbers.ndim != 2 or 0 in numbers.shape:
            raise Refused(f"a dense map has numbers of shape {numbers.shape}")
        return Map(numbers, numbers.shape[1], numbers.shape[0])
    if kind != "convolution":
        raise Refused(f"nothing is known of maps of kind {kind!a:.80}")
    fields = record(entry, "a convolution", {"kind", "image", "padding", "width", "stride"})
    c, *image = parse_image(fields["image"])
    width, stride = (natural(fields[name], name, MAX_PIXELS) for name in ("width", "stride"))
    if numbers.ndim != 4 or 0 in numbers.shape or numbers.shape[1] != c or not stride:
        raise Refused(f"a convolution of {c} channels has a kernel of shape {numbers.shape} and stride {stride}")
    if fields["padding"] not in ("zeros", "circular"):
        raise Refused(f"nothing is known of the padding {fields['padding']!a:.80}")
    circular, torus, out = fields["padding"] == "circular", [], []
    for n, k in zip(image, numbers.shape[2:], strict=True):
        if circular:
            if n % stride:
                raise Refused(f"a circular convolution of stride {stride} on an image of {n} pixels")
            torus.append(n // stride)
            out.append(n // stride)
            continue
        given = (n + 2 * width - k) // stride + 1
        if n + 2 * width < k:
            raise Refused(f"a kernel of {k} is larger than an image of {n} pixels padded by {width}")
        # Outputs u < given read the pixels v = u + t of the phases, first <= t <= last, v < coarse being the image's.
        first, last, coarse = -width // stride, (k - 1 - width) // stride, -(-n // stride)
        torus.append(max(coarse - first, given + last, coarse, given))
        out.append(given)
    if math.prod(torus) > MAX_PIXELS:
        raise Refused(f"images of {image[0]} x {image[1]} pixels: more than this program checks")
    outputs = features(numbers.shape[0] * math.prod(out))
    return Map(numbers, c * math.prod(image), outputs, (torus[0], torus[1]), stride, width, circular)


def parse_image(value: object) -> list[int]:
    """Channels, height and width."""
    sizes = [natural(size, "a size of an image", MAX_INPUTS) for size in sequence(value, "an image", 3, 3)]
    features(math.prod(sizes))
    return sizes


def features(count: int) -> int:
    """``count`` where a layer may have so many numbers."""
    if not 1 <= count <= MAX_INPUTS:
        raise Refused(f"a layer of {count} numbers: more than this program checks, or none")
    return count
