"""The smallest l2 Lipschitz bound of a form that can be proved."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np

from equilip import activations
from equilip.certify import phase_one, programme
from equilip.certify.rigour import Prover
from equilip.certify.scale import Metric
from equilip.certify.system import HasForm, System, array, as_form, from_form
from equilip.chain import Chain, Network
from equilip.errors import IllPosedError, InputError, ProofError
from equilip.form import Form
from equilip.operators import WithProof
from equilip.rounding import Array, up

#: Up to this many neurons (and outputs) the semidefinite programme is solved unless asked otherwise.
SDP_NEURONS = 1500


@dataclass(frozen=True, eq=False)
class Slopes:
    """The slope interval [lower, upper] assumed for ``size`` consecutive neurons."""

    lower: float
    upper: float
    size: int


@dataclass(frozen=True, eq=False)
class Bound:
    """A proved bound: |y(x) - y(x')| <= ``value`` |xi - xi'| and <= ``value_raw`` |x - x'| for all x, x', in l2.

    xi is the standardised input and x the raw one; without a standardisation the two bounds are equal. It is
    proved for the exact real function of the stored numbers, whose equilibrium exists and is unique.

    ``multipliers`` and ``multipliers_raw`` (n,), one positive number per neuron, prove ``value`` and ``value_raw``
    (mathematics 9.3 with rho the bound squared). ``slopes``: what was assumed of the activations, one entry per
    block of them. ``method``: where the multipliers come from: "sdp", or "scale" for the best multiple of
    multipliers known or found, or "given". ``inflation``: the factor by which the bound was raised above the number
    computed for these multipliers, so that the proof goes through in spite of rounding. ``converged``: whether
    this is, up to 1e-5, the smallest bound that diagonal multipliers can prove; ``note`` says why not.
    ``seconds``: time taken. ``form_sha256``: the form it speaks of.
    """

    value: float
    value_raw: float
    multipliers: Array
    multipliers_raw: Array
    slopes: tuple[Slopes, ...]
    method: str
    inflation: float
    converged: bool
    note: str
    seconds: float
    form_sha256: str
    norm: str = "l2"
    units: str = "standardised"

    def save(self, path: str | PathLike[str], *, form_file: str = "form.safetensors") -> None:
        """Write the certificate that ``equilip verify`` checks; ``form_file`` is the form's name beside it."""
        from equilip.certify.certificate import write

        write(self, path, form_file=form_file)


@dataclass(frozen=True, eq=False)
class Proved:
    """A bound proved for one system and head, with the system's multipliers."""

    gamma: float
    lam: Array
    method: str
    inflation: float
    converged: bool
    note: str


def lipschitz(model: Network | HasForm, *, method: str = "auto", seconds: float = 60.0) -> Bound:
    """The smallest l2 Lipschitz bound of ``model`` that can be proved, for standardised and for raw inputs.

    ``method``: "sdp" searches all diagonal multipliers by semidefinite programming; "scale" only the multiples of
    known or cheaply found ones, for large networks; "auto" chooses by size. ``seconds`` is a budget: when
    it runs out the best bound proved so far is returned with ``converged`` False. Of a chain it is the product of the
    layers' bounds, whatever the method.

    Raises IllPosedError when no multipliers can be found that prove a unique equilibrium, and ProofError when
    multipliers were found and no bound could be proved for the stored numbers.
    """
    if method not in ("auto", "sdp", "scale"):
        raise InputError(f"method {method!r} is unknown; choose auto, sdp or scale")
    if isinstance(model, Chain):
        from equilip.certify.product import product_bound

        return product_bound(model)
    form = as_form(model)
    if isinstance(form.W, WithProof):
        from equilip.certify.construction import by_construction

        return by_construction(form)
    start = time.monotonic()
    deadline = start + seconds
    known = None if form.lam is None else array(form.lam)
    system = from_form(form, raw=False)
    if method == "auto":
        method = "sdp" if system.size + form.out_size <= SDP_NEURONS else "scale"
    standardised = tightest(system, known, method=method, deadline=deadline)
    lam = system.restore(standardised.lam)
    factor = uniform_std(form)
    if factor is not None:
        raw, lam_raw = per_unit(standardised.gamma, factor), lam
    else:
        system = from_form(form, raw=True)
        other = tightest(system, lam, method=method, deadline=max(deadline, time.monotonic() + 0.2 * seconds))
        raw, lam_raw = other.gamma, system.restore(other.lam)
        standardised = replace(
            standardised,
            inflation=max(standardised.inflation, other.inflation),
            converged=standardised.converged and other.converged,
            note=standardised.note or other.note,
        )
    return Bound(
        value=standardised.gamma,
        value_raw=raw,
        multipliers=lam,
        multipliers_raw=lam_raw,
        slopes=slopes_of(form),
        method=standardised.method,
        inflation=standardised.inflation,
        converged=standardised.converged,
        note=standardised.note,
        seconds=time.monotonic() - start,
        form_sha256=form.sha256,
    )


def slopes_of(form: Form) -> tuple[Slopes, ...]:
    """What is assumed of a form's activations, block by block."""
    parts = activations.blocks(form.activation, form.hidden_size)
    return tuple(Slopes(*own.interval, size) for own, size in parts)


def uniform_std(form: Form) -> float | None:
    """The one std of all inputs (1 without a standardisation); None where they differ."""
    if form.standardisation is None:
        return 1.0
    std = array(form.standardisation.std)
    return float(std[0]) if std.size and (std == std[0]).all() else None


def per_unit(gamma: float, std: float) -> float:
    """gamma / std, rounded up: a bound for raw inputs from one for standardised inputs of one common std."""
    return gamma if std == 1.0 else up(gamma / std)


def raw_bound(form: Network, gamma: float) -> float:
    """The bound for raw inputs that follows from one for standardised inputs: gamma / min std, rounded up.

    Where the inputs' std differ this is larger than what :func:`lipschitz` proves for raw inputs directly.
    """
    return per_unit(gamma, float(array(form.standardisation.std).min())) if form.standardisation is not None else gamma


def tightest(system: System, known: Array | None, *, method: str, deadline: float) -> Proved:
    """The smallest bound on the system's own head that is proved by ``deadline``; errors as in :func:`lipschitz`.

    ``known`` (neurons,) are multipliers of the form's neurons where a parametrisation gives them.
    """
    head = system.head
    adopted = None if known is None else system.adopt(known)
    starts = phase_one.candidates(system, adopted, seconds=max(1.0, deadline - time.monotonic()))
    metrics = [metric for candidate in starts if (metric := Metric.of(system, candidate)) is not None]
    scaled = [(metric.lam, metric.joint(head)) for metric in metrics]
    if not scaled:
        raise IllPosedError(
            "no multipliers were found that prove a unique equilibrium for every input, so no bound can be proved; "
            "networks of equilip.nn come with such multipliers"
        )
    lam, start = min(scaled, key=lambda pair: float(pair[1].rho))
    lam, rho = lam * float(start.factor), float(start.rho)
    prover = Prover(system)
    best = _prove(prover, lam, rho, "scale", converged=False, note="")
    note = "only multiples of the multipliers at hand were searched"
    if method == "sdp" and system.size and rho > 1e-50:
        found = programme.solve(system, lam, rho, seconds=deadline - time.monotonic())
        converged = found is not None and found.converged
        note = "" if converged else "the search over multipliers ran out of time before it converged"
        if found is not None:
            metric = Metric.of(system, found.lam)
            proved = None
            if metric is not None:
                again = metric.joint(head)
                own = found.lam * float(again.factor)
                proved = _prove(prover, own, float(again.rho), "sdp", converged=converged, note=note)
            if proved is None:
                proved = _prove(prover, found.lam, found.rho, "sdp", converged=converged, note=note)
            if proved is not None and (best is None or proved.gamma <= best.gamma):
                return proved
            if best is not None:
                return replace(best, converged=converged, note=note)
    if best is None:
        raise ProofError(
            "multipliers were found, but no bound could be proved for the stored numbers: the network is too close "
            "to losing its unique equilibrium for float64 proofs"
        )
    return replace(best, converged=False, note=note)


def _prove(prover: Prover, lam: Array, rho: float, method: str, *, converged: bool, note: str) -> Proved | None:
    least = prover.least(lam, float(np.sqrt(rho)))
    if least is None:
        return None
    return Proved(least[0], lam, method, least[1], converged, note)


def prove(model: Form | HasForm, value: float, *, multipliers: Array | None = None) -> Bound:
    """Prove one given bound, for standardised inputs, such as the one that a parametrisation declares.

    ``multipliers`` (n,) at any scale default to the form's own. The bound returned has exactly this ``value``. Raises
    ProofError when it cannot be proved for the stored numbers: after a cast to float32, say.
    """
    form = as_form(model)
    if isinstance(form.W, WithProof):
        from equilip.certify.construction import by_construction

        return by_construction(form, value)
    start = time.monotonic()
    known = multipliers if multipliers is not None else None if form.lam is None else array(form.lam)
    system = from_form(form, raw=False)
    adopted = None if known is None else system.adopt(np.asarray(known, dtype=np.float64))
    if not (np.isfinite(value) and value > 0.0):
        raise InputError(f"a bound to prove must be a positive number, got {value}")
    prover = Prover(system)
    for lam in phase_one.candidates(system, adopted):
        metric = Metric.of(system, lam)
        if metric is None:
            continue
        scaled = metric.joint(system.head)
        for factor in (float(scaled.factor), 1.0, value, value * value):
            if prover.proves(lam * factor, value):
                lam_form = system.restore(lam * factor)
                return Bound(
                    value=value,
                    value_raw=raw_bound(form, value),
                    multipliers=lam_form,
                    multipliers_raw=lam_form,
                    slopes=slopes_of(form),
                    method="given",
                    inflation=1.0,
                    converged=False,
                    note="this bound was given, not searched for",
                    seconds=time.monotonic() - start,
                    form_sha256=form.sha256,
                )
    raise ProofError(f"the bound {value:g} could not be proved for the stored numbers")
