"""The equilibrium as an autograd function, differentiated by the implicit function theorem.

With s = W z + bias and J = diag σ'(s) the differential of z = σ(s) is dz = J (W dz + ds). So a cotangent g of
z becomes the cotangent v of bias with v = J (Wᵀ v + g), which is again an equilibrium equation (mathematics
1.8): the same solver finds it with the same factorisation. That linear equation is itself an autograd function
whose derivative is a third equation of the same kind, and so on: derivatives of every order are exact.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from equilip.activations import Activation, Slopes
from equilip.errors import ConvergenceError, InputError
from equilip.operators import Operator
from equilip.solve.iteration import Equation, Prepared
from equilip.solve.loop import Outcome, Report
from equilip.solve.solution import Status

if TYPE_CHECKING:
    from equilip.solve.plan import Plan
    from equilip.solve.settings import Settings


@dataclass(frozen=True, eq=False)
class Task:
    """What the autograd functions need beside tensors; ``reports`` collects how it went."""

    W: Operator
    activation: Activation
    plan: Plan
    adjoint_tolerance: float | None
    #: After how many steps to read the adjoint's residual: fixed here, so that backward repeats itself exactly.
    adjoint_expected: int | None = None
    reports: list[Report] = field(default_factory=list)

    def solve(self, bias: Tensor, start: Tensor | None, tensors: tuple[Tensor, ...]) -> Outcome:
        check_finite(bias)
        W = self.W.rebuild(tensors)
        prepared = self.plan.prepared(W)
        outcome = self.plan.run(prepared, Equation(W, self.activation, bias), start)
        self.reports.append(outcome.report)
        return outcome


@dataclass(frozen=True, eq=False)
class LinearTask:
    """v = j ∘ (T v + g), T = Wᵀ or W."""

    W: Operator
    plan: Plan
    tolerance: float | None
    expected: int | None
    binary: bool
    transposed: bool

    def flipped(self) -> LinearTask:
        return replace(self, transposed=not self.transposed)

    def operator(self, tensors: tuple[Tensor, ...]) -> Operator:
        W = self.W.rebuild(tensors)
        return W.transpose() if self.transposed else W

    def pullback(self, tensors: tuple[Tensor, ...], v: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """Gradients of Σ tᵀ T v with respect to the tensors."""
        W = self.W.rebuild(tensors)
        return W.pullback(t, v) if self.transposed else W.pullback(v, t)

    def prepared(self, tensors: tuple[Tensor, ...]) -> Prepared:
        prepared = self.plan.prepared(self.W.rebuild(tensors))
        return prepared.transpose() if self.transposed else prepared

    def solve(self, j: Tensor, g: Tensor, tensors: tuple[Tensor, ...]) -> Tensor:
        equation = Equation(self.operator(tensors), Slopes(j, self.binary), g)
        outcome = self.plan.run_linear(self.prepared(tensors), equation, self.tolerance, self.expected)
        require_converged(outcome.report, self.plan.settings)
        return outcome.z


def check_finite(bias: Tensor) -> None:
    """InputError where the equation holds NaN or infinity."""
    # Both survive a sum, so one number tells; a sum that overflows is looked at closely.
    if not math.isfinite(float(bias.detach().sum())) and not bool(bias.isfinite().all()):
        raise InputError("the input (or the network's weights) holds NaN or infinity; remove such samples first")


def require_converged(report: Report, settings: Settings) -> None:
    """ConvergenceError where an adjoint equation missed its tolerance, unless the caller allows that."""
    if report.status is not Status.CONVERGED and settings.raise_on_failure:
        raise ConvergenceError(
            f"the adjoint equation missed its tolerance: {report.status.value} (largest relative residual "
            f"{float(report.residual.amax()):.3g} after {report.iterations} iterations); loosen the gradient's "
            "tolerance, use float64, or allow it with raise_on_failure=False",
            None,
        )


class Equilibrium(torch.autograd.Function):
    """(bias, start, *tensors of W) -> (z, s); s = W z + bias is not differentiable."""

    @staticmethod
    def forward(task: Task, bias: Tensor, start: Tensor | None, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        outcome = task.solve(bias, start, tensors)
        return outcome.z, outcome.s

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        task, bias, _, *tensors = inputs
        z, s = output
        ctx.task = task
        ctx.mark_non_differentiable(s)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(bias, z, s, *tensors)
        ctx.save_for_forward(bias, z, s, *tensors)

    @staticmethod
    def _parts(ctx: Any) -> tuple[Operator, Tensor, Tensor, LinearTask, tuple[Tensor, ...]]:
        bias, z, s, *tensors = ctx.saved_tensors
        task: Task = ctx.task
        W = task.W.rebuild(tuple(tensors))
        if torch.is_grad_enabled():
            # A second derivative sees how s depends on z, bias and W.
            s = W.plus(z, bias)
        linear = LinearTask(
            task.W, task.plan, task.adjoint_tolerance, task.adjoint_expected, task.activation.binary, transposed=True
        )
        return W, z, task.activation.slope(s), linear, tuple(tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        if cotangents[0] is None:
            return (None,) * len(ctx.needs_input_grad)
        W, z, j, linear, tensors = Equilibrium._parts(ctx)
        v = linear_equilibrium(linear, j, cotangents[0], *tensors)
        own = W.pullback(z, v) if any(ctx.needs_input_grad[3:]) else (None,) * len(tensors)
        return None, v, None, *own

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor | None]:
        _, dbias, _, *dtensors = tangents
        W, z, j, linear, tensors = Equilibrium._parts(ctx)
        ds = torch.zeros_like(z) if dbias is None else dbias
        if any(d is not None for d in dtensors):
            ds = ds + W.pushforward(tuple(dtensors), z)
        return linear_equilibrium(linear.flipped(), j, ds, *tensors), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return _vmap(Equilibrium, 2, info, in_dims, args)


class LinearEquilibrium(torch.autograd.Function):
    """(j, g, *tensors of W) -> v with v = j ∘ (T v + g)."""

    @staticmethod
    def forward(task: LinearTask, j: Tensor, g: Tensor, *tensors: Tensor) -> Tensor:
        return task.solve(j, g, tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        task, j, g, *tensors = inputs
        ctx.task = task
        ctx.save_for_backward(j, g, output, *tensors)
        ctx.save_for_forward(j, g, output, *tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        (w,) = cotangents
        j, g, v, *tensors = ctx.saved_tensors
        task: LinearTask = ctx.task
        T = task.operator(tuple(tensors))
        t = linear_equilibrium(task.flipped(), j, w, *tensors)
        dj = (w + T.adjoint(t)) * (T.apply(v) + g)
        return None, dj, t, *task.pullback(tuple(tensors), v, t)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        _, dj, dg, *dtensors = tangents
        j, g, v, *tensors = ctx.saved_tensors
        task: LinearTask = ctx.task
        T = task.operator(tuple(tensors))
        inner = torch.zeros_like(v) if dg is None else dg
        if any(d is not None for d in dtensors):
            W = task.W.rebuild(tuple(tensors))
            push = W.adjoint_pushforward if task.transposed else W.pushforward
            inner = inner + push(tuple(dtensors), v)
        outer = torch.zeros_like(v) if dj is None else dj * (T.apply(v) + g)
        return outer + linear_equilibrium(task, j, inner + T.apply(outer), *tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return _vmap(LinearEquilibrium, 1, info, in_dims, args)


def declare_signature(function: type[torch.autograd.Function]) -> None:
    """Spare ``apply`` from working out the signature of ``forward`` at every call (60 microseconds each)."""
    forward: Any = function.forward
    forward.__signature__ = inspect.signature(forward)


declare_signature(Equilibrium)
declare_signature(LinearEquilibrium)


def linear_equilibrium(task: LinearTask, j: Tensor, g: Tensor, *tensors: Tensor) -> Tensor:
    """v with v = j ∘ (T v + g), (batch, n), differentiable any number of times."""
    if not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
        return task.solve(j, g, tensors)
    return LinearEquilibrium.apply(task, j, g, *tensors)  # type: ignore[no-untyped-call]


def _vmap(function: Any, outputs: int, info: Any, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> tuple[Any, Any]:
    """Rows of a mapped batch are rows: one larger solve. Only a mapped W needs a solve of its own for each."""
    size = info.batch_size
    task, first, second, *tensors = args
    if all(dim is None for dim in in_dims[3:]):

        def rows(x: Tensor | None, dim: int | None) -> Tensor | None:
            if x is None:
                return None
            x = x.unsqueeze(0).expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
            return x.reshape(-1, x.shape[-1])

        flat = function.apply(task, rows(first, in_dims[1]), rows(second, in_dims[2]), *tensors)
        parts = flat if outputs > 1 else (flat,)
        results = tuple(part.reshape(size, -1, part.shape[-1]) for part in parts)
    else:
        single = [
            function.apply(
                task,
                *(a if d is None or a is None else a.select(d, i) for a, d in zip(args[1:], in_dims[1:], strict=True)),
            )
            for i in range(size)
        ]
        columns = list(zip(*single, strict=True)) if outputs > 1 else [tuple(single)]
        results = tuple(torch.stack(column) for column in columns)
    return (results, (0,) * outputs) if outputs > 1 else (results[0], 0)
