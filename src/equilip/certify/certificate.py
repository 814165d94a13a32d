"""Writing certificate.json, which the stand-alone checker reads (docs/formats.md)."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import equilip
from equilip.certify.bounds import Bound, Slopes
from equilip.certify.linf import LinfBound, LinfProof
from equilip.certify.monotone import Monotone
from equilip.errors import InputError
from equilip.form import write_whole
from equilip.rounding import Array

FORMAT = "equilip.certificate/1"


def describe(
    bound: Bound | LinfBound, *, form_file: str = "form.safetensors", monotone: Monotone | None = None
) -> dict[str, Any]:
    """The certificate as plain data: one claim in standardised units and one in raw units, and what is monotone."""
    record: dict[str, Any] = {
        "format": FORMAT,
        "form": {"file": form_file, "sha256": bound.form_sha256},
        "claims": [*_claims(bound), *([] if monotone is None else [monotone_claim(monotone)])],
        "method": bound.method,
        "seconds": round(bound.seconds, 6),
        "readable": (
            f"{bound.norm} slope at most {bound.value:.6g} (standardised input), {bound.value_raw:.6g} (raw input)"
        ),
        "version": equilip.__version__,
    }
    if isinstance(bound, LinfBound):
        return record
    return record | {"inflation": bound.inflation} | ({"note": bound.note} if bound.note else {})


def _claims(bound: Bound | LinfBound) -> list[dict[str, Any]]:
    if isinstance(bound, LinfBound):
        return [
            linf_claim(bound.slopes, "standardised", bound.value, bound.proof),
            linf_claim(bound.slopes, "raw", bound.value_raw, bound.proof_raw),
        ]
    return [
        claim(bound, "standardised", bound.value, bound.multipliers),
        claim(bound, "raw", bound.value_raw, bound.multipliers_raw),
    ]


def claim(bound: Bound, units: str, value: float, multipliers: Array) -> dict[str, Any]:
    """One l2 claim; every number that a proof needs is an exact hexadecimal float."""
    own = _stated("l2", units, value, bound.slopes)
    return own | {"multipliers": _exact(multipliers)}


def linf_claim(slopes: tuple[Slopes, ...], units: str, value: float, proof: LinfProof) -> dict[str, Any]:
    """One l-infinity claim: the comparison weights, and for each output its quadratic form where it has one."""
    rows = [
        None if row is None else {"multipliers": _exact(row.multipliers), "weights": _exact(row.weights)}
        for row in proof.rows
    ]
    own = _stated("linf", units, value, slopes)
    return own | {"comparison": None if proof.comparison is None else _exact(proof.comparison), "rows": rows}


def monotone_claim(found: Monotone) -> dict[str, Any]:
    """The claim that outputs are monotone in some inputs."""
    own = _stated("l1", "standardised", found.bound, found.slopes)
    return own | {
        "kind": "monotone",
        "directions": found.directions.tolist(),
        "comparison": None if found.comparison is None else [_exact(row) for row in found.comparison],
        "multipliers": None if found.multipliers is None else _exact(found.multipliers),
    }


def _stated(norm: str, units: str, value: float, slopes: tuple[Slopes, ...]) -> dict[str, Any]:
    return {
        "kind": "lipschitz",
        "norm": norm,
        "units": units,
        "bound": float(value).hex(),
        "slopes": {
            "lower": [float(block.lower).hex() for block in slopes],
            "upper": [float(block.upper).hex() for block in slopes],
        },
        "well_posed": True,
    }


def _exact(numbers: Array) -> list[str]:
    return [float(number).hex() for number in numbers]


def write(
    bound: Bound | LinfBound,
    path: str | PathLike[str],
    *,
    form_file: str = "form.safetensors",
    monotone: Monotone | None = None,
) -> None:
    """Write the certificate of ``bound``, and of what is ``monotone``, to ``path``: all of it, or nothing.

    InputError where the two speak of different forms.
    """
    if monotone is not None and monotone.form_sha256 != bound.form_sha256:
        raise InputError("the bound and what is monotone are of two forms: prove both for one, and write that")
    content = json.dumps(describe(bound, form_file=form_file, monotone=monotone), indent=1) + "\n"
    write_whole(Path(path), content.encode())
