"""Convolutional networks: one solve and one training step next to the published iteration and a plain convolution.

1 x 28 x 28 images, 32 channels, batch 64, float32, every residual below 1e-4 on both sides. The published step is the
fastest of a search by halving, done beforehand; its iterations are counted beforehand, too.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks import problems
from benchmarks.measure import clock, interleave
from benchmarks.table import Report, Target
from benchmarks.textbook_convolution import TextbookConvolution
from equilip import nn
from equilip.solve import Settings

BATCH, CHANNELS, TOLERANCE, WARMUP, ROUNDS = 64, 32, 1e-4, 20, 3
NOTE = (
    "MNIST, 1 x 28 x 28, 32 channels, batch 64, float32, every relative residual below 1e-4; full metric, no γ, ε = 0.1"
)


def trained() -> tuple[nn.LBENConv, list[tuple[Tensor, Tensor]]]:
    batches = problems.training_batches(BATCH, seed=0)
    generator = torch.Generator().manual_seed(0)
    settings = Settings(tolerance=TOLERANCE)
    model = nn.LBENConv((1, 28, 28), CHANNELS, 10, pool=4, settings=settings, generator=generator)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for x, labels in batches[:WARMUP]:
        loss = functional.cross_entropy(model(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model, batches


def halved(model: nn.LBENConv, bias: Tensor) -> tuple[TextbookConvolution, int]:
    """The step that a search by halving ends at, and the iterations it takes."""
    best: tuple[TextbookConvolution, int] | None = None
    for alpha in (1.0, 0.5, 0.25, 0.125):
        textbook = TextbookConvolution(model, alpha)
        try:
            count = textbook.enough(bias, TOLERANCE, limit=400 if best is None else best[1])
        except AssertionError:
            continue
        best = textbook, count
    assert best is not None
    return best


@pytest.mark.benchmark(group="convolution", timer=clock)
def test_convolution(benchmark: Any, report: Report) -> None:
    model, batches = trained()
    x, labels = batches[WARMUP]
    with torch.no_grad():
        form = model.form().detach()
        bias = functional.pad(form.bias(form.standardise(x)).view(BATCH, CHANNELS, 28, 28), (1, 1, 1, 1))
        textbook, iterations = halved(model, bias)
        z = textbook.solve(bias, iterations)
        g = torch.randn_like(z) * textbook.inside
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(1, CHANNELS, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(CHANNELS * 49, 10),
    )
    images = x.view(BATCH, 1, 28, 28)

    def step(network: torch.nn.Module, x: Tensor) -> None:
        network.zero_grad()
        functional.cross_entropy(network(x), labels).backward()

    def their_step() -> None:
        """What a step costs at least: the two iterations, and one recorded application of W with its gradient."""
        with torch.no_grad():
            point = textbook.solve(bias, iterations)
            textbook.adjoint((point > 0).float(), g, iterations)
        A = textbook.A.clone().requires_grad_()
        kernel, textbook.A = textbook.A, A
        textbook.multiply(point).sum().backward()
        textbook.A = kernel

    def our_solve() -> None:
        with torch.no_grad():
            model.solve(x)

    model.train()
    plays = {
        "textbook, forward": lambda: textbook.solve(bias, iterations),
        "textbook, step": their_step,
        "plain, forward": lambda: plain(images),
        "plain, step": lambda: step(plain, images),
        "ours, step": lambda: step(model, x),
    }
    times = interleave(benchmark, our_solve, plays, rounds=ROUNDS)
    table = report.table("Convolution", NOTE)
    forward = times.ratio("textbook, forward", None)
    training = times.ratio("textbook, step", "ours, step")
    table.add(
        what="forward solve", ours_ms=times.milliseconds(), textbook_ms=times.milliseconds("textbook, forward"),
        textbook_iterations=iterations, times_ours=forward, ours_in_plain=times.ratio(None, "plain, forward"),
    )  # fmt: skip
    table.add(
        what="training step", ours_ms=times.milliseconds("ours, step"),
        textbook_ms=times.milliseconds("textbook, step"), textbook_iterations=2 * iterations, times_ours=training,
        ours_in_plain=times.ratio("ours, step", "plain, step"),
    )  # fmt: skip
    report.targets.append(Target("convolutional solve, textbook in times of ours", forward, at_least=8))
    report.targets.append(Target("convolutional training step, textbook in times of ours", training, at_least=8))
