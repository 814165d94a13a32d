"""In which inputs the outputs of a form only rise, or only fall (mathematics 8).

Write D = D' + β S with directions S_kj of 1, -1 and 0. If no output of the network with D' in the place of D moves by
more than β times the move of one input, then y_k never falls where ξ_j grows and S_kj = 1, and never rises where
S_kj = -1: β outweighs the rest. So this is a bound on slopes, for another D, from the sum of inputs' moves to the
largest of the outputs', and it is proved as such bounds are. By the comparison matrix (linf.md 1), (1 - uM) |Δz| <=
u |U| |Δξ|, so that any v >= 0 with vᵀ(1 - uM) >= |C_k| gives |C_k Δz| <= vᵀ u |U| |Δξ|. Or a quadratic form gives the
ℓ2 bound β, and no ℓ2 norm exceeds the sum of the entries, nor is it exceeded by the largest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equilip.activations import slope_bounds
from equilip.certify.bounds import Slopes, lipschitz, prove, slopes_of
from equilip.certify.system import HasForm, array, as_form
from equilip.errors import IllPosedError, InputError, ProofError
from equilip.form import Form
from equilip.operators import Dense, WithProof
from equilip.rounding import Array, upper_sum
from equilip.solve.comparison import Comparison

Directions = NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Monotone:
    """Proved: y_k never falls where x_j grows and ``directions[k, j]`` is 1, never rises where it is -1.

    For every input there is one equilibrium, and these slopes are at least 0 (at most 0) for the stored numbers, in raw
    units as in standardised ones. directions: (q, p). bound: β, the coefficient that outweighs the rest. comparison:
    v (outputs with a direction, n) where the comparison matrix proves it, else None; multipliers: (n,) where a
    quadratic form does, else None. ``seconds``: time taken. ``form_sha256``: the form it speaks of.
    """

    directions: Directions
    bound: float
    comparison: Array | None
    multipliers: Array | None
    slopes: tuple[Slopes, ...]
    seconds: float
    form_sha256: str

    @property
    def method(self) -> str:
        """Which proof it is: "comparison" or "quadratic"."""
        return "quadratic" if self.comparison is None else "comparison"


def monotone(
    model: Form | HasForm,
    directions: Sequence[int] | Tensor | Directions | None = None,
    *,
    bound: float | None = None,
    seconds: float = 60.0,
) -> Monotone:
    """Prove that outputs of ``model`` are monotone in chosen inputs.

    directions: (p,) or (q, p) entries 1 (never falls), -1 (never rises) and 0 (nothing is claimed). bound: β. Both are
    those of an ``nn.MonotonicWrapper`` where left out; for other models β is then the smallest S_kj D_kj of D.
    ``seconds``: a budget for the search of multipliers.

    Raises ProofError where no proof is found: not every monotone network has the shape that this can see.
    """
    form, start = as_form(model), time.monotonic()
    if isinstance(form.W, WithProof):
        raise InputError("what is monotone is proved for networks of matrices, not for convolutional ones")
    if directions is None:
        directions = getattr(model, "directions", None)
        bound = getattr(model, "slope", None) if bound is None else bound
    if directions is None:
        raise InputError("directions are needed: 1, -1 or 0 for every input")
    S = _checked(directions, form)
    if bound is None:
        bound = float((S * array(form.D))[S != 0].min())
    if not (np.isfinite(bound) and bound > 0):
        raise ProofError(
            f"the linear term cannot outweigh anything: its smallest coefficient in a direction claimed is {bound:g}; "
            "claim fewer inputs, or wrap the network in nn.MonotonicWrapper"
        )
    rest = _rest(form, S, bound)
    v = _comparison(rest, S, bound)
    multipliers = None if v is not None else _multipliers(rest, bound, seconds)
    if v is None and multipliers is None:
        raise ProofError(
            f"what is left beside the linear term of coefficient {bound:g} could not be proved to be outweighed by it: "
            "claim fewer inputs, or wrap a network with a bound in nn.MonotonicWrapper"
        )
    return Monotone(S, bound, v, multipliers, slopes_of(form), time.monotonic() - start, form.sha256)


def _checked(directions: Sequence[int] | Tensor | Directions, form: Form) -> Directions:
    given = directions.detach().cpu().numpy() if isinstance(directions, Tensor) else np.asarray(directions)
    shape = (form.out_size, form.in_size)
    if given.shape not in (shape, shape[1:]) or not np.isin(given, (-1, 0, 1)).all():
        raise InputError(f"directions must be 1, -1 or 0, of shape {shape[1:]} or {shape}, got {given.shape}")
    if not given.any():
        raise InputError("directions are all 0: there is nothing to claim")
    return np.ascontiguousarray(np.broadcast_to(given, shape).astype(np.int8))


def _rest(form: Form, S: Directions, bound: float) -> Form:
    """The form with D - β S for D, exactly, and only the inputs and outputs that something is claimed of."""
    D = array(form.D)
    left = D - bound * S
    for k, j in zip(*np.nonzero(S), strict=True):
        if Fraction(D[k, j]) - Fraction(bound) * int(S[k, j]) != Fraction(left[k, j]):
            raise ProofError(
                f"D less {bound!r} is no float at output {k}, input {j}: use the wrapper's own slope as bound"
            )
    outputs, inputs = np.flatnonzero(S.any(1)), np.flatnonzero(S.any(0))
    wide = form.to(torch.float64)
    return replace(
        wide,
        U=Dense(wide.U.dense()[:, inputs]),
        C=Dense(wide.C.dense()[outputs]),
        D=Dense(torch.from_numpy(left[np.ix_(outputs, inputs)])),
        c=wide.c[outputs],
        standardisation=None,
    )


def _comparison(rest: Form, S: Directions, bound: float) -> Array | None:
    """v (k, n), a little above the least, so that exact arithmetic finds its inequalities true; None where it fails."""
    u = slope_bounds(rest.activation, rest.hidden_size)[1].numpy()
    comparison = Comparison.make(np.ascontiguousarray((u[:, None] * array(rest.W)).T), np.ones(u.size))
    if comparison is None:
        return None
    v = comparison.bound(np.abs(array(rest.C)))
    # Neurons that are not read count a little too, so that the inequalities are strict for them.
    read = np.where(v > 0, v / comparison.weight, np.inf).min(1, initial=np.inf, keepdims=True)
    v = (v + 2.0**-50 * np.where(np.isfinite(read), read, 1e-30) * comparison.weight) * (1.0 + 2.0**-40)
    reads = np.nextafter(np.nextafter(v * u, np.inf)[:, :, None] * np.abs(array(rest.U)), np.inf)
    feed = np.abs(array(rest.D))[:, None, :]
    moved = upper_sum(np.concatenate([reads, feed], axis=1), axis=1)
    # Only the pairs of output and input that something is claimed of have to be outweighed.
    claimed = S[np.ix_(np.flatnonzero(S.any(1)), np.flatnonzero(S.any(0)))] != 0
    return v if bool(np.isfinite(v).all()) and bool((moved <= bound)[claimed].all()) else None


def _multipliers(rest: Form, bound: float, seconds: float) -> Array | None:
    """Multipliers (n,) that prove the ℓ2 bound of what is left; None where none are found."""
    try:
        return prove(rest, bound).multipliers
    except (IllPosedError, ProofError):
        pass
    try:
        found = lipschitz(rest, seconds=seconds)
        return prove(rest, bound, multipliers=found.multipliers).multipliers if found.value <= bound else None
    except (IllPosedError, ProofError):
        return None
