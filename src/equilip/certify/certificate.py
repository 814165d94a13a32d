"""Writing certificate.json, which the stand-alone checker reads (docs/formats.md)."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equilip
from equilip.form import write_whole
from equilip.rounding import Array

if TYPE_CHECKING:
    from equilip.certify.bounds import Bound

FORMAT = "equilip.certificate/1"


def describe(bound: Bound, *, form_file: str = "form.safetensors") -> dict[str, Any]:
    """The certificate as plain data: one claim in standardised units and one in raw units."""
    claims = [
        claim(bound, "standardised", bound.value, bound.multipliers),
        claim(bound, "raw", bound.value_raw, bound.multipliers_raw),
    ]
    record: dict[str, Any] = {
        "format": FORMAT,
        "form": {"file": form_file, "sha256": bound.form_sha256},
        "claims": claims,
        "method": bound.method,
        "seconds": round(bound.seconds, 6),
        "inflation": bound.inflation,
        "readable": f"l2 slope at most {bound.value:.6g} (standardised input), {bound.value_raw:.6g} (raw input)",
        "version": equilip.__version__,
    }
    return record | ({"note": bound.note} if bound.note else {})


def claim(bound: Bound, units: str, value: float, multipliers: Array) -> dict[str, Any]:
    """One claim; every number that a proof needs is an exact hexadecimal float."""
    return {
        "kind": "lipschitz",
        "norm": bound.norm,
        "units": units,
        "bound": float(value).hex(),
        "slopes": {
            "lower": [float(block.lower).hex() for block in bound.slopes],
            "upper": [float(block.upper).hex() for block in bound.slopes],
        },
        "multipliers": [float(multiplier).hex() for multiplier in multipliers],
        "well_posed": True,
    }


def write(bound: Bound, path: str | PathLike[str], *, form_file: str = "form.safetensors") -> None:
    """Write the certificate of ``bound`` to ``path``: all of it, or nothing."""
    content = json.dumps(describe(bound, form_file=form_file), indent=1) + "\n"
    write_whole(Path(path), content.encode())
