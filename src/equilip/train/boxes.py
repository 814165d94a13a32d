"""Training against boxes: the worst outputs that an input gives when every entry moves by up to eps (linf.md 5).

The loss is (1 - κ) CE(y, label) + κ CE(worst, label), where worst_j is y_label's least lead over class j in the box, as
an upper bound on y_j - y_label. κ and eps grow from 0 with the training; a box costs two products with W for every
one that a point costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip import nn
from equilip.errors import ConfigError
from equilip.operators import Contraction, Product
from equilip.solve.channel_embedding import image_boxes
from equilip.solve.embedded import boxes
from equilip.train.config import TrainConfig

#: What boxes can be sent through while it is trained.
Boxable = nn.NEMON | nn.NEMONConv | nn.FeedForward

#: The share of the training during which only points are trained on.
WARM = 0.05


@dataclass(frozen=True)
class Ramp:
    """Weights of the two terms and the size of the boxes while the training goes from 0 to 1.

    eps, kappa: where they end; end: when they get there, as a share of the training.
    """

    eps: float
    kappa: float
    end: float

    def at(self, progress: float) -> tuple[float, float]:
        """(eps, κ) now."""
        share = min(1.0, max(0.0, (progress - WARM) / max(self.end - WARM, 1e-9)))
        return self.eps * share, self.kappa * share


@dataclass(frozen=True, eq=False)
class BoxTraining:
    """What a training against boxes needs beside the model: its ramp, the data's range, the regulariser's weight."""

    ramp: Ramp
    limits: tuple[float, float] | None
    regulariser: float = 0.0
    paper: bool = False

    def loss(self, model: Boxable, x: Tensor, label: Tensor, progress: float) -> tuple[Tensor, Tensor]:
        """The mean loss of raw inputs x (batch, p), (), and outputs (batch, q) by which to count errors.

        The outputs are those of the points, or of the boxes' centres where κ = 1 and no point is solved for.
        """
        eps, kappa = self.ramp.at(progress)
        found = spread(model, x, eps, self.limits, points=kappa < 1)
        value = x.new_zeros(())
        y = found.centre
        if kappa > 0:
            value = value + kappa * torch.nn.functional.cross_entropy(found.worst(label), label)
        if found.y is not None:
            y = found.y
            value = value + (1 - kappa) * torch.nn.functional.cross_entropy(y, label)
        if self.regulariser:
            assert isinstance(model, nn.NEMON)
            slope = paper_penalty(model) if self.paper else slope_penalty(model.recurrence(), model.U, model.C)
            value = value + self.regulariser * slope
        return value, y

    def certified(self, model: Boxable, x: Tensor, label: Tensor, eps: float) -> float:
        """The share of samples that boxes certify, in floating point: ``equilip certify`` proves what it estimates."""
        right = 0
        with torch.no_grad():
            for part, own in zip(x.split(1000), label.split(1000), strict=True):
                worst = spread(model, part, eps, self.limits, points=False, tolerance=1e-5).worst(own)
                right += int((worst.argmax(1) == own).sum())
        return right / max(len(x), 1)


@dataclass(frozen=True, eq=False)
class Spread:
    """What boxes of inputs lead to: outputs of the centres of what is read last, its half-widths, outputs of points.

    centre (batch, q), radius (batch, k) of what C (q, k) reads, y (batch, q) or None.
    """

    centre: Tensor
    radius: Tensor
    C: Tensor
    y: Tensor | None

    def worst(self, label: Tensor) -> Tensor:
        """(batch, q): the centre's outputs, each raised by as much as it can gain on the label's: y_label's by 0."""
        q = len(self.C)
        spans = (self.C[:, None] - self.C).abs().reshape(q * q, -1)
        gains = (self.radius @ spans.mT).reshape(-1, q, q)
        return self.centre + gains[torch.arange(len(label), device=label.device), label]


