"""The network under attack: solved fast to search, and in float64 to believe what the search found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from equilip.certify.bounds import Bound
from equilip.certify.chained import outputs
from equilip.certify.product import ProductBound, own_product
from equilip.certify.system import HasForm, as_form
from equilip.chain import Chain, Network
from equilip.errors import InputError
from equilip.form import Form
from equilip.operators import Zero
from equilip.rounding import Array, gamma
from equilip.solve import Plan, Prover, Settings, equilibrium

#: Relative residual asked of everything that is reported; what float64 cannot resolve for a W is raised from it.
TIGHT = 1e-12

#: Relative residual that float32 must be able to reach for the search to use it.
USABLE = 1e-3

#: Covers the few roundings in sums of non-negative terms.
_GROW = 1.0 + 2.0**-40


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the network does at points, solved in float64.

    z: (batch, n) and y: (batch, q). rounding: (batch, q), what rounding leaves open about each entry of y. error:
    (batch,), a proved bound on the distance of z to the exact equilibrium; 0 where the target waives proofs. converged:
    (batch,) bool, whether the point counts: the error is proved, or else the solver reached its tolerance.
    """

    z: Tensor
    y: Tensor
    rounding: Tensor
    error: Tensor
    converged: Tensor
    _distances: Tensor

    @property
    def predicted(self) -> Tensor:
        """(batch,) the class; -1 where the solver found no equilibrium."""
        return torch.where(self.converged, self.y.argmax(dim=1), -1)

    def misses(self, label: Tensor) -> Tensor:
        """(batch,) bool: whether another class is certainly above ``label`` (batch,), all errors counted."""
        column = label[:, None]
        doubt = self.rounding + self.rounding.gather(1, column) + self._distances[label] * self.error[:, None]
        lead = self.y - self.y.gather(1, column) - doubt * _GROW
        return (lead.scatter(1, column, -torch.inf) > 0).any(dim=1) & self.converged


