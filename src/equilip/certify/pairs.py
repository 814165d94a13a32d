"""Bounds for single outputs and for differences of two outputs, which is what a margin is."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from equilip.certify import programme
from equilip.certify.bounds import Bound, lipschitz, per_unit, uniform_std
from equilip.certify.rigour import Prover
from equilip.certify.scale import Metric
from equilip.certify.system import HasForm, Head, Indices, System, as_form, from_form
from equilip.chain import Chain, Network
from equilip.errors import InputError
from equilip.form import Form
from equilip.operators import WithProof
from equilip.rounding import Array, up

#: sqrt(2), rounded up: the norm of a difference of two coordinates.
SQRT2 = 1.4142135623730954
#: Factors by which a row's bound may be raised until its proof goes through.
_INFLATIONS = (1.0 + 2.0**-34, 1.0 + 2.0**-26, 1.0 + 2.0**-18, 1.0 + 2.0**-10)


@dataclass(frozen=True, eq=False)
class RowBounds:
    """Proved bounds |dy_i| <= ``outputs``[i] |d| and |d(y_i - y_j)| <= ``pairs``[i, j] |d|, in l2 of the input.

    ``outputs`` (q,) and ``pairs`` (q, q), symmetric with a zero diagonal, are for standardised inputs;
    ``outputs_raw`` and ``pairs_raw`` for raw ones. No output's bound exceeds the whole network's, and no pair's
    exceeds sqrt(2) times it. ``method``: "scale" or "sdp", as in :class:`equilip.certify.Bound`.
    """

    outputs: Array
    pairs: Array
    outputs_raw: Array
    pairs_raw: Array
    method: str
    seconds: float
    form_sha256: str


def _of_the_whole(bound: Bound, q: int) -> RowBounds:
    """What the bound of the whole network says of every output and every pair."""
    pairs = [np.where(np.eye(q) > 0, 0.0, up(SQRT2 * value)) for value in (bound.value, bound.value_raw)]
    outputs = [np.full(q, value) for value in (bound.value, bound.value_raw)]
    return RowBounds(outputs[0], pairs[0], outputs[1], pairs[1], "construction", 0.0, bound.form_sha256)


def rows(
    model: Network | HasForm, bound: Bound | None = None, *, method: str = "scale", seconds: float = 60.0
) -> RowBounds:
    """Bounds for every output and every pair of outputs of ``model``.

    ``bound`` is the whole network's, from :func:`lipschitz` (computed where absent); its multipliers prove the rows.
    ``method`` "scale" finds for each row the best multiple of them; "sdp" searches multipliers for each row anew, as
    far as ``seconds`` allow. Raises what :func:`lipschitz` raises, and InputError for a bound of another form.
    """
    if method not in ("scale", "sdp"):
        raise InputError(f"method {method!r} is unknown; choose scale or sdp")
    if isinstance(model, Chain):
        from equilip.certify.product import own_product, product_rows

        return product_rows(model, own_product(model, bound))
    form = as_form(model)
    bound = own_bound(form, bound)
    start = time.monotonic()
    if isinstance(form.W, WithProof):
        return _of_the_whole(bound, form.out_size)
    deadline = start + seconds
    q = form.out_size
    combination, first, second = _combinations(q)
    caps = np.append(np.full(q, bound.value), np.full(first.size, up(SQRT2 * bound.value)))
    system = from_form(form, raw=False)
    standardised = prove_rows(
        system, system.adopt(bound.multipliers), system.head.rows(combination), caps, method, deadline
    )
    std = uniform_std(form)
    if std is not None:
        raw = np.array([per_unit(float(value), std) for value in standardised])
    else:
        system = from_form(form, raw=True)
        caps_raw = np.append(np.full(q, bound.value_raw), np.full(first.size, up(SQRT2 * bound.value_raw)))
        raw = prove_rows(
            system,
            system.adopt(bound.multipliers_raw),
            system.head.rows(combination),
            caps_raw,
            method,
            deadline + seconds,
        )

    def table(values: Array) -> Array:
        square = np.zeros((q, q))
        square[first, second] = square[second, first] = values[q:]
        return square

    return RowBounds(
        outputs=standardised[:q],
        pairs=table(standardised),
        outputs_raw=raw[:q],
        pairs_raw=table(raw),
        method=method,
        seconds=time.monotonic() - start,
        form_sha256=bound.form_sha256,
    )


def own_bound(form: Form, bound: Bound | None) -> Bound:
    """``bound`` if it speaks of ``form``, a new one if it is None; InputError if it is another form's."""
    if bound is None:
        return lipschitz(form)
    if bound.form_sha256 != form.sha256:
        raise InputError("the bound is for another form: its sha256 does not match; certify this form first")
    return bound


def _combinations(q: int) -> tuple[Array, Indices, Indices]:
    """Every output, then every difference of two: (q + q (q - 1) / 2, q), and the indices of the pairs."""
    first, second = np.triu_indices(q, 1)
    differences = np.zeros((first.size, q))
    differences[np.arange(first.size), first] = 1.0
    differences[np.arange(first.size), second] = -1.0
    return np.vstack([np.eye(q), differences]), first, second


def prove_rows(
    system: System, lam: Array, head: Head, caps: Array, method: str = "scale", deadline: float = np.inf
) -> Array:
    """A proved bound for every row of ``head`` by itself, none above ``caps``, which is proved already."""
    scaled = Metric(system, lam).rows(head)
    proved = caps.copy()
    for index in range(caps.size):
        one = system.with_head(_row(head, index))
        own, rho = lam * scaled.factor[index], float(scaled.rho[index])
        proved[index] = min(proved[index], _prove_row(one, own, rho))
        if method == "sdp" and system.size and time.monotonic() < deadline and rho > 1e-50:
            found = programme.solve(one, own, rho, seconds=deadline - time.monotonic(), relative=1e-4)
            if found is not None:
                proved[index] = min(proved[index], _prove_row(one, found.lam, found.rho))
    return proved


def _row(head: Head, index: int) -> Head:
    return Head(head.C[index : index + 1], None if head.D is None else head.D[index : index + 1])


def _prove_row(system: System, lam: Array, rho: float) -> float:
    prover = Prover(system)
    for inflation in _INFLATIONS:
        gamma = float(np.sqrt(rho)) * inflation
        if prover.proves(lam, gamma):
            return gamma
    return np.inf
