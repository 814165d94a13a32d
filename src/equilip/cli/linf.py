"""What `certify --norm linf` and `attack --norm linf` do."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equilip.cli.inputs import load_data
from equilip.cli.output import Output

if TYPE_CHECKING:
    from equilip.data import Dataset

#: The certificate of the maximum norm, beside that of l2.
CERTIFICATE = "certificate-linf.json"
#: Perturbation sizes that are attacked unless others are named.
EPS = (0.02, 0.05, 0.1, 0.15, 0.2)


def certify(options: argparse.Namespace, output: Output) -> int:
    """Prove the smallest l-infinity bound of a run, write its certificate, and certify samples at each eps."""
    start = time.perf_counter()
    from equilip import certify
    from equilip.report.numbers import above
    from equilip.train import load_form, load_run

    config, _ = load_run(options.run)
    form = load_form(options.run)
    loaded = load_data(options, config.data, form, output) if options.eps else None
    bound = certify.lipschitz_linf(form, seconds=options.seconds)
    path = f"{options.run}/{CERTIFICATE}"
    bound.save(path)
    formulas = certify.contraction_bounds(form)
    values: dict[str, Any] = {
        "run": str(options.run),
        "norm": bound.norm,
        "declared": None,
        "certified": bound.value,
        "declared_raw": None,
        "certified_raw": bound.value_raw,
        "by_comparison": _finite(bound.by_comparison),
        "by_trace": _finite(bound.by_trace),
        "paper_formula": None if formulas is None else formulas.paper,
        "by_row_formula": None if formulas is None else formulas.by_row,
        "method": bound.method,
        "converged": bound.converged,
        "seconds": bound.seconds,
        "form": bound.form_sha256,
        "certificate": path,
    }

    def shown(value: float | None) -> str:
        return "nothing" if value is None else above(value)

    output.facts(
        f"{options.run}: l-infinity bounds on the slope of the output",
        [
            ("proved", f"{above(bound.value)} ({above(bound.value_raw)} per unit of raw input)"),
            ("by the comparison matrix alone", shown(values["by_comparison"])),
            ("by quadratic forms alone", shown(values["by_trace"])),
            ("formula of the literature, for comparison", shown(values["paper_formula"])),
            ("seconds", f"{bound.seconds:.2f}"),
        ],
    )
    if loaded is not None:
        name, dataset = loaded
        x, limits = dataset.test_x.flatten(1), _limits(dataset)
        margins = certify.linf_margins(form, x, dataset.test_y)
        found = [
            certify.certified_linf(form, x, dataset.test_y, eps, limits=limits, margins=margins) for eps in options.eps
        ]
        table = [
            {
                "eps": one.eps,
                "certified_accuracy": one.accuracy,
                "by_box": _share(one.by_box),
                "by_slope": _share(one.by_slope),
                "by_l2": _share(one.by_l2),
            }
            for one in found
        ]
        values |= {"data": name, "n": len(x), "limits": limits, "robustness": table}
        output.table(
            f"certified accuracy on {len(x)} samples of {name}: classified rightly, whatever changes by at most eps",
            ("eps", "certified", "by boxes", "by slopes", "by l2 slopes"),
            [
                (
                    f"{row['eps']:g}",
                    *(f"{100 * row[key]:.2f} %" for key in ("certified_accuracy", "by_box", "by_slope", "by_l2")),
                )
                for row in table
            ],
        )
    output.line(f"{path} written; check it: equilip verify {path}")
    output.result({**values, "total_seconds": time.perf_counter() - start})
    return 0


def attack(options: argparse.Namespace, output: Output) -> int:
    """Attack a run in l-infinity, beside what is certified; exit status 1 where an attack beats a certificate."""
    from equilip import attack
    from equilip.attack.linf import robustness_linf
    from equilip.report.numbers import above, below
    from equilip.train import load_form, runs

    config = runs.load_config(options.run)
    form = load_form(options.run)
    name, dataset = load_data(options, config.data, form, output)
    limits = _limits(dataset)
    box = None if limits is None else attack.Box(*limits)
    target = attack.Target.of(form, require_well_posed=not options.allow_ill_posed)
    x = dataset.test_x.flatten(1)
    found = robustness_linf(target, x, dataset.test_y, options.eps, box=box, seed=options.seed)
    slope = attack.largest_slope_linf(target, x, seed=options.seed)
    bound = _proved(Path(options.run))
    bugs = []
    if slope.value > bound.get("standardised", math.inf) or slope.value_raw > bound.get("raw", math.inf):
        bugs.append(Path(options.run) / "attack-linf-bug-slope.npz")
        slope.save(bugs[-1])
    values = {
        "data": name,
        "n": found.rows[0].n,
        "norm": "linf",
        "box": limits,
        "seed": options.seed,
        "robustness": [asdict(row) for row in found.rows],
        "largest_slope": slope.value,
        "largest_slope_raw": slope.value_raw,
        "certified": bound.get("standardised"),
        "certified_raw": bound.get("raw"),
        "violations": found.violations.tolist(),
        "bugs": [str(file) for file in bugs],
        "seconds": found.seconds + slope.seconds,
    }
    runs.write_result(options.run, "attack-linf", values, found.form_sha256)
    output.table(
        f"{options.run} on {found.rows[0].n} samples of {name}, l-infinity, raw units "
        f"({100 * found.rows[0].clean_accuracy:.2f} % without perturbation)",
        ("eps", "certified accuracy", "attacked accuracy"),
        [
            (f"{row.eps:g}", f"{100 * row.certified_accuracy:.2f} %", f"{100 * row.attacked_accuracy:.2f} %")
            for row in found.rows
        ],
    )
    output.facts(
        "largest l-infinity slope of the output, per unit of standardised and of raw input",
        [
            ("largest found", f"{below(slope.value)} ({below(slope.value_raw)} raw)"),
            (
                "proved bound",
                f"{above(bound['standardised'])} ({above(bound['raw'])} raw)"
                if bound
                else f"nothing yet: equilip certify {options.run} --norm linf",
            ),
        ],
    )
    for file in bugs:
        output.line(
            f"BUG: the slope found, {slope.value!r} ({slope.value_raw!r} raw), is above the proved bound. {file} holds "
            f"the pairs of inputs; please report it with {Path(options.run) / 'form.safetensors'}"
        )
    if len(found.violations):
        output.line(
            f"BUG: attacks beat certificates for the samples {found.violations[:, 1].unique().tolist()}; please report "
            f"it with {Path(options.run) / 'form.safetensors'} and this command"
        )
    output.result({"run": str(options.run), **values})
    return 1 if bugs or len(found.violations) else 0


def _proved(run: Path) -> dict[str, float]:
    """The bounds that the stand-alone checker proves anew from the run's certificate, by their units; none without."""
    from equilip import checker

    verdict = checker.check(run / CERTIFICATE, run / "form.safetensors") if (run / CERTIFICATE).exists() else None
    claims = () if verdict is None else verdict.claims
    return {claim.units: claim.bound for claim in claims if (claim.kind, claim.norm) == ("lipschitz", "linf")}


def _limits(dataset: Dataset) -> tuple[float, float] | None:
    """The range of pixels; None for tables."""
    return (0.0, 1.0) if dataset.images else None


def _share(which: Any) -> float:
    return float(which.double().mean())


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None
