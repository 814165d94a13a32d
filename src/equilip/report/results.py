"""What commands leave in a run directory, read back with every key and type checked."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from equilip import checker
from equilip.attack import Row
from equilip.attack.outcome import Outcome
from equilip.attack.outcome import load as load_outcome
from equilip.checker import Verdict
from equilip.errors import ConfigError, FormatError
from equilip.train import toml

C = TypeVar("C")


class OtherFormError(FormatError):
    """A result that names another form than the run's."""


@dataclass(frozen=True)
class Evaluated:
    """evaluation.json; the fields of :class:`equilip.train.Evaluation`, and the data it was measured on."""

    data: str
    test_error_percent: float
    n: int
    unconverged: int
    iterations: int
    tolerance: float
    dtype: str
    seconds: float
    max_residual: float | None = None
    max_error_bound: float | None = None


@dataclass(frozen=True)
class Attacked:
    """attack.json, or attack-linf.json.

    rows: one for every eps, increasing; certified: the bound that was proved, None where nothing was; bugs: the files
    that say what contradicted a proof.
    """

    data: str
    n: int
    norm: str
    largest_slope: float
    largest_slope_raw: float
    rows: tuple[Row, ...] = ()
    bugs: tuple[str, ...] = ()
    certified: float | None = None
    certified_raw: float | None = None
    median_perturbation: float | None = None

    @property
    def clean_accuracy(self) -> float:
        """Without perturbation, a share of the n samples attacked."""
        return self.rows[0].clean_accuracy


@dataclass(frozen=True)
class Monotone:
    """What was proved monotone alike: these outputs never fall where any of these inputs grows, or never rise."""

    rising: bool
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Check:
    """What the stand-alone checker says of a certificate now. digest: the sha256 of the certificate's file."""

    verdict: Verdict
    digest: str
    seconds: float

    def bound(self, units: str, norm: str = "l2") -> float | None:
        """The smallest bound that was proved anew in these units ("standardised", "raw") and this norm."""
        claims = [claim for claim in self.verdict.claims if (claim.kind, claim.norm) == ("lipschitz", norm)]
        return min((claim.bound for claim in claims if claim.units == units), default=None)

    @property
    def monotone(self) -> tuple[Monotone, ...]:
        """What was proved monotone anew: outputs that do the same in the same inputs together, rising ones first."""
        found: dict[tuple[bool, tuple[int, ...]], set[int]] = {}
        for claim in self.verdict.claims:
            for k, row in enumerate(claim.directions):
                for rising, sign in ((True, 1), (False, -1)):
                    inputs = tuple(j for j, direction in enumerate(row) if direction == sign)
                    if inputs:
                        found.setdefault((rising, inputs), set()).add(k)
        some = [Monotone(rising, tuple(sorted(outputs)), inputs) for (rising, inputs), outputs in found.items()]
        return tuple(sorted(some, key=lambda each: (not each.rising, each.outputs)))


def recheck(run: str | os.PathLike[str], name: str = "certificate") -> Check | None:
    """Check the certificate NAME.json of a run against the form of that run; None where there is no certificate."""
    certificate = Path(run) / f"{name}.json"
    if not certificate.exists():
        return None
    start = time.perf_counter()
    try:
        digest = hashlib.sha256(certificate.read_bytes()).hexdigest()
    except OSError:
        digest = ""
    # The run's own form, whatever other file the certificate may name.
    verdict = checker.check(certificate, Path(run) / "form.safetensors")
    return Check(verdict, digest, time.perf_counter() - start)


def evaluated(run: str | os.PathLike[str], form_sha256: str) -> Evaluated | None:
    """evaluation.json of a run; None where there is none. FormatError (OtherFormError) where it cannot be used."""
    values = _read(Path(run), "evaluation", form_sha256)
    return None if values is None else _build(Evaluated, values, Path(run) / "evaluation.json")


def attacked(run: str | os.PathLike[str], form_sha256: str, name: str = "attack") -> Attacked | None:
    """NAME.json of a run, likewise."""
    file = Path(run) / f"{name}.json"
    values = _read(Path(run), name, form_sha256)
    if values is None:
        return None
    rows = values.pop("robustness", None)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise FormatError(f"{file}: robustness is not a list of accuracies")
    built = tuple(sorted((_build(Row, row, file) for row in rows), key=lambda row: row.eps))
    return replace(_build(Attacked, values, file), rows=built)


def outcome(run: str | os.PathLike[str], form_sha256: str) -> Outcome | None:
    """attack.npz of a run, likewise."""
    file = Path(run) / "attack.npz"
    if not file.exists():
        return None
    found = load_outcome(file)
    if found.form_sha256 != form_sha256:
        raise OtherFormError(_another(file, found.form_sha256))
    return found


def _read(run: Path, name: str, form_sha256: str) -> dict[str, Any] | None:
    file = run / f"{name}.json"
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_bytes(), parse_constant=_refuse)
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{file} is not a result of equilip, or it is damaged: {error}") from error
    version = values.get("format") if isinstance(values, dict) else None
    if version != f"equilip.{name}/1":
        raise FormatError(f"{file} has format {version!r}; this version of equilip reads 'equilip.{name}/1'")
    if values.get("form") != form_sha256:
        raise OtherFormError(_another(file, str(values.get("form"))))
    return values


def _another(file: Path, digest: str) -> str:
    return f"{file} speaks of another form (sha256 {digest[:12]}...) than the one in this run, and is left out"


def _build(kind: type[C], values: Mapping[str, Any], file: Path) -> C:
    """The dataclass from those of the values that it has fields for; what is null is left to its default."""
    names = {field.name for field in fields(kind)} - {"rows"}  # type: ignore[arg-type]
    used = {key: value for key, value in values.items() if key in names and value is not None}
    try:
        return toml.build(kind, used, str(file))
    except ConfigError as error:
        raise FormatError(str(error)) from error
    except OverflowError as error:
        raise FormatError(f"{file}: {error}") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")
