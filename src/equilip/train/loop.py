"""The training loop: data in memory, one optimiser, one line of metrics and one checkpoint per epoch.

Everything that an epoch depends on is the state after the one before it (:class:`Checkpoint`), the seed and the
number of the epoch. So a training that is continued from a checkpoint ends with the very same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from equilip import nn
from equilip.data import Dataset
from equilip.errors import ConfigError, ConvergenceError, InputError
from equilip.solve import Solution
from equilip.train.batches import Shift, Stream, generator, order, split
from equilip.train.boxes import Boxable, BoxTraining, box_training
from equilip.train.checkpoint import Best, Checkpoint, capture, restore
from equilip.train.config import TrainConfig
from equilip.train.descent import descend, explained
from equilip.train.devices import device as device_of
from equilip.train.devices import dtype as dtype_of
from equilip.train.evaluation import Answers, answers, neurons_at_most, rows_at_a_time
from equilip.train.losses import loss as loss_of
from equilip.train.losses import radii
from equilip.train.metrics import EpochMetrics, Report
from equilip.train.models import Model
from equilip.train.penalties import Discrepancy
from equilip.train.penalties import penalty as penalty_of
from equilip.train.schedules import schedule
from equilip.train.slopes import slopes

Keep = Callable[[Checkpoint], None]

#: Models whose output is computed in one go; the others solve for it.
DIRECT = nn.FeedForward | nn.FeedForwardConv | nn.Stack | nn.MonotonicWrapper


def fit(
    model: Model,
    dataset: Dataset,
    config: TrainConfig,
    on_epoch: Report | None = None,
    *,
    start: Checkpoint | None = None,
    keep: Keep | None = None,
) -> list[EpochMetrics]:
    """Train ``model`` in place on the training part of ``dataset`` and return the metrics of every epoch.

    The model moves to the device and dtype of the configuration, and ends in eval mode; with ``patience`` it
    ends with the parameters of the best epoch. ``start`` is where an earlier training of the same model, data
    and configuration stood. ``keep`` is called with the state after every epoch, before ``on_epoch``; the
    state shares its tensors with the model.

    Raises ConfigError when the loss leaves the finite numbers, ConvergenceError when a solve fails, and
    FormatError when ``start`` is of another network.
    """
    training = _Training(model, dataset, config)
    if start is not None:
        restore(start, model, training.optimiser, training.penalty)
        training.history, training.best = list(start.history), start.best
    while not training.finished:
        metrics = training.epoch()
        if keep is not None:
            keep(capture(model, training.optimiser, training.history, training.best, training.penalty))
        if on_epoch is not None:
            on_epoch(metrics)
    if config.patience is not None and training.best is not None:
        model.load_state_dict(training.best.parameters)
    model.eval()
    return training.history


def check(config: TrainConfig, dataset: Dataset) -> None:
    """ConfigError where this data cannot be trained on as the configuration asks."""
    split(config.seed, len(dataset.train_y), config.validation)
    if config.shift and not dataset.images:
        raise ConfigError(f"shift moves images, and {dataset.name} holds tables; leave it out")


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the data, on the device of the training."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass
class _Seen:
    """Sums over the batches of an epoch; what is a tensor is read from the device once, at its end."""

    wrong: Tensor
    loss: float = 0.0
    iterations: int = 0
    unconverged: int = 0
    lr: float = 0.0


@dataclass(eq=False)
class _Training:
    model: Model
    dataset: Dataset
    config: TrainConfig
    history: list[EpochMetrics] = field(default_factory=list)
    best: Best | None = None

    def __post_init__(self) -> None:
        config, dataset, model = self.config, self.dataset, self.model
        device, dtype = device_of(config.device), dtype_of(config.dtype)
        self.loss = loss_of(config)
        self.schedule = schedule(config)
        self.slopes = slopes(model)
        if self.slopes is None and (self.loss.needs_slopes or config.eps):
            raise ConfigError("the loss and the certified accuracy asked for need a network with a bound: give gamma")
        self.boxes = box_training(config, model, images=dataset.images)
        check(config, dataset)
        train, held = split(config.seed, len(dataset.train_y), config.validation)

        def part(x: Tensor, y: Tensor) -> _Part:
            return _Part(x.to(device, dtype), y.to(device))

        self.train = part(dataset.train_x, dataset.train_y)
        if len(held):
            self.train = part(dataset.train_x[train], dataset.train_y[train])
        self.held = part(dataset.train_x[held], dataset.train_y[held])
        self.test = part(dataset.test_x, dataset.test_y)
        self.shift = Shift(config.shift, dataset.shape) if config.shift else None
        model.to(device=device, dtype=dtype)
        self.penalty = penalty_of(config, dataset.in_features)
        if self.penalty is not None:
            self.penalty.to(device=device, dtype=dtype)
        if isinstance(model, nn.EquilibriumModule):
            model.settings = replace(model.settings, tolerance=config.tolerance)
        betas, fused = (config.beta1, config.beta2), device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.Adam(model.parameters(), lr=config.lr, betas=betas, fused=fused)

    @property
    def finished(self) -> bool:
        done, patience = len(self.history), self.config.patience
        waited = 0 if self.best is None else done - self.best.epoch
        return done >= self.config.epochs or (patience is not None and waited >= patience)

    def epoch(self) -> EpochMetrics:
        """One pass over the training data, and what it led to."""
        try:
            return self._epoch(len(self.history))
        except (ConvergenceError, InputError) as error:
            raise explained(error, self.model, self.optimiser, len(self.history) + 1) from error

    def _epoch(self, number: int) -> EpochMetrics:
        start, processor = time.perf_counter(), time.process_time()
        seen = self._pass(number)
        loss = seen.loss / len(self.train)
        if not math.isfinite(loss):
            raise ConfigError(f"the loss became {loss} in epoch {number + 1}; lower the learning rate, now {seen.lr:g}")
        weight = None if self.penalty is None else self.penalty.weight
        if isinstance(self.penalty, Discrepancy):
            self.penalty.epoch((len(self.train) - int(seen.wrong)) / len(self.train))
        self.model.eval()
        held_loss = held_error = None
        if len(self.held):
            held_loss, held_error = self._validate()
        found = answers(self.model, self.test.x)
        residual = float(found.residual.max())
        by_gamma, by_pairs = self._certified(found)
        metrics = EpochMetrics(
            epoch=number + 1,
            loss=loss,
            train_error_percent=100.0 * int(seen.wrong) / len(self.train),
            test_error_percent=found.wrong_percent(self.test.y),
            unconverged=found.unconverged,
            iterations=found.iterations,
            max_residual=residual if math.isfinite(residual) else None,
            lr=seen.lr,
            seconds=time.perf_counter() - start,
            train_iterations=seen.iterations,
            train_unconverged=seen.unconverged,
            gamma=self.model.gamma
            if isinstance(self.model, nn.LBEN | nn.LBENConv | nn.Stack | nn.MonotonicWrapper)
            else None,
            validation_loss=held_loss,
            validation_error_percent=held_error,
            certified_by_gamma_percent=by_gamma,
            certified_by_pairs_percent=by_pairs,
            certified_by_boxes_percent=self._boxed(),
            processor_seconds=time.process_time() - processor,
            regulariser=weight,
        )
        self.history.append(metrics)
        if self.config.patience is not None and held_loss is not None:
            self._compare(held_loss)
        return metrics

    def _compare(self, held_loss: float) -> None:
        """Keep the parameters of the epoch just finished if it is the best so far."""
        if self.best is None or held_loss < self.best.loss:
            kept = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
            self.best = Best(len(self.history), held_loss, kept)

    def _pass(self, number: int) -> _Seen:
        config, model = self.config, self.model
        device = self.train.x.device
        model.train()
        seen = _Seen(wrong=torch.zeros((), dtype=torch.int64, device=device))
        batches = order(config.seed, number, len(self.train)).to(device).split(config.batch)
        shifts = generator(config.seed, number, Stream.SHIFT)
        probes = generator(config.seed, number, Stream.PENALTY)
        steps = 0

        def loss(rows: Tensor) -> Tensor:
            nonlocal steps
            x, labels = self.train.x.index_select(0, rows), self.train.y.index_select(0, rows)
            if self.shift is not None:
                x = self.shift.apply(x, shifts)
            if self.boxes is not None:
                assert isinstance(model, Boxable)
                progress = (number + steps / len(batches)) / config.epochs
                value, y = self.boxes.loss(model, x, labels, progress)
                steps += 1
                seen.wrong += (y.detach().argmax(1) != labels).sum()
                return value
            if isinstance(model, DIRECT):
                y = model(x)
            else:
                solution = model.solve(x)
                if not (model.settings.raise_on_failure or bool(solution.converged.all())):
                    solved = solution.converged.nonzero().flatten()
                    x, labels, lost = x[solved], labels[solved], len(x) - len(solved)
                    seen.unconverged, seen.wrong = seen.unconverged + lost, seen.wrong + lost
                    solution = _again(model, x)
                y, seen.iterations = solution.y, max(seen.iterations, solution.iterations)
            seen.wrong += (y.detach().argmax(1) != labels).sum()
            value = self.loss(y, labels, self.slopes)
            return value if self.penalty is None else value + self.penalty(model, x, probes)

        total, seen.lr = descend(self.optimiser, self.schedule, batches, number, config.epochs, loss)
        seen.loss = float(total)
        return seen

    def _validate(self) -> tuple[float | None, float]:
        """Loss and error on what is held out; no loss where it is not finite."""
        found = answers(self.model, self.held.x)
        with torch.no_grad():
            if self.boxes is not None:
                loss = self._held_boxes(self.boxes)
            else:
                loss = float(self.loss(found.y, self.held.y, self.slopes))
        return loss if math.isfinite(loss) else None, found.wrong_percent(self.held.y)

    def _held_boxes(self, boxes: BoxTraining) -> float:
        """The mean loss against boxes on what is held out."""
        assert isinstance(self.model, Boxable)
        size, total = rows_at_a_time(neurons_at_most(self.model)), 0.0
        for x, labels in zip(self.held.x.split(size), self.held.y.split(size), strict=True):
            total += float(boxes.loss(self.model, x, labels, 1.0)[0]) * len(x)
        return total / len(self.held)

    def _boxed(self) -> dict[str, float]:
        """The share of the test samples that boxes certify at the distance that is trained for."""
        if self.boxes is None:
            return {}
        assert isinstance(self.model, Boxable)
        eps = self.config.loss_eps
        return {f"{eps:g}": 100.0 * self.boxes.certified(self.model, self.test.x, self.test.y, eps)}

    def _certified(self, found: Answers) -> tuple[dict[str, float], dict[str, float]]:
        """The shares of the test samples certified at each distance, by gamma and by pair bounds."""
        if self.slopes is None or not self.config.eps:
            return {}, {}
        with torch.no_grad():
            pairs, whole = self.slopes.pairs(), self.slopes.whole()
        y, wrong = found.y, ~found.converged
        own = torch.nn.functional.one_hot(self.test.y, y.shape[1]).bool()

        def shares(bounds: Tensor) -> dict[str, float]:
            radius = radii(y, self.test.y, bounds).masked_fill(own, math.inf).amin(1).masked_fill(wrong, -math.inf)
            return {f"{eps:g}": 100.0 * int((radius > eps).sum()) / len(self.test) for eps in self.config.eps}

        return shares(torch.full_like(pairs, math.sqrt(2) * float(whole))), shares(pairs)


def _again(model: nn.EquilibriumModule, x: Tensor) -> Solution:
    """The solve of those samples of a batch that have an equilibrium: the others must not enter any gradient."""
    if not len(x):
        raise ConvergenceError("no sample of a batch has an equilibrium", None)
    return model.solve(x)
