"""Bounds that hold inside a ball only, where many neurons cannot change their slope (mathematics 9.5)."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equilip import activations
from equilip.activations import ELU, Activation, HardTanh, Identity, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from equilip.certify.bounds import Bound, tightest
from equilip.certify.margins import arguments, inputs_of, solve
from equilip.certify.pairs import own_bound, prove_rows
from equilip.certify.system import HasForm, Head, Indices, System, array, as_form, build, from_form
from equilip.errors import IllPosedError, InputError, ProofError
from equilip.form import Form
from equilip.rounding import Array, gamma

#: Outward rounding of computed slopes of smooth activations, far above the error of any mathematical library.
_SLOPE_ERROR = 2.0**-40


@dataclass(frozen=True, eq=False)
class LocalBound:
    """|y(x) - y(x')| <= ``value_raw`` |x - x'| in l2 for all x and x' with |x - center| <= radius >= |x' - center|.

    Valid ONLY inside that ball, in raw input units (``center`` (p,), ``radius``); outside nothing is said. ``fixed``:
    how many neurons keep one slope there. Proved for the stored numbers; never above the global bound.
    """

    value_raw: float
    center: Tensor
    radius: float
    fixed: int
    seconds: float
    form_sha256: str
    norm: str = "l2"


class Localiser:
    """Finds the slopes that the neurons of a form can have in a ball; made once for a form, used for many balls.

    ``bound`` is the form's global one, whose multipliers bound how fast each neuron's argument can change.
    """

    def __init__(self, form: Form, bound: Bound) -> None:
        self.form, self.bound = form, bound
        system = from_form(form, raw=True)
        lam = system.adopt(bound.multipliers_raw)
        arguments = Head(system.W, system.U)
        self.speed = prove_rows(system, lam, arguments, np.full(system.size, np.inf))
        self._double = form.to(torch.float64, torch.device("cpu"))
        self._norms = np.linalg.norm(array(form.W), axis=1) * (1.0 + gamma(form.hidden_size + 4))

    def arguments(self, x: Tensor) -> tuple[Array, Array]:
        """s = W z + U xi + b at the equilibria of ``x`` (batch, p), and error bounds for each entry: (batch, n)."""
        x = x.to("cpu", torch.float64)
        z, error = solve(self.form, x, torch.from_numpy(self.bound.multipliers))
        s, doubt = arguments(self._double, x, z)
        return array(s), (array(doubt) + self._norms * array(error)[:, None]) * (1.0 + 2.0**-40)

    def slopes(self, s: Array, doubt: Array, radius: float) -> tuple[Array, Array]:
        """Slope intervals (n,), (n,) of all neurons in the ball of that raw radius around one sample."""
        reach = (radius * self.speed + doubt) * (1.0 + 2.0**-50)
        low, high = np.nextafter(s - reach, -np.inf), np.nextafter(s + reach, np.inf)
        lower, upper = np.empty_like(s), np.empty_like(s)
        start = 0
        for own, size in activations.blocks(self.form.activation, s.size):
            part = slice(start, start + size)
            lower[part], upper[part] = slope_range(own, low[part], high[part])
            start += size
        return lower, upper

    def system(self, lower: Array, upper: Array) -> System:
        """The network with these slopes, the neurons of fixed slope eliminated, for raw inputs."""
        return build(self.form, lower, upper, raw=True)


def slope_range(own: Activation, low: Array, high: Array) -> tuple[Array, Array]:
    """The smallest and largest slope of an activation between ``low`` and ``high``, rounded outward, elementwise."""
    lowest, highest = own.interval
    zero, one = np.zeros_like(low), np.ones_like(low)
    if isinstance(own, ReLU | LeakyReLU):
        return np.where(low >= 0.0, 1.0, lowest * one), np.where(high <= 0.0, lowest * one, 1.0)
    if isinstance(own, HardTanh):
        inside = (low >= own.lower) & (high <= own.upper)
        outside = (high <= own.lower) | (low >= own.upper)
        return np.where(inside, one, zero), np.where(outside, zero, one)
    if isinstance(own, Identity):
        return one, one
    if isinstance(own, Tanh | Sigmoid):  # the slope falls with the distance from zero
        far = np.maximum(np.abs(low), np.abs(high))
        near = np.where((low <= 0.0) & (high >= 0.0), 0.0, np.minimum(np.abs(low), np.abs(high)))
        least, most = _slope(own, far), _slope(own, near)
    elif isinstance(own, Softplus | ELU):  # the slope rises
        least, most = _slope(own, low), _slope(own, high)
    else:
        return lowest * one, highest * one
    least = np.clip(least * (1.0 - _SLOPE_ERROR), lowest, highest)
    return least, np.clip(most * (1.0 + _SLOPE_ERROR) + 1e-300, least, highest)


def _slope(own: Activation, s: Array) -> Array:
    return array(own.slope(torch.from_numpy(np.ascontiguousarray(s))))


def lipschitz_local(
    model: Form | HasForm,
    x: Tensor,
    radius: float,
    *,
    bound: Bound | None = None,
    method: str = "sdp",
    seconds: float = 60.0,
) -> LocalBound:
    """The smallest l2 Lipschitz bound that can be proved inside the ball |x' - x| <= radius, in raw units.

    ``x`` (p,) or (1, p), raw. The result is valid inside the ball only. ``bound``: the global one, computed where
    absent. Raises InputError for unusable arguments, and what :func:`lipschitz` raises.
    """
    form = as_form(model)
    x, _ = inputs_of(form, x, None)
    if x.shape[0] != 1:
        raise InputError(f"a local bound is about one ball, got {x.shape[0]} centers")
    if not (np.isfinite(radius) and radius > 0.0):
        raise InputError(f"the radius must be a positive number, got {radius}")
    bound = own_bound(form, bound)
    start = time.monotonic()
    localiser = Localiser(form, bound)
    s, doubt = localiser.arguments(x)
    lower, upper = localiser.slopes(s[0], doubt[0], radius)
    value = bound.value_raw
    try:
        system = localiser.system(lower, upper)
        proved = tightest(system, bound.multipliers_raw, method=method, deadline=start + seconds)
        value = min(value, proved.gamma)
    except (IllPosedError, ProofError):
        pass  # the global bound holds in the ball as well
    return LocalBound(
        value_raw=value,
        center=x[0],
        radius=radius,
        fixed=int((lower == upper).sum()),
        seconds=time.monotonic() - start,
        form_sha256=bound.form_sha256,
    )


def grow(
    localiser: Localiser, s: Array, doubt: Array, label: int, margin: Array, radius: float, *, steps: int = 6
) -> float:
    """The largest radius, at least ``radius``, that local bounds certify for one sample, by bisection on the ball.

    ``margin`` (q,): proved margins over the other classes, infinite at ``label``. A ball of radius r certifies
    min(r, margin / (bound inside the ball)).
    """
    others = np.flatnonzero(np.isfinite(margin))
    if radius <= 0.0 or others.size == 0:
        return radius
    low, high, best = radius, 4.0 * radius, radius
    for _ in range(steps):
        middle = float(np.sqrt(low * high))
        reached = _reach(localiser, s, doubt, label, margin, others, middle)
        best = max(best, min(middle, reached))
        if reached >= middle:
            low = middle
        else:
            high = max(low * 1.0001, min(middle, high))
    return best


def _reach(
    localiser: Localiser, s: Array, doubt: Array, label: int, margin: Array, others: Indices, radius: float
) -> float:
    lower, upper = localiser.slopes(s, doubt, radius)
    try:
        system = localiser.system(lower, upper)
        lam = system.adopt(localiser.bound.multipliers_raw)
        combination = np.zeros((others.size, margin.size))
        combination[:, label] = 1.0
        combination[np.arange(others.size), others] = -1.0
        head = system.head.rows(combination)
        slopes = prove_rows(system, lam, head, np.full(others.size, np.inf))
    except (IllPosedError, np.linalg.LinAlgError):
        return 0.0
    ratio = float((margin[others] / slopes).min())
    return float(np.nextafter(ratio, 0.0)) if np.isfinite(ratio) else 0.0
