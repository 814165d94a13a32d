"""Layers that claim a slope of at most 1, side by side: what a training step costs, and what the slope is afterwards.

Each layer learns a map three times as steep as it may be, so that its claim is what holds it back: gently, and with
steps so large that the weights of one step say little about those of the next. Then the slope is taken from the layer's
own Jacobian, as it stands in train() and in eval().
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.measure import clock, interleave
from benchmarks.rivals import Contestant, Geometry, contestants, strided
from benchmarks.table import Report

BATCH = 64
#: What float32 can add to a slope of 1.
ROUNDING = 1e-5
NOTE = (
    "step: CPU time of a training step of a batch of 64, in times of torch's own layer; slopes: the largest singular "
    "value of the Jacobian found, after 100 steps of Adam at 1e-2 (gentle) and 30 at 0.3 (rough), and with random "
    "weights of size 1, 1e-8, 1e8, both, and rows of zeros (redrawn), seed 0"
)
GEOMETRIES = (Geometry(8, 3, 1, 1), Geometry(8, 3, 2, 1), Geometry(7, 3, 2, 1), Geometry(8, 3, 1, 2))


def trained(contestant: Contestant, rate: float, steps: int) -> torch.nn.Module:
    """The layer after learning y = 3 x of random inputs, its rows reversed."""
    torch.manual_seed(0)
    layer = contestant.make().train()
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(layer.parameters(), lr=rate)
    for _ in range(steps):
        x = contestant.inputs(BATCH, generator)
        optimiser.zero_grad()
        (layer(x) - 3 * x.flip(1)).square().mean().backward()
        optimiser.step()
    return layer


def slope(layer: torch.nn.Module, contestant: Contestant) -> float:
    """The largest norm of the Jacobian at some inputs, near zero and far, as the layer stands."""
    if contestant.linear:
        x = contestant.inputs(1, torch.Generator())
        basis = torch.eye(x.numel()).reshape(-1, *x.shape[1:])
        with torch.no_grad():
            J = (layer(basis) - layer(torch.zeros_like(basis))).flatten(1)
        return float(torch.linalg.matrix_norm(J.double(), 2))
    found = 0.0
    for scale in (0.1, 1.0, 10.0):
        x = scale * contestant.inputs(1, torch.Generator().manual_seed(1))
        J = torch.autograd.functional.jacobian(layer, x, vectorize=True)
        found = max(found, float(torch.linalg.matrix_norm(J.double().reshape(x.numel(), x.numel()), 2)))
    return found


def redraw(layer: torch.nn.Module, kind: str, seed: int = 0) -> None:
    """Random weights: of size 1, of 1e-8 or 1e8, of both in turn, or every second row of zeros."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if parameter.dim() < 2 or name.endswith("q"):
                continue
            value = torch.randn(parameter.shape, generator=generator)
            if kind in ("1e-8", "1e8"):
                value *= float(kind)
            if kind == "both":
                value[::2] *= 1e8
                value[1::2] *= 1e-8
            if kind == "zeros":
                value[::2] = 0
            parameter.copy_(value)


def redrawn(contestant: Contestant) -> tuple[float, str]:
    """The largest slope after weights were written in train(), and what goes wrong otherwise."""
    found, wrong = 0.0, []
    for kind in ("1", "1e-8", "1e8", "both", "zeros"):
        torch.manual_seed(0)
        layer = contestant.make().train()
        redraw(layer, kind)
        x = contestant.inputs(2, torch.Generator().manual_seed(0))
        if not bool(layer(x).isfinite().all()):
            wrong.append(f"NaN ({kind})")
            continue
        found = max(found, slope(layer, contestant))
    layer = contestant.make().eval()
    before = layer(x)
    redraw(layer, "1")
    if torch.equal(layer(x), before):
        wrong.append("eval() keeps the weights of before")
    return found, ", ".join(wrong)


@pytest.mark.benchmark(group="layers", timer=clock)
@pytest.mark.parametrize("contestant", list(contestants()), ids=lambda c: f"{c.package}-{c.name}")
def test_step_and_slope(benchmark: Any, report: Report, contestant: Contestant) -> None:
    """One row of the table; our own claims are asserted, those of others are reported."""
    plain = next(c for c in contestants() if c.package == "torch" and c.dense == contestant.dense)
    x = contestant.inputs(BATCH, torch.Generator().manual_seed(0))

    def step(own: Contestant) -> Any:
        torch.manual_seed(0)
        layer = own.make().train()
        optimiser = torch.optim.Adam(layer.parameters())

        def play() -> None:
            optimiser.zero_grad()
            (layer(x) - x).square().mean().backward()
            optimiser.step()

        return play

    rounds = interleave(benchmark, step(contestant), {"torch": step(plain)}, rounds=3, least=0.05)
    slopes = []
    for rate, steps in ((1e-2, 100), (0.3, 30)):
        layer = trained(contestant, rate, steps)
        slopes += [slope(layer, contestant), slope(layer.eval(), contestant)]
    claims = contestant.package != "torch"
    steepest, wrong = redrawn(contestant)
    holds = max(*slopes, steepest) <= 1 + ROUNDING and not wrong
    report.table("Layers of slope at most 1", NOTE).add(
        package=contestant.package,
        layer=contestant.name,
        milliseconds=rounds.milliseconds(),
        step=rounds.ratio(None, "torch"),
        gentle_train=f"{slopes[0]:.5f}",
        gentle_eval=f"{slopes[1]:.5f}",
        rough_train=f"{slopes[2]:.5f}",
        rough_eval=f"{slopes[3]:.5f}",
        redrawn=f"{steepest:.5f}",
        wrong=wrong if claims else "",
        all_well=("yes" if holds else "NO") if claims else "",
    )
    assert holds or contestant.package != "equilip"


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_circular_paddings_and_strides(report: Report, geometry: Geometry) -> None:
    """The largest slope of convolutions from 4 channels to 16 with random weights, for one geometry."""
    cells = {}
    for contestant in strided(geometry):
        found = 0.0
        for seed in range(3):
            torch.manual_seed(seed)
            layer = contestant.make().train()
            redraw(layer, "1", seed)
            basis = torch.eye(4 * geometry.pixels**2).reshape(-1, 4, geometry.pixels, geometry.pixels)
            with torch.no_grad():
                J = (layer(basis) - layer(torch.zeros_like(basis))).flatten(1)
            found = max(found, float(torch.linalg.matrix_norm(J.double(), 2)))
        cells[f"{contestant.package} {contestant.name}"] = f"{found:.4f}"
        assert found <= 1 + ROUNDING or contestant.package != "equilip"
    what = f"{geometry.pixels} pixels, kernel {geometry.kernel}, stride {geometry.stride}, padding {geometry.padding}"
    report.table("Slopes with circular padding", "random weights, largest of three seeds").add(of=what, **cells)
