"""Which samples keep their class while every input entry moves by up to eps: boxes, slopes, l2 bounds (linf.md 5)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equilip.certify.bounds import Bound, lipschitz
from equilip.certify.boxes import reachable
from equilip.certify.channels import pairs_by_channels
from equilip.certify.linf import TRACE_SIZE, RowSearch
from equilip.certify.margins import inputs_of, margins
from equilip.certify.radius import radius
from equilip.certify.system import HasForm, as_form
from equilip.errors import IllPosedError, InputError, ProofError
from equilip.form import Form
from equilip.operators import Contraction
from equilip.rounding import Array, up


@dataclass(frozen=True, eq=False)
class LinfCertified:
    """For every sample, (batch,) bool, whether each method proves that no raw input within ``eps`` changes the class.

    All False for a method that proves nothing about this network. ``limits``: the range that inputs are kept to.
    """

    eps: float
    limits: tuple[float, float] | None
    by_box: Tensor
    by_slope: Tensor
    by_l2: Tensor

    @property
    def certified(self) -> Tensor:
        """(batch,) bool: whether some method proves it."""
        return self.by_box | self.by_slope | self.by_l2

    @property
    def accuracy(self) -> float:
        """The share of samples that are certified, wrongly classified ones included as not."""
        return float(self.certified.double().mean()) if len(self.by_box) else 0.0


@dataclass(frozen=True, eq=False)
class LinfMargins:
    """What does not depend on eps: radii (batch,) in ℓ∞, by slopes of pairs of outputs, and by l2 over sqrt(p)."""

    by_slope: Tensor
    by_l2: Tensor
    seconds: float


def linf_pairs(model: Form | HasForm, *, seconds: float = 60.0) -> Array:
    """Proved bounds (q, q) on |d(y_i - y_j)| / |dx|∞ in raw units; symmetric, zero on the diagonal.

    By the comparison matrix and by quadratic forms whose weights follow a rule, whichever is better for the pair.
    Raises what :func:`equilip.certify.lipschitz_linf` raises.
    """
    form = as_form(model)
    if isinstance(form.W, Contraction):
        return pairs_by_channels(form)
    q = form.out_size
    first, second = np.triu_indices(q, 1)
    differences = np.zeros((first.size, q))
    differences[np.arange(first.size), first] = 1.0
    differences[np.arange(first.size), second] = -1.0
    method = "scale" if form.hidden_size + form.in_size <= TRACE_SIZE else "comparison"
    try:
        search = RowSearch.of(form, raw=True, method=method, combination=differences)
        search.least(time.monotonic() + seconds)
    except IllPosedError:
        if method == "scale":
            raise
        search = RowSearch.of(form, raw=True, method="scale", combination=differences)
        search.least(time.monotonic() + seconds)
    table = np.zeros((q, q))
    table[first, second] = table[second, first] = search.bounds
    return table


def linf_margins(model: Form | HasForm, x: Tensor, label: Tensor, *, bound: Bound | None = None) -> LinfMargins:
    """Certified ℓ∞ radii by slopes, for :func:`certified_linf` at several eps; ``bound`` is the network's in l2.

    A radius is 0 where a method proves nothing.
    """
    start = time.monotonic()
    form = as_form(model)
    x, own = inputs_of(form, x, label)
    assert own is not None
    none = torch.zeros(len(x), dtype=torch.float64)
    own_metric = form.W.spectrum() if isinstance(form.W, Contraction) else None
    if own_metric is not None:
        try:
            return LinfMargins(_by_slope(form, x, own, own_metric.lam), none, time.monotonic() - start)
        except ProofError:
            return LinfMargins(none, none, time.monotonic() - start)
    try:
        bound = lipschitz(form, seconds=10.0) if bound is None else bound
    except (IllPosedError, ProofError):
        return LinfMargins(none, none, time.monotonic() - start)
    by_l2 = radius(form, x, own, bound=bound) / up(math.sqrt(form.in_size))
    try:
        by_slope = _by_slope(form, x, own, torch.from_numpy(bound.multipliers))
    except (IllPosedError, ProofError):
        by_slope = none
    return LinfMargins(by_slope, _down(by_l2), time.monotonic() - start)


def _by_slope(form: Form, x: Tensor, label: Tensor, multipliers: Tensor) -> Tensor:
    """Certified radii (batch,) by the ℓ∞ slopes of differences of outputs. Raises what :func:`linf_pairs` raises."""
    pairs = torch.from_numpy(linf_pairs(form))
    lower = margins(form, x, label, multipliers).lower
    slopes = pairs[label].clone()
    slopes[torch.arange(len(label)), label] = 1.0
    return _down((lower / slopes.clamp(min=1e-300)).amin(dim=1).clamp(min=0.0))


def certified_linf(
    model: Form | HasForm,
    x: Tensor,
    label: Tensor,
    eps: float,
    *,
    limits: tuple[float, float] | None = None,
    margins: LinfMargins | None = None,
) -> LinfCertified:
    """Which samples keep their class ``label`` (batch,) for every raw input x' with |x' - x|∞ <= eps: (batch, p).

    ``limits``: valid inputs, such as (0, 1) for images: then only x' between them count, which makes boxes smaller.
    ``margins``: what :func:`linf_margins` found for these samples; computed where absent. A sample is certified
    where any of three proofs goes through: by the box of its inputs, by slopes of pairs of outputs in ℓ∞, and by those
    in l2, a change of eps in ℓ∞ being one of at most sqrt(p) eps.

    Raises InputError for unusable inputs, a negative eps and samples outside the limits.
    """
    form = as_form(model)
    x, own = inputs_of(form, x, label)
    assert own is not None
    if not (math.isfinite(eps) and eps >= 0.0):
        raise InputError(f"eps is a distance in raw units, at least 0, got {eps}")
    if form.out_size < 2:
        raise InputError("a class needs at least two outputs")
    x = x.to("cpu", torch.float64)
    lower = torch.from_numpy(np.nextafter((x - eps).numpy(), -np.inf))
    upper = torch.from_numpy(np.nextafter((x + eps).numpy(), np.inf))
    if limits is not None:
        if len(x) and not (float(x.min()) >= limits[0] and float(x.max()) <= limits[1]):
            raise InputError(f"some inputs lie outside the limits {limits[0]:g} to {limits[1]:g}")
        lower, upper = lower.clamp(*limits), upper.clamp(*limits)
    try:
        by_box = (reachable(form, lower, upper).leads(own) > 0.0).all(dim=1)
    except IllPosedError:
        by_box = torch.zeros(len(x), dtype=torch.bool)
    margins = linf_margins(form, x, own) if margins is None else margins
    if margins.by_slope.shape != own.shape:
        raise InputError(f"the margins are of {len(margins.by_slope)} samples, and there are {len(own)}")
    return LinfCertified(eps, limits, by_box, margins.by_slope > eps, margins.by_l2 > eps)


def _down(values: Tensor) -> Tensor:
    """Rounded down, and never below 0."""
    return torch.from_numpy(np.nextafter(np.nextafter(values.numpy(), 0.0), 0.0))
