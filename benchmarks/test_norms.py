"""Norms of matrices and convolutions: how far each way is from the truth, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.measure import clock, interleave
from benchmarks.table import Report
from equilip.norms import norm_bound, norm_found
from equilip.operators import (
    Circular,
    Conv2d,
    Padding,
    Zeros,
    convolution_bound,
    convolution_norm,
    kernel_gram_bound,
    power_estimate,
)
from equilip.operators.gram_bound import EXACT, symbol

DENSE = "Norms of matrices (float64, seed 0)"
IMAGES = "Norms of convolutions with 3 x 3 kernels (float64, seed 0)"
NOTE = "excess: (value - norm) / norm; bounds are proved, estimates are from below; CPU time"


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def rows(
    benchmark: Any, report: Report, title: str, what: str, norm: float, ways: dict[str, Callable[[], float]]
) -> None:
    """One row for each way; a bound that is below the norm, or an estimate above it, fails."""
    ours, *rest = ways
    rounds = interleave(benchmark, ways[ours], {name: ways[name] for name in rest}, rounds=3, least=0.02)
    for name, way in ways.items():
        excess = (way() - norm) / norm
        assert excess >= -1e-12 or not name.startswith("Gram")
        assert excess <= 1e-12 or not name.startswith("power")
        cost = rounds.milliseconds(None if name == ours else name)
        report.table(title, NOTE).add(of=what, way=name, excess=f"{excess:.1e}", milliseconds=cost)


@pytest.mark.benchmark(group="norms", timer=clock)
@pytest.mark.parametrize("shape", [(64, 64), (512, 128), (512, 512)], ids=str)
def test_matrices(benchmark: Any, report: Report, shape: tuple[int, int]) -> None:
    """Gram iteration against torch.linalg's singular values."""
    A = normal(*shape)
    norm = float(torch.linalg.matrix_norm(A, 2))
    rows(benchmark, report, DENSE, f"{shape[0]} x {shape[1]}", norm, {
        "Gram, 6 steps": lambda: float(norm_bound(A, 6)),
        "Gram, 12 steps": lambda: float(norm_bound(A, 12)),
        "torch.linalg.matrix_norm": lambda: float(torch.linalg.matrix_norm(A, 2)),
        "power estimate, 50 steps": lambda: norm_found(A, 50, generator=torch.Generator().manual_seed(0)),
    })  # fmt: skip


@pytest.mark.benchmark(group="norms", timer=clock)
@pytest.mark.parametrize("padding", [Circular(1), Zeros(1)], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(("channels", "pixels"), [(16, 16), (64, 32)])
def test_convolutions(benchmark: Any, report: Report, channels: int, pixels: int, padding: Padding) -> None:
    """Gram iteration on the torus and of the kernel, against singular values of the symbol.

    The norm with zero padding is known from below only (500 power iterations): its excess may be smaller than shown.
    """
    K, image = normal(channels, channels, 3, 3), (pixels, pixels)
    operator = Conv2d(K, (channels, *image), padding)
    circular = isinstance(padding, Circular)
    norm = convolution_norm(operator, EXACT) if circular else power_estimate(operator, 500)
    ways: dict[str, Callable[[], float]] = {
        "Gram at the frequencies, 6 steps": lambda: float(convolution_bound(K, image, padding, 1, 6)),
        "Gram at the frequencies, 12 steps": lambda: float(convolution_bound(K, image, padding, 1, 12)),
        "Gram of the kernel, 2 steps": lambda: float(kernel_gram_bound(K, 2)),
        "power estimate, 50 steps": lambda: power_estimate(operator, 50, generator=torch.Generator().manual_seed(0)),
    }
    if circular:
        ways["torch.linalg.svdvals of the symbol"] = lambda: float(torch.linalg.svdvals(symbol(K, *image)).amax())
    what = f"{channels} channels, {pixels} x {pixels}, {type(padding).__name__.lower()}"
    rows(benchmark, report, IMAGES, what, norm, ways)
