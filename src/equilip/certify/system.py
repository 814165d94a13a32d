"""The numbers of a form as proofs want them: matrices in float64, slopes brought to [0, 1], the unit of the input.

For neurons with slopes in [l, u] the increments obey dz = l ds + r dw with r = u - l and dw/ds in [0, 1]. Solving
for ds gives an equation of the same shape in w (mathematics 9.3, 9.5), so that everything after this file knows
slopes in [0, 1] only. Neurons whose slope is fixed (l = u) disappear on the way, exactly. The inverse that this
takes is enclosed, so the result is an enclosure of the true system, and proofs about it speak of the stored numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from equilip.activations import slope_bounds
from equilip.certify.enclosure import Enclosure, block, inverse
from equilip.errors import IllPosedError, InputError
from equilip.form import Form
from equilip.operators import Contraction, Operator, WithProof, Zero
from equilip.rounding import Array

#: Above this many neurons no matrix of the neurons is formed.
MAX_NEURONS = 8000


Indices = NDArray[np.intp]


class HasForm(Protocol):
    """A model: anything that can say which form it is."""

    def form(self) -> Form: ...


def as_form(model: Form | HasForm) -> Form:
    """The form of a model, or the form itself, detached from any gradient.

    Raises InputError for anything else, and for a form that holds NaN or infinity or is too large for proofs.
    """
    if isinstance(model, Form):
        form = model
    elif callable(getattr(model, "form", None)):
        form = model.form()
    else:
        raise InputError(f"a certificate needs a Form or a model with a form() method, got {type(model).__name__}")
    if form.hidden_size > MAX_NEURONS and not isinstance(form.W, WithProof | Contraction):
        raise InputError(
            f"{form.hidden_size} neurons: proofs form a matrix of the neurons and stop at {MAX_NEURONS}; "
            "certify a smaller network, the chain() of a Stack, or rely on its parametrisation's guarantee()"
        )
    for name in ("W", "U", "C", "D"):
        for tensor in getattr(form, name).tensors:
            if not bool(tensor.isfinite().all()):
                raise InputError(f"{name} holds NaN or infinity: nothing can be proved about such a network")
    return form.detach()


def array(value: Tensor | Operator) -> Array:
    """A tensor's or operator's exact numbers as a float64 array on the CPU."""
    tensor = value.dense() if isinstance(value, Operator) else value
    return cast(Array, np.ascontiguousarray(tensor.detach().cpu().double().numpy()))


@dataclass(frozen=True, eq=False)
class Head:
    """Rows read from the network: dy = C dw + D dxi, with C (q, n) and D (q, p) or None where it is zero."""

    C: Enclosure
    D: Enclosure | None

    def rows(self, combination: Array) -> Head:
        """The head of ``combination`` (k, q) times these rows, such as differences of two outputs."""
        exact = Enclosure.exact(combination)
        return Head(exact @ self.C, None if self.D is None else exact @ self.D)


@dataclass(frozen=True, eq=False)
class System:
    """ds = W dw + U dxi with dw/ds in [0, 1] and dy = C dw + D dxi, for increments of a network.

    W: (n, n), U: (n, p), ``head``: C (q, n) and D (q, p). ``unit`` (p,): the norm of the input is |unit * dxi|, so
    ``unit`` is None for standardised and std for raw inputs. ``kept`` (n,) are the indices of the form's neurons that
    are left, ``width`` (n,) their u - l: a neuron's multiplier in the form is that in the system divided by width².
    """

    W: Enclosure
    U: Enclosure
    head: Head
    unit: Array | None
    kept: Indices
    width: Array
    neurons: int

    @property
    def size(self) -> int:
        return self.W.shape[0]

    @cached_property
    def scaled_inputs(self) -> Enclosure:
        """U / unit: input weights for an input in the unit of the norm."""
        return self.U if self.unit is None else self.U / self.unit

    @cached_property
    def gram(self) -> Enclosure:
        """(U / unit) (U / unit)', (n, n): all that a proof has to know of U when D is zero."""
        return self.scaled_inputs @ self.scaled_inputs.T

    def scaled_feed(self, head: Head) -> Enclosure | None:
        """D / unit of a head."""
        if head.D is None or self.unit is None:
            return head.D
        return head.D / self.unit

    def full_gram(self, head: Head) -> Enclosure:
        """The Gram matrix of the rows of U / unit and D / unit, (n + q, n + q)."""
        feed = self.scaled_feed(head)
        if feed is None:
            n, q = self.size, head.C.shape[0]
            none = Enclosure.exact(np.zeros((q, n)))
            return block([[self.gram, none.T], [none, Enclosure.exact(np.zeros((q, q)))]])
        cross = feed @ self.scaled_inputs.T
        return block([[self.gram, cross.T], [cross, feed @ feed.T]])

    def with_head(self, head: Head) -> System:
        """The same network read by other rows; the Gram matrix of U is kept."""
        other = replace(self, head=head)
        for name in ("scaled_inputs", "gram"):
            other.__dict__[name] = getattr(self, name)
        return other

    def restore(self, lam: Array) -> Array:
        """Multipliers of the form's neurons, (neurons,), from the system's; 0 for neurons that disappeared."""
        full = np.zeros(self.neurons)
        full[self.kept] = lam / self.width**2
        return full

    def adopt(self, lam: Array) -> Array:
        """The system's multipliers from the form's: the inverse of :meth:`restore`, up to rounding."""
        return lam[self.kept] * self.width**2