class Target(ABC):
    """A network made ready to be attacked: ``exact`` in float64 on the CPU, ``fast`` to search with.

    ``fast`` has the device of the original. ``proved``: whether errors are.
    """

    original: Network
    exact: Network
    fast: Network
    proved: bool

    @classmethod
    def of(
        cls,
        model: Network | HasForm | Target,
        *,
        require_well_posed: bool = True,
        multipliers: Array | None = None,
        bound: Bound | None = None,
    ) -> Target:
        """Prepare a model (or a form, or a chain); a Target is handed back as it is.

        ``require_well_posed=False`` admits a W for which nothing proves that there is one equilibrium: points count
        then if the solver converges, and nothing about them is proved. Otherwise IllPosedError is raised for such a W.
        ``multipliers`` (n,), such as a proved bound's, help to see that there is one. ``bound`` is a chain's, from
        which the errors of its outputs follow; computed where absent. InputError for anything that has no form, or one
        with NaN.
        """
        if isinstance(model, Target):
            return model
        if isinstance(model, Chain):
            return ChainTarget.of_chain(model, bound)
        return FormTarget.of_form(model, require_well_posed, multipliers)

    @property
    def in_size(self) -> int:
        return self.exact.in_size

    @property
    def out_size(self) -> int:
        return self.exact.out_size

    @cached_property
    def sha256(self) -> str:
        """The digest of the network's file."""
        return self.original.sha256

    @property
    @abstractmethod
    def gain(self) -> float:
        """How far the output moves per distance of z, at most."""

    @abstractmethod
    def judge(self, x: Tensor) -> Judgement:
        """Solve for raw points x (batch, p), with proved errors."""

    @abstractmethod
    def answer(self, x: Tensor) -> Tensor:
        """y (batch, q) of raw points x (batch, p) in the search's format, differentiable."""

    def output(self, x: Tensor) -> Tensor:
        """The same without gradients."""
        with torch.no_grad():
            return self.answer(x)

    def gradient(self, x: Tensor, cotangent: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """y (batch, q) and the gradients (batch, p) of Σ y · cotangent(y), the cotangent (batch, q) held fixed."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = self.answer(x)
            (gradient,) = torch.autograd.grad(y, x, cotangent(y.detach()))
        return y.detach(), self._finite(gradient)

    def gradients(self, x: Tensor, cotangents: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """The same for several cotangents (k, batch, q) at once: y and gradients (k, batch, p)."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            y = self.answer(x)
            several = cotangents(y.detach())
            last = len(several) - 1
            parts = [torch.autograd.grad(y, x, c, retain_graph=k < last)[0] for k, c in enumerate(several)]
        return y.detach(), self._finite(torch.stack(parts))

    def _finite(self, gradient: Tensor) -> Tensor:
        """Without a proof some samples have no equilibrium, and no gradient."""
        return gradient if self.proved else gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


@dataclass(frozen=True, eq=False)
class FormTarget(Target):
    """A form: ``fast`` is float32, or float64 where float32 cannot resolve this W."""

    original: Form
    exact: Form
    fast: Form
    _exact_plan: Plan
    _fast_plan: Plan
    proved: bool

    @classmethod
    def narrow(cls, model: Network | HasForm | Target) -> FormTarget:
        """:meth:`Target.of`, and InputError for a chain."""
        target = Target.of(model)
        if not isinstance(target, FormTarget):
            raise InputError("a chain of layers is attacked in l2 only: its neurons are too many for one form")
        return target

    @classmethod
    def of_form(cls, model: Form | HasForm, require_well_posed: bool, multipliers: Array | None) -> FormTarget:
        """See :meth:`Target.of`."""
        with torch.no_grad():
            form = as_form(model)
        known = form if multipliers is None else replace(form, lam=torch.from_numpy(multipliers))
        exact = known.to(torch.float64, torch.device("cpu"))
        resolution = 16 * torch.finfo(torch.float64).eps * exact.W.norm_bound()
        tight = Settings(
            tolerance=min(max(TIGHT, resolution), 0.1), raise_on_failure=False, require_well_posed=require_well_posed
        )
        exact_plan = Plan(tight, exact.lam, fixed=True)
        exact_plan.prepared(exact.W)
        loose = Settings(raise_on_failure=False, require_well_posed=require_well_posed)
        fast = known.to(torch.float32, form.device)
        fast_plan = Plan(loose, fast.lam, fixed=True)
        fast_plan.prepared(fast.W)
        if fast_plan.goal(torch.float32) > USABLE:
            fast = known.to(torch.float64, form.device)
            fast_plan = Plan(loose, fast.lam, fixed=True)
            fast_plan.prepared(fast.W)
        return cls(form, exact, fast, exact_plan, fast_plan, require_well_posed)

    @cached_property
    def gain(self) -> float:
        return self.exact.C.norm_bound()

    @cached_property
    def _prover(self) -> Prover:
        return Prover(self.exact)

    @cached_property
    def _distances(self) -> Tensor:
        """(q, q): ‖C_i - C_j‖, rounded up."""
        C = self.exact.C.dense()
        return torch.cdist(C, C, compute_mode="donot_use_mm_for_euclid_dist") * (1 + gamma(C.shape[1] + 4))

    def judge(self, x: Tensor) -> Judgement:
        """Solve for raw points x (batch, p), with proved errors."""
        form = self.exact
        x = x.detach().to("cpu", torch.float64)
        with torch.no_grad():
            solution = equilibrium(
                form, x, self._exact_plan.settings, plan=self._exact_plan, prover=lambda: self._prover
            )
            xi = form.standardise(x)
            size = solution.z.abs() @ form.C.dense().abs().mT + form.c.abs()
            if not isinstance(form.D, Zero):
                size = size + _magnitude(form, x) @ form.D.dense().abs().mT
            rounding = gamma(form.hidden_size + form.in_size + 8) * size * _GROW
            y = form.output(solution.z, xi)
        if self.proved:
            # The proved error says how far z is from the truth, whatever tolerance was reached.
            error, believed = solution.error, solution.error.isfinite()
        else:
            error, believed = torch.zeros_like(solution.residual), solution.converged
        return Judgement(solution.z, y, rounding, error, believed, self._distances)

    def answer(self, x: Tensor) -> Tensor:
        return equilibrium(self.fast, x, self._fast_plan.settings, plan=self._fast_plan).y


@dataclass(frozen=True, eq=False)
class ChainTarget(Target):
    """A chain of layers, with the bound from which the errors of its outputs follow; ``fast`` is float32."""

    original: Chain
    exact: Chain
    fast: Chain
    bound: ProductBound
    proved: bool = True

    @classmethod
    def of_chain(cls, chain: Chain, bound: Bound | None) -> ChainTarget:
        """See :meth:`Target.of`."""
        chain = chain.detach()
        exact = chain.to(torch.float64, torch.device("cpu"))
        return cls(chain, exact, chain.to(torch.float32), own_product(chain, bound))

    @property
    def gain(self) -> float:
        """There is no z: all errors are those of the output."""
        return 0.0

    def judge(self, x: Tensor) -> Judgement:
        found = outputs(self.exact, x, self.bound)
        q, error = self.out_size, found.error
        return Judgement(
            error.new_zeros(len(error), 0), found.y, error[:, None].expand(-1, q), torch.zeros_like(error),
            error.isfinite(), error.new_zeros(q, q),
        )  # fmt: skip

    def answer(self, x: Tensor) -> Tensor:
        return self.fast.apply(x)


def _magnitude(form: Form, x: Tensor) -> Tensor:
    standardisation = form.standardisation
    if standardisation is None:
        return x.abs()
    return (x.abs() + standardisation.mean.abs()) / standardisation.std
