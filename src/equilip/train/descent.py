"""The steps of one epoch: what every training has in common, whatever it trains and whatever it minimises."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equilip.errors import ConfigError, ConvergenceError, EquilipError, InputError
from equilip.train.schedules import Schedule


def descend(
    optimiser: torch.optim.Optimizer,
    schedule: Schedule,
    batches: Sequence[Tensor],
    epoch: int,
    epochs: int,
    loss: Callable[[Tensor], Tensor],
) -> tuple[Tensor, float]:
    """One step for every batch of rows (indices), along the gradient of ``loss(rows)``, the batch's mean loss ().

    ``epoch`` counts from 0. Returns the sum of the loss over all rows, (), which is read from the device once only,
    and the learning rate of the last step.
    """
    total, rate = torch.zeros(()), 0.0
    for step, rows in enumerate(batches):
        rate = schedule.rate(epoch + step / len(batches), epochs)
        for group in optimiser.param_groups:
            group["lr"] = rate
        value = loss(rows)
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        total = value.detach() * len(rows) if step == 0 else total + value.detach() * len(rows)
    return total, rate


def explained(
    error: ConvergenceError | InputError, model: torch.nn.Module, optimiser: torch.optim.Optimizer, epoch: int
) -> EquilipError:
    """A solve that failed in an epoch (counted from 1), as the learning rate's fault where it may be."""
    advice = f"lower the learning rate, now {optimiser.param_groups[0]['lr']:g}"
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        return ConfigError(f"the weights became infinite in epoch {epoch}; {advice}")
    if isinstance(error, ConvergenceError):
        return type(error)(f"epoch {epoch}: {error}; if the loss was growing, {advice}", error.solution)
    return error