def spread(
    model: Boxable,
    x: Tensor,
    eps: float,
    limits: tuple[float, float] | None,
    *,
    points: bool,
    tolerance: float = 1e-2,
) -> Spread:
    """Boxes of half-width eps around raw inputs x (batch, p), inside the data's range, sent through ``model``."""
    low, high = x - eps, x + eps
    if limits is not None:
        low, high = low.clamp(*limits), high.clamp(*limits)
    read = model.gated if isinstance(model, nn.NEMON) else _standardised(model)
    low, high = read(low), read(high)
    centre, radius, own = 0.5 * (low + high), 0.5 * (high - low), read(x) if points else low[:0]
    if isinstance(model, nn.FeedForward):
        return _through_layers(model, centre, radius, own if points else None)
    if isinstance(model, nn.NEMONConv):
        return _through_images(model, centre, radius, own if points else None, tolerance)
    c, r, z = boxes(
        model.recurrence(),
        model.activation,
        torch.addmm(model.b, centre, model.U.mT),
        radius @ model.U.abs().mT,
        torch.addmm(model.b, own, model.U.mT),
        tolerance=tolerance,
    )
    y = torch.addmm(model.c, z, model.C.mT) if points else None
    return Spread(torch.addmm(model.c, c, model.C.mT), r, model.C, y)


def _standardised(model: nn.FeedForward | nn.NEMONConv) -> Callable[[Tensor], Tensor]:
    return (lambda x: x) if model.input is None else model.input


def _through_layers(model: nn.FeedForward, c: Tensor, r: Tensor, z: Tensor | None) -> Spread:
    """Interval propagation, layer by layer."""
    *layers, last = zip(model.weights, model.biases, strict=True)
    for weight, bias in layers:
        s_c, s_r = torch.addmm(bias, c, weight.mT), r @ weight.abs().mT
        high, low = model.activation.value(s_c + s_r), model.activation.value(s_c - s_r)
        c, r = 0.5 * (high + low), 0.5 * (high - low)
        z = None if z is None else model.activation.value(torch.addmm(bias, z, weight.mT))
    weight, bias = last
    y = None if z is None else torch.addmm(bias, z, weight.mT)
    return Spread(torch.addmm(bias, c, weight.mT), r, weight, y)


def _through_images(model: nn.NEMONConv, c: Tensor, r: Tensor, z: Tensor | None, tolerance: float) -> Spread:
    form = model.form()
    W, U, pool = form.W, form.U, form.C
    assert isinstance(W, Contraction)
    assert isinstance(pool, Product)
    size = U.rebuild((model.U.abs(),))
    points = U.plus(c[:0] if z is None else z, form.b)
    found = image_boxes(W, model.activation, U.plus(c, form.b), size.apply(r), points, tolerance=tolerance)
    # Means over blocks of pixels have means of half-widths.
    c, r, own = (pool.right.apply(part) for part in found)
    y = None if z is None else torch.addmm(model.c, own, model.C.mT)
    return Spread(torch.addmm(model.c, c, model.C.mT), r, model.C, y)


def slope_penalty(W: Tensor, U: Tensor, C: Tensor) -> Tensor:
    """|C| (I - M)⁻¹ |U| 1, its largest entry, (): the ℓ∞ slope that the comparison matrix bounds, differentiable.

    Tighter than the sum of squared norms in the literature (:func:`paper_penalty`), and with respect to what is
    certified; W has to contract (nn.NEMON), U reads the gated or standardised input.
    """
    M = W.abs() + torch.diag_embed(W.diagonal() - W.diagonal().abs())
    eye = torch.eye(len(W), dtype=W.dtype, device=W.device)
    moved = torch.linalg.solve(eye - M, U.abs().sum(1))
    return (C.abs() @ moved).amax()


def paper_penalty(model: nn.NEMON) -> Tensor:
    """(|η⁻¹U|∞² + |Cη|∞²) / (2 (1 - m₊)), (): the regulariser of the literature, above the ℓ∞ slope."""
    eta = model.weights
    inputs = (model.U.abs().sum(1) / eta).amax()
    outputs = (model.C.abs() @ eta).amax()
    return (inputs.square() + outputs.square()) / (2 * (1 - max(model.m, 0.0)))


def box_training(config: TrainConfig, model: torch.nn.Module, *, images: bool) -> BoxTraining | None:
    """What the configuration asks for; None where its loss is another one."""
    if config.loss != "boxes":
        return None
    if not isinstance(model, Boxable):
        raise ConfigError(
            "the loss boxes needs a network that boxes can be sent through: choose the model nemon, nemon-conv or "
            "feedforward"
        )
    if config.regulariser and not isinstance(model, nn.NEMON):
        raise ConfigError("the penalties of the loss boxes are those of the model nemon; leave out regulariser")
    limits = (0.0, 1.0) if images else None
    return BoxTraining(
        Ramp(config.loss_eps, config.kappa, config.ramp), limits, config.regulariser, config.penalty == "paper"
    )
