"""A bound from a certificate that was written earlier, proved again before anything rests on it."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from equilip.certify.bounds import Bound, per_unit, slopes_of, uniform_std
from equilip.certify.construction import Constructed, by_construction, is_constructed
from equilip.certify.product import ProductBound, product_bound
from equilip.certify.rigour import Prover
from equilip.certify.system import HasForm, as_form, from_form
from equilip.chain import Chain
from equilip.checker.files import MAX_CERTIFICATE, hexadecimal, parse_certificate, parse_json, read
from equilip.checker.verdict import Refused, Unreadable
from equilip.errors import IllPosedError, ProofError
from equilip.form import Form
from equilip.rounding import Array


def recall(path: str | os.PathLike[str], model: Form | HasForm | Chain) -> Bound | None:
    """The bound that certificate.json at ``path`` claims of ``model``, where it is true; None otherwise.

    Its multipliers are taken and both its bounds proved again, as :func:`lipschitz` proves them: what the file says is
    not believed. So None means that there is no such file, that it cannot be read, that it speaks of another form, or
    that it claims too much. Much faster than the search for the multipliers.
    """
    form = model if isinstance(model, Chain) else as_form(model)
    start = time.monotonic()
    try:
        content = read(Path(path), MAX_CERTIFICATE)
        stated = parse_certificate(content)
        if stated.sha256 != form.sha256:
            return None
        if isinstance(form, Chain):
            return _product(form, *(_stated(stated.claims, unit) for unit in ("standardised", "raw")))
        if is_constructed(form):
            return _constructed(form, *(_stated(stated.claims, unit) for unit in ("standardised", "raw")))
        claims = {unit: _claim(stated.claims, unit, form.hidden_size) for unit in ("standardised", "raw")}
        described = parse_json(content, Unreadable)
    except (Refused, Unreadable):
        return None
    assert isinstance(described, dict)
    (value, lam), (value_raw, lam_raw) = claims["standardised"], claims["raw"]
    if not (_proved(form, lam, value, raw=False) and _proved_raw(form, lam_raw, value_raw, value)):
        return None
    note, method = str(described.get("note", "")), str(described.get("method", "given"))
    inflation = described.get("inflation", 1.0)
    return Bound(
        value=value,
        value_raw=value_raw,
        multipliers=lam,
        multipliers_raw=lam_raw,
        slopes=slopes_of(form),
        method=method,
        inflation=inflation if isinstance(inflation, float) else 1.0,
        converged=method == "sdp" and not note,
        note=note,
        seconds=time.monotonic() - start,
        form_sha256=form.sha256,
    )


def _stated(claims: list[object], units: str) -> dict[str, object]:
    """The l2 claim in these units; Refused where there is none."""
    for claim in claims:
        if isinstance(claim, dict) and [claim.get(key) for key in ("kind", "norm", "units")] == [
            "lipschitz",
            "l2",
            units,
        ]:
            return claim
    raise Refused(f"no claim in {units} units")


def _claim(claims: list[object], units: str, neurons: int) -> tuple[float, Array]:
    """Bound and multipliers (neurons,) of the l2 claim in these units; Refused where there is none."""
    claim = _stated(claims, units)
    entries = claim.get("multipliers")
    if not isinstance(entries, list) or len(entries) != neurons:
        raise Refused(f"no multipliers for the claim in {units} units")
    lam = np.array([hexadecimal(entry, "a multiplier") for entry in entries], dtype=np.float64)
    return hexadecimal(claim.get("bound"), "bound"), lam


def _constructed(form: Form, standardised: dict[str, object], raw: dict[str, object]) -> Constructed | None:
    """The bound of a form with its proof built in, where the construction proves what is claimed."""
    value, value_raw = (hexadecimal(claim.get("bound"), "bound") for claim in (standardised, raw))
    try:
        found = by_construction(form, value)
    except ProofError:
        return None
    return replace(found, value_raw=value_raw) if value_raw >= found.value_raw else None


def _product(chain: Chain, standardised: dict[str, object], raw: dict[str, object]) -> ProductBound | None:
    """The bound of a chain, where the product of what is proved of its layers is no larger than what is claimed."""
    value, value_raw = (hexadecimal(claim.get("bound"), "bound") for claim in (standardised, raw))
    try:
        found = product_bound(chain)
    except ProofError:
        return None
    if value < found.value or value_raw < found.value_raw:
        return None
    return replace(found, value=value, value_raw=value_raw)


def _proved(form: Form, lam: Array, value: float, *, raw: bool) -> bool:
    try:
        system = from_form(form, raw=raw)
    except IllPosedError:
        return False
    return Prover(system).proves(system.adopt(lam), value)


def _proved_raw(form: Form, lam: Array, value: float, standardised: float) -> bool:
    """Whether the raw bound is proved, the other one being so."""
    std = uniform_std(form)
    if std is not None:
        return value >= per_unit(standardised, std)
    return _proved(form, lam, value, raw=True)