def from_form(form: Form, *, raw: bool) -> System:
    """The system of a form, with respect to the raw input or to the standardised one.

    Neurons of fixed slope get a sliver of freedom (1e-4), so that each has a multiplier: a proof with more
    freedom holds with less. Raises IllPosedError where slopes above zero make the equation singular.
    """
    lower, upper = (array(t) for t in slope_bounds(form.activation, form.hidden_size))
    fixed = lower == upper
    return build(form, np.where(fixed, lower - 1e-4, lower), np.where(fixed, upper + 1e-4, upper), raw=raw)


def build(form: Form, lower: Array, upper: Array, *, raw: bool) -> System:
    """The system of a form whose neurons have slopes in [lower, upper] (n,), as an enclosure.

    Neurons with lower = upper are eliminated. Raises IllPosedError when the elimination meets a singular matrix.
    """
    if isinstance(form.W, WithProof):
        raise InputError(
            "this proof needs the matrices of a network, and those of a convolutional one are only known up to "
            "rounding; certify.lipschitz, certify.rows and certify.radius prove by its construction"
        )
    if isinstance(form.W, Contraction):
        raise InputError(
            "only l-infinity slopes of a convolutional contracting network are proved: use certify.lipschitz_linf, "
            "or on the command line --norm linf"
        )
    W, U, C = (Enclosure.exact(array(op)) for op in (form.W, form.U, form.C))
    D = None if isinstance(form.D, Zero) else Enclosure.exact(array(form.D))
    if D is not None and not D.mid.any():
        D = None
    standardisation = form.standardisation
    unit = array(standardisation.std) if raw and standardisation is not None else None
    lifted = np.flatnonzero(lower != 0.0)
    if lifted.size:
        W, U, C, D = _solve_slopes(W, U, C, D, lifted, lower[lifted])
    # A range rounded up only gives the slopes more freedom.
    exact = (lower == 0.0) | (lower == upper)
    width = np.where(exact, upper - lower, np.nextafter(upper - lower, np.inf))
    kept = np.flatnonzero(width > 0.0)
    width = width[kept]
    W, C = W[np.ix_(kept, kept)], C[:, kept]
    if not (width == 1.0).all():
        W, C = W * width, C * width
    return System(W, U[kept], Head(C, D), unit, kept, width, form.hidden_size)


def _solve_slopes(
    W: Enclosure, U: Enclosure, C: Enclosure, D: Enclosure | None, a: Indices, lower: Array
) -> tuple[Enclosure, Enclosure, Enclosure, Enclosure | None]:
    """(I - W L)^-1 applied to W and U, and the head that goes with it, for slopes ``lower`` of the neurons ``a``."""
    eye = Enclosure.exact(np.eye(a.size))
    solve = inverse(eye - W[np.ix_(a, a)] * lower)
    if solve is None:
        raise IllPosedError(
            "the equation is singular at the smallest slopes of its activation: it need not have one equilibrium"
        )
    own_W, own_U = solve @ W[a], solve @ U[a]
    into = W[:, a] * lower
    read = C[:, a] * lower
    new_W, new_U = W + into @ own_W, U + into @ own_U
    for target, rows in ((new_W, own_W), (new_U, own_U)):
        target.mid[a], target.rad[a] = rows.mid, rows.rad
    feed = read @ own_U
    return new_W, new_U, C + read @ own_W, feed if D is None else D + feed
