"""attack.json: what an attack and a slope search found of a network, as plain values; and what contradicts a proof."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from equilip.attack.norms import Box
from equilip.attack.robustness import Robustness
from equilip.attack.slope import LargestSlope
from equilip.certify.bounds import Bound


def record(
    found: Robustness,
    slope: LargestSlope,
    bound: Bound | None,
    *,
    data: str,
    box: Box | None,
    seed: int,
    bugs: list[Path],
) -> dict[str, Any]:
    """The values of attack.json. data: where the samples are from; bugs: what :func:`save_contradictions` wrote."""
    return {
        "data": data,
        "n": len(found.radius),
        "norm": "l2",
        "box": None if box is None else [box.lower, box.upper],
        "seed": seed,
        "robustness": [asdict(row) for row in found.rows],
        "largest_slope": slope.value,
        "largest_slope_raw": slope.value_raw,
        "certified": None if bound is None else bound.value,
        "certified_raw": None if bound is None else bound.value_raw,
        "median_perturbation": found.attacked.median,
        "bugs": [str(file) for file in bugs],
        "seconds": found.seconds + slope.seconds,
    }


def save_contradictions(run: Path, found: Robustness, slope: LargestSlope, bound: Bound | None) -> list[Path]:
    """Write down in ``run`` what contradicts a certificate, with all that is needed to see it again; the files.

    attack-bug.npz: samples with an adversarial inside their certified radius. attack-bug-slope.npz: pairs of inputs
    with a slope above the proved bound. Unless equilip is wrong there is neither, and nothing is written.
    """
    files = []
    if len(found.violations):
        files.append(run / "attack-bug.npz")
        found.violations.save(files[-1])
    if bound is not None and slope.contradicts(bound):
        files.append(run / "attack-bug-slope.npz")
        slope.save(files[-1])
    return files
