"""Attack a run: the smallest perturbations and the largest slope found, next to what is certified.

Perturbations are l2 and in raw units (pixels in [0, 1]); images stay inside the box [0, 1]. Everything reported has
been solved again in float64. The bound is that of certificate.json, proved again, or a new one where there is none.
Writes attack.json and attack.npz into the run. An adversarial inside a certified radius, or a slope above the proved
bound, is a bug of equilip: it is written to attack-bug.npz (attack-bug-slope.npz) and the exit status is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from equilip.cli import linf
from equilip.cli.inputs import load_data
from equilip.cli.options import Parser, add_data, one_of
from equilip.cli.output import Output
from equilip.data import check_name
from equilip.report.numbers import above, below

if TYPE_CHECKING:
    from equilip.attack import LargestSlope, Robustness
    from equilip.certify import Bound
    from equilip.chain import Network

EPS = (0.1, 0.3, 0.5, 1.0, 1.58)


def arguments(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--eps",
        type=float,
        nargs="+",
        metavar="X",
        help=f"perturbation sizes, raw units (default: {' '.join(map(str, EPS))}; "
        f"with --norm linf {' '.join(map(str, linf.EPS))})",
    )
    parser.add_argument(
        "--norm",
        type=one_of(("l2", "linf")),
        default="l2",
        metavar="l2|linf",
        help="how perturbations are measured (default: l2); linf writes attack-linf.json",
    )
    parser.add_argument("--data", type=check_name, metavar="NAME", help="data set (default: the run's own)")
    parser.add_argument(
        "--allow-ill-posed",
        action="store_true",
        help="attack even where nothing proves that every input has one equilibrium; nothing is certified then",
    )
    add_data(parser)


def run(options: argparse.Namespace, output: Output) -> int:
    from equilip import attack
    from equilip.errors import IllPosedError
    from equilip.train import load_network, runs
    from equilip.train.devices import device

    options.eps = options.eps or list(linf.EPS if options.norm == "linf" else EPS)
    attack.checked_sizes(options.eps)
    if options.norm == "linf":
        return linf.attack(options, output)
    config = runs.load_config(options.run)
    form = load_network(options.run).to(None, device(options.device))
    name, dataset = load_data(options, config.data, form, output)
    try:
        bound = None if options.allow_ill_posed else known_bound(Path(options.run), form)
        target = attack.Target.of(
            form,
            require_well_posed=not options.allow_ill_posed,
            multipliers=None if bound is None else bound.multipliers,
            bound=bound,
        )
    except IllPosedError as error:
        raise IllPosedError(
            f"{options.run}: no multipliers prove that every input has exactly one equilibrium; "
            "--allow-ill-posed attacks it all the same, with nothing certified"
        ) from error
    _, height, _ = dataset.shape
    box = attack.Box(0.0, 1.0) if height > 1 else None
    x, label = dataset.test_x, dataset.test_y
    with output.progress("attacking", -(-len(x) // attack.PART)) as progress:
        found = attack.robustness(
            target,
            x,
            label,
            options.eps,
            box=box,
            seed=options.seed,
            bound=bound,
            on_part=lambda so_far, n: progress.step(
                f"attacked {len(so_far.size)} of {n} samples", f"{int(so_far.success[-1].sum())} broken"
            ),
        )
    slope = attack.largest_slope(target, x, seed=options.seed)
    bugs = report_bugs(Path(options.run), found, slope, bound, output)
    values = attack.record(found, slope, bound, data=name, box=box, seed=options.seed, bugs=bugs)
    attack.Outcome.of(found, x, label, dataset.shape).save(Path(options.run) / "attack.npz")
    runs.write_result(options.run, "attack", values, slope.form_sha256)
    show(output, options.run, name, found, slope, bound)
    output.result({"run": str(options.run), **values})
    return 1 if bugs else 0


def known_bound(run: Path, form: Network) -> Bound:
    """What the run's certificate proves; a new bound where it has none that speaks of this form."""
    from equilip import certify

    recalled = certify.recall(run / "certificate.json", form)
    return certify.lipschitz(form) if recalled is None else recalled


def show(output: Output, run: str, name: str, found: Robustness, slope: LargestSlope, bound: Bound | None) -> None:
    """What people see."""
    output.table(
        f"{run} on {len(found.radius)} samples of {name}, l2, raw units "
        f"({100 * found.rows[0].clean_accuracy:.2f} % without perturbation)",
        ("eps", "certified accuracy", "attacked accuracy"),
        [
            (f"{row.eps:g}", f"{100 * row.certified_accuracy:.2f} %", f"{100 * row.attacked_accuracy:.2f} %")
            for row in found.rows
        ],
    )
    proved = "nothing" if bound is None else f"{above(bound.value)} ({above(bound.value_raw)} raw)"
    output.facts(
        "largest slope of the output, per unit of standardised and of raw input",
        [
            ("largest found", f"{below(slope.value)} ({below(slope.value_raw)} raw)"),
            ("proved bound", proved),
        ],
    )


def report_bugs(run: Path, found: Robustness, slope: LargestSlope, bound: Bound | None, output: Output) -> list[Path]:
    """Write down what contradicts a certificate, and say so; the files written."""
    from equilip import attack

    files = attack.save_contradictions(run, found, slope, bound)
    for path in files:
        if path.name == "attack-bug.npz":
            output.line(
                f"BUG: {len(found.violations)} adversarials lie inside their certified radius. {path} holds the "
                "samples, the adversarials, the radii and the form's sha256; please report it with "
                f"{run / 'form.safetensors'}"
            )
        elif bound is not None:
            output.line(
                f"BUG: the slope found, {slope.value!r} ({slope.value_raw!r} raw), is above the proved bound, "
                f"{bound.value!r} ({bound.value_raw!r} raw). {path} holds the pairs of inputs; please report it with "
                f"{run / 'form.safetensors'}"
            )
    return files
