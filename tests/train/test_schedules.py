"""Learning rates: the shapes that their names promise."""

from __future__ import annotations

import pytest
import torch

from equilip.train import TrainConfig
from equilip.train.config import SCHEDULES
from equilip.train.schedules import Constant, Cosine, OneCycle, Step, schedule


def test_step_divides_by_ten() -> None:
    step = schedule(TrainConfig(lr=1e-3, schedule="step", step_epochs=10))
    assert step == Step(1e-3, 10)
    assert step.rate(9.99, 30) == 1e-3
    assert step.rate(10, 30) == pytest.approx(1e-4)
    assert step.rate(29.5, 30) == pytest.approx(1e-5)


def test_constant() -> None:
    assert schedule(TrainConfig(schedule="constant", lr=0.5)) == Constant(0.5)
    assert Constant(0.5).rate(7, 9) == 0.5


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_rate_is_positive_and_at_most_lr(name: str) -> None:
    made = schedule(TrainConfig(schedule=name, lr=0.01, epochs=7))
    rates = [made.rate(epoch / 10, 7) for epoch in range(70)]
    assert 0 < min(rates) <= max(rates) <= 0.01 * (1 + 1e-12)


def test_cosine_is_torchs() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20)
    for step in range(20):
        assert Cosine(0.3).rate(step / 4, 5) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        theirs.step()


def test_one_cycle_rises_to_its_peak_and_falls() -> None:
    cycle = OneCycle(0.01)
    assert cycle.rate(0, 10) == pytest.approx(0.01 / 25)
    assert cycle.rate(3, 10) == pytest.approx(0.01)
    assert cycle.rate(10, 10) == pytest.approx(1e-6)
    rates = [cycle.rate(epoch / 10, 10) for epoch in range(101)]
    assert rates[:31] == sorted(rates[:31])
    assert rates[30:] == sorted(rates[30:], reverse=True)
