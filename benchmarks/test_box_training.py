"""One training step against boxes, next to a step of the same network on points: at most three times the cost.

The equation of a box has twice the size (linf.md 4). What is compared are steps of :class:`equilip.nn.NEMON` with 200
neurons as they are trained, each network after steps of its own kind.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import problems
from benchmarks.measure import interleave
from benchmarks.table import Report, Target
from equilip import nn
from equilip.train.boxes import BoxTraining, Ramp

BATCH = 250
NEURONS = 200
WARMUP = 150
ROUNDS = 7
EPS = 0.11
AT_MOST = 3.0
NOTE = "MNIST, batch 250, n = 200, float32, Adam 1e-3, after 150 steps of the same kind; boxes of half-width 0.11"


@dataclass(eq=False)
class Trainer:
    """A network, its optimiser, its place in the data, and what it minimises: None for points."""

    network: nn.NEMON
    boxes: BoxTraining | None
    batches: list[tuple[Tensor, Tensor]]

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-3, fused=True)
        self.following = cycle(self.batches)

    def step(self) -> None:
        x, labels = next(self.following)
        if self.boxes is None:
            loss = torch.nn.functional.cross_entropy(self.network(x), labels)
        else:
            loss, _ = self.boxes.loss(self.network, x, labels, 1.0)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()


@pytest.mark.benchmark(group="training against boxes", timer=time.process_time)
@pytest.mark.parametrize(("gate", "kappa"), [(0.0, 1.0), (0.0, 0.75), (0.125, 1.0)])
def test_a_step_against_boxes(benchmark: Any, report: Report, gate: float, kappa: float) -> None:
    dataset = problems.mnist()
    # Raw pixels: boxes are, and the network standardises them.
    batches = list(zip(dataset.train_x.flatten(1).split(BATCH), dataset.train_y.split(BATCH), strict=True))
    standardisation = None if gate else dataset.standardisation

    def trainer(boxes: BoxTraining | None) -> Trainer:
        generator = torch.Generator().manual_seed(0)
        network = nn.NEMON(784, NEURONS, 10, gate=gate, standardisation=standardisation, generator=generator)
        return Trainer(network, boxes, batches)

    points = trainer(None)
    ours = trainer(BoxTraining(Ramp(EPS, kappa, 0.4), (0.0, 1.0)))
    for each in (points, ours):
        for _ in range(WARMUP):
            each.step()
    times = interleave(benchmark, ours.step, {"points": points.step}, rounds=ROUNDS)
    cost = times.ratio(None, "points")
    report.table("Training against boxes", NOTE).add(
        gate=gate, kappa=kappa, points_ms=times.milliseconds("points"), boxes_ms=times.milliseconds(), times_points=cost
    )
    label = f"a step against boxes, gate {gate:g}, κ = {kappa:g}, in steps on points"
    report.targets.append(Target(label, cost, at_most=AT_MOST))
