"""The steps of an epoch, and losses sample by sample, against what they replace."""

from __future__ import annotations

import pytest
import torch

from equilip.nn import LBEN
from equilip.train.descent import descend
from equilip.train.losses import Certified, CrossEntropy, LipschitzMargin, Loss, Margin, SquaredError
from equilip.train.schedules import OneCycle
from equilip.train.slopes import slopes

GENERATOR = torch.Generator().manual_seed(0)
Y = torch.randn(20, 4, dtype=torch.float64, generator=GENERATOR)
LABEL = torch.randint(0, 4, (20,), generator=GENERATOR)


@pytest.mark.parametrize(
    "loss", [CrossEntropy(), CrossEntropy(0.3), Margin(0.7), LipschitzMargin(0.3, 0.5), Certified(0.4, 0.2)]
)
def test_the_loss_is_the_mean_of_each(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(1)
    model = LBEN(6, 9, 4, 1.5, dtype=torch.float64, generator=generator).requires_grad_(False)
    own = slopes(model)
    each = loss.each(Y, LABEL, own)
    assert each.shape == (20,)
    assert float(loss(Y, LABEL, own)) == pytest.approx(float(each.mean()), rel=1e-12)
    one = torch.stack([loss(Y[i : i + 1], LABEL[i : i + 1], own) for i in range(20)])
    assert torch.allclose(each, one, rtol=1e-12)


def test_squared_error_by_hand() -> None:
    target = Y.flip(0)
    expected = sum((a - b) ** 2 for a, b in zip(Y[3].tolist(), target[3].tolist(), strict=True))
    assert float(SquaredError().each(Y, target, None)[3]) == pytest.approx(expected)


def test_one_step_for_every_batch_at_the_scheduled_rate() -> None:
    weight = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([weight], lr=99.0)
    schedule = OneCycle(0.1)
    batches = torch.arange(20).split(8)
    expected, total = torch.zeros(4, dtype=torch.float64), 0.0
    for epoch in range(3):
        for step, rows in enumerate(batches):
            rate = schedule.rate(epoch + step / 3, 3)
            value = 0.5 * (expected - Y[rows]).square().sum(1).mean()
            total += float(value) * len(rows) if epoch == 2 else 0.0
            expected = expected - rate * (expected - Y[rows]).mean(0)

        def loss(rows: torch.Tensor) -> torch.Tensor:
            return 0.5 * (weight - Y[rows]).square().sum(1).mean()

        found, last = descend(optimiser, schedule, batches, epoch, 3, loss)
    assert torch.allclose(weight.detach(), expected, rtol=1e-12)
    assert float(found) == pytest.approx(total)
    assert last == schedule.rate(2 + 2 / 3, 3)
