"""The steps of one epoch: what every training has in common, whatever it trains and whatever it minimises."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equilip.errors import ConfigError, ConvergenceError, EquilipError, InputError
from equilip.nn import EquilibriumModule
from equilip.train.schedules import Schedule

#: Weights that no training which learns anything comes near.
_LARGE = 1e6


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
    largest = max((float(parameter.detach().abs().max()) for parameter in model.parameters()), default=0.0)
    if largest > _LARGE or (isinstance(model, EquilibriumModule) and not _finite(model)):
        return ConfigError(f"the training diverged in epoch {epoch}: the weights grew to {largest:.1e}; {advice}")
    if isinstance(error, ConvergenceError):
        return type(error)(f"epoch {epoch}: {error}; if the loss was growing, {advice}", error.solution)
    return error


def _finite(model: EquilibriumModule) -> bool:
    """Whether finite weights make finite matrices: products and exponentials of them may overflow."""
    with torch.no_grad():
        form = model.form()
    return all(bool(own.isfinite().all()) for of in (form.W, form.U, form.C, form.D) for own in of.tensors)
