"""The test error of a form, and how far its equilibria can be trusted."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equilip import nn
from equilip.certify.chained import outputs
from equilip.certify.product import product_bound
from equilip.chain import Chain, Network
from equilip.errors import ConfigError
from equilip.solve import Plan, Prover, Settings, Solution, equilibrium

#: Numbers of hidden neurons, over all samples, that are worked on at a time: as many as the solvers iterate at a time.
NUMBERS = 4_000_000


def rows_at_a_time(neurons: int) -> int:
    """How many samples of a network with so many neurons are worked on at a time, so that memory stays bounded."""
    return max(1, NUMBERS // max(neurons, 1))


def neurons_at_most(model: torch.nn.Module) -> int:
    """The most numbers that one sample is held as between two layers of a model."""
    names = ("in_features", "hidden_features", "out_features")
    sizes = (getattr(own, name, None) for own in model.modules() for name in names)
    dense = (size for own in model.parameters() if own.dim() <= 2 for size in own.shape)
    return max((*(size for size in sizes if isinstance(size, int)), *dense), default=1)


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model in eval mode says of all samples, worked on in batches of bounded memory; without gradients.

    y: (batch, q). residual: (batch,), 0 where nothing is solved for. converged: (batch,) bool. iterations: the most
    that a batch took.
    """

    y: Tensor
    residual: Tensor
    converged: Tensor
    iterations: int

    @property
    def unconverged(self) -> int:
        """Samples without an equilibrium."""
        return int((~self.converged).sum())

    def wrong_percent(self, labels: Tensor) -> float:
        """The share of samples that are not classified as labels (batch,); one without an equilibrium never is."""
        right = (self.y.argmax(1) == labels) & self.converged
        return 100.0 * (len(labels) - int(right.sum())) / len(labels)


def answers(model: torch.nn.Module, x: Tensor) -> Answers:
    """The outputs for the raw inputs x, (batch, p) on the model's device; solves may fail, and say so."""
    parts = x.split(rows_at_a_time(neurons_at_most(model)))
    with torch.no_grad():
        if not isinstance(model, nn.EquilibriumModule):
            y = torch.cat([model(part) for part in parts])
            return Answers(y, y.new_zeros(len(y)), y.new_ones(len(y), dtype=torch.bool), 0)
        settings = replace(model.settings, raise_on_failure=False)
        found = []
        for part in parts:
            solution = model.solve(part, settings)
            # The equilibria themselves are what takes the memory.
            found.append((solution.y, solution.residual, solution.converged, solution.iterations))
    y, residual, converged = (torch.cat([own[k] for own in found]) for k in range(3))  # type: ignore[misc]
    return Answers(y, residual, converged, max(own[3] for own in found))


@dataclass(frozen=True)
class Evaluation:
    """What one pass over labelled data shows.

    test_error_percent: share of the n samples whose largest output is not the label. A sample without an
        equilibrium has no output, so it counts as wrong.
    max_residual: largest relative residual ‖z - σ(Wz + Uξ + b)‖ / ‖z‖ of the samples that converged.
    max_error_bound: largest proven distance to the true equilibrium, of a chain to the true output; None where nothing
        could be proved.
    unconverged: samples for which the solver found no equilibrium. iterations: steps it took.
    """

    test_error_percent: float
    n: int
    max_residual: float | None
    max_error_bound: float | None
    unconverged: int
    iterations: int
    tolerance: float
    dtype: str
    seconds: float

    def as_table(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return asdict(self)


def evaluate(form: Network, x: Tensor, y: Tensor, settings: Settings | None = None) -> Evaluation:
    """Solve ``form`` for the raw inputs x, (n, p), and compare with the labels y, (n,).

    Computes in the dtype and on the device of the form. Samples that do not converge are counted, whatever
    the settings say; an ill-posed W raises IllPosedError unless the settings allow it. In a chain nothing is solved.
    """
    if x.dim() != 2 or x.shape[1] != form.in_size:
        raise ConfigError(f"the network takes {form.in_size} numbers; the data has {tuple(x.shape)[1:]}")
    if not len(x):
        raise ConfigError("there is no sample to evaluate")
    if isinstance(form, Chain):
        return _evaluate_chain(form, x, y)
    settings = Settings() if settings is None else settings
    start = time.perf_counter()
    settings = replace(settings, raise_on_failure=False)
    plan, prover = Plan(settings, form.lam, fixed=True), Prover(form)
    wrong = unconverged = iterations = 0
    bound, tolerance = 0.0, 0.0
    residuals: list[float] = []
    size = rows_at_a_time(form.hidden_size)
    with torch.no_grad():
        for rows, labels in zip(x.split(size), y.split(size), strict=True):
            inputs = rows.to(form.device, form.dtype)
            solution = equilibrium(form, inputs, settings, plan=plan, prover=lambda: prover)
            wrong += count_wrong(solution, labels.to(form.device))
            bound = max(bound, float(solution.error.max()))
            residuals += solution.residual[solution.converged].tolist()
            unconverged += int((~solution.converged).sum())
            iterations, tolerance = max(iterations, solution.iterations), solution.tolerance
    return Evaluation(
        test_error_percent=100.0 * wrong / len(y),
        n=len(y),
        max_residual=max(residuals) if residuals else None,
        max_error_bound=bound if math.isfinite(bound) else None,
        unconverged=unconverged,
        iterations=iterations,
        tolerance=tolerance,
        dtype=str(form.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - start,
    )


def _evaluate_chain(chain: Chain, x: Tensor, y: Tensor) -> Evaluation:
    """The same of a chain; the distance to the exact output is proved in float64 only."""
    start = time.perf_counter()
    bound = None
    if chain.dtype == torch.float64:
        found = outputs(chain, x, product_bound(chain))
        given, bound = found.y, float(found.error.max())
    else:
        size = rows_at_a_time(max(max(link.in_size, link.neurons) for link in chain.links))
        with torch.no_grad():
            given = torch.cat([chain.apply(rows.to(chain.device, chain.dtype)) for rows in x.split(size)]).cpu()
    return Evaluation(
        test_error_percent=100.0 * int((given.argmax(1) != y.cpu()).sum()) / len(y),
        n=len(y),
        max_residual=0.0,
        max_error_bound=bound if bound is None or math.isfinite(bound) else None,
        unconverged=0,
        iterations=0,
        tolerance=0.0,
        dtype=str(chain.dtype).removeprefix("torch."),
        seconds=time.perf_counter() - start,
    )


def count_wrong(solution: Solution, y: Tensor) -> int:
    """How many samples are not classified as y; one without an equilibrium never is."""
    right = (solution.y.argmax(1) == y) & solution.converged
    return len(y) - int(right.sum())
