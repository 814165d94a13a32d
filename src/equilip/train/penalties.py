"""Penalties: what is added to the loss of any ``torch.nn.Module`` to keep its slope small (mathematics 7, 8).

A penalty sees the module and a batch of its inputs, and returns one number, its weight included. None of them proves
anything: ``equilip certify`` (:func:`equilip.certify.lipschitz`) says what has become of the slope.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.train.config import TrainConfig

Model = Callable[[Tensor], Tensor]

#: Moves of the search for steep pairs before it starts from data again.
RESTART = 2000


class Penalty(torch.nn.Module, ABC):
    """A penalty: what it remembers from batch to batch is in buffers, which its ``state_dict`` has."""

    def __init__(self, weight: float) -> None:
        """``weight``: what the penalty is multiplied by. InputError where it is not positive."""
        if not (weight > 0 and math.isfinite(weight)):
            raise InputError(f"the weight of a penalty must be positive, got {weight}")
        super().__init__()
        self.weight = weight

    @abstractmethod
    def forward(self, model: Model, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(), differentiable in the model's parameters, for a batch x (batch, ...) of its inputs."""

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}"


class Jacobian(Penalty):
    """weight · the mean over the batch of ‖∂y/∂x‖_F², estimated by one random direction v of the outputs, ‖vᵀ ∂y/∂x‖².

    The estimate is right on average, and costs a gradient of second order.
    """

    def forward(self, model: Model, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        x = x.detach().requires_grad_()
        y = model(x)
        v = torch.randn(y.shape, dtype=y.dtype, generator=generator).to(y.device)
        (slope,) = torch.autograd.grad(y, x, v, create_graph=True)
        return self.weight * slope.square().sum() / len(x)


class CLIP(Penalty):
    """weight · the largest ‖f(u) - f(v)‖² / ‖u - v‖² over pairs of inputs that are made ever steeper while training.

    The pairs begin as pairs of samples of a batch. At every call each moves once up the gradient of its own quotient,
    u and v together, as far as its own step size says; a move that makes it no steeper is taken back. Steps grow by
    1.3 after a success and shrink by it after a failure. After ``RESTART`` calls the pairs begin again.

    features: of an input, or its shape. pairs: how many. Raises InputError where these are not positive.
    """

    u: Tensor
    v: Tensor
    step: Tensor
    calls: Tensor

    def __init__(self, features: int | Sequence[int], weight: float, pairs: int = 32) -> None:
        super().__init__(weight)
        shape = (features,) if isinstance(features, int) else tuple(features)
        if pairs < 1 or any(size < 1 for size in shape):
            raise InputError(f"pairs and features must be positive, got {pairs} and {features}")
        for name in ("u", "v"):
            self.register_buffer(name, torch.zeros(pairs, *shape))
        self.register_buffer("step", torch.ones(pairs))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, model: Model, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        if int(self.calls) % RESTART == 0:
            self._draw(x)
        self.calls += 1
        self._climb(model)
        return self.weight * self.quotients(model).amax()

    def quotients(self, model: Model) -> Tensor:
        """‖f(u) - f(v)‖² / ‖u - v‖² of the present pairs, (pairs,): each from below, never a bound."""
        return _quotients(model, self.u, self.v)

    def _draw(self, x: Tensor) -> None:
        """Begin with the samples of a batch: each with the one half a batch further on."""
        pairs, batch = len(self.u), len(x)
        if batch < 2:
            raise InputError("pairs of inputs need batches of at least two samples")
        first = torch.arange(pairs, device=x.device) % batch
        self.u.copy_(x.detach()[first])
        self.v.copy_(x.detach()[(first + batch // 2) % batch])
        self.step.fill_(1.0)

    def _climb(self, model: Model) -> None:
        u, v = self.u.clone().requires_grad_(), self.v.clone().requires_grad_()
        before = _quotients(model, u, v)
        along = torch.autograd.grad(before.sum(), (u, v))
        with torch.no_grad():
            # In units of the pair's own distance: then a step means the same whatever the units of the inputs.
            distance = _norm(self.u - self.v)
            steepness = _norm(torch.stack(along, dim=1))
            length = self.step * distance / steepness.clamp(min=torch.finfo(steepness.dtype).tiny)
            length = length.reshape(-1, *[1] * (u.dim() - 1))
            u, v = self.u + length * along[0], self.v + length * along[1]
            # Rounding would take the place of the slope where the two nearly meet.
            near = torch.finfo(u.dtype).eps ** 0.5 * (_norm(u) + _norm(v))
            better = (_quotients(model, u, v) > before.detach()) & (_norm(u - v) > near)
            self.u[better], self.v[better] = u[better], v[better]
            self.step *= torch.where(better, 1.3, 1 / 1.3)
            self.step.clamp_(1e-6, 1.0)


class Discrepancy(torch.nn.Module):
    """A penalty whose weight is found while training, by the discrepancy principle (mathematics 8).

    The weight should be the largest that leaves the training accuracy at ``goal``: the network becomes as flat as what
    it has to tell allows. After every epoch whose accuracy reaches the goal the weight grows by ``increment``, after
    every other it shrinks by it, to 0 at least. The first ``warm_up`` epochs change nothing, as a network that has
    learnt nothing yet says nothing about its penalty. Weight and epochs are in the ``state_dict``.
    """

    def __init__(self, penalty: Penalty, goal: float, increment: float, warm_up: int = 5) -> None:
        """InputError where goal is no share between 0 and 1, increment not positive or warm_up negative."""
        if not 0 < goal < 1:
            raise InputError(f"the goal is a training accuracy between 0 and 1, got {goal}")
        if not (increment > 0 and math.isfinite(increment)):
            raise InputError(f"the increment of a weight must be positive, got {increment}")
        if warm_up < 0:
            raise InputError(f"there cannot be {warm_up} epochs of warming up")
        super().__init__()
        self.penalty = penalty
        self.goal, self.increment, self.warm_up = goal, increment, warm_up
        self.epochs = 0

    @property
    def weight(self) -> float:
        """The present weight of the penalty."""
        return self.penalty.weight

    def forward(self, model: Model, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(), the penalty at its present weight."""
        value: Tensor = self.penalty(model, x, generator)
        return value

    def epoch(self, accuracy: float) -> None:
        """An epoch is over: choose the next weight by its training accuracy, a share. InputError for any other."""
        if not 0 <= accuracy <= 1:
            raise InputError(f"an accuracy is a share of the samples, from 0 to 1, got {accuracy}")
        self.epochs += 1
        if self.epochs > self.warm_up:
            change = self.increment if accuracy >= self.goal else -self.increment
            self.penalty.weight = max(0.0, self.penalty.weight + change)

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.weight, self.epochs], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.penalty.weight, self.epochs = float(state[0]), int(state[1])

    def extra_repr(self) -> str:
        return f"goal={self.goal:g}, increment={self.increment:g}, warm_up={self.warm_up}"


def _norm(rows: Tensor) -> Tensor:
    return rows.flatten(1).norm(dim=1)


def _quotients(model: Model, u: Tensor, v: Tensor) -> Tensor:
    y = model(torch.cat([u, v]))
    apart = (u - v).flatten(1).square().sum(1)
    moved = (y[: len(u)] - y[len(u) :]).flatten(1).square().sum(1)
    # Two samples that are the same make no pair.
    return torch.where(apart > 0, moved / torch.where(apart > 0, apart, 1.0), 0.0)


def penalty(config: TrainConfig, in_features: int) -> Penalty | Discrepancy | None:
    """The penalty that a configuration asks for beside its loss."""
    match config.penalty:
        case "clip":
            clip = CLIP(in_features, config.regulariser)
            if config.clip_goal is None:
                return clip
            increment = config.regulariser / 10 if config.clip_increment is None else config.clip_increment
            return Discrepancy(clip, config.clip_goal, increment, config.clip_warm_up)
        case "jacobian":
            return Jacobian(config.regulariser)
    return None
