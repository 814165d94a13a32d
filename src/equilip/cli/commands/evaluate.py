"""Measure the test error of a run, with the residual and the proven error of every solve.

Speaks of the stored form (form.safetensors), solved in float64 unless told otherwise. Samples for which no
equilibrium is found are counted and are errors. Writes evaluation.json into the run.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from equilip.cli.inputs import load_data
from equilip.cli.options import Parser, add_data, one_of
from equilip.cli.output import Output
from equilip.data import check_name
from equilip.report.numbers import error_bound

if TYPE_CHECKING:
    from equilip.train import Evaluation


def arguments(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("--data", type=check_name, metavar="NAME", help="data set (default: the run's own)")
    parser.add_argument(
        "--dtype", type=one_of(("float32", "float64")), default="float64", help="number format of the solve"
    )
    parser.add_argument("--tolerance", type=float, metavar="X", help="relative residual asked of every sample")
    parser.add_argument(
        "--allow-ill-posed",
        action="store_true",
        help="evaluate even where nothing proves that every input has one equilibrium",
    )
    add_data(parser)


def run(options: argparse.Namespace, output: Output) -> int:
    from equilip.errors import IllPosedError
    from equilip.solve import Settings
    from equilip.train import evaluate, load_network, runs
    from equilip.train.devices import device, dtype

    config = runs.load_config(options.run)
    form = load_network(options.run).to(dtype(options.dtype), device(options.device))
    settings = Settings(
        tolerance=options.tolerance, raise_on_failure=False, require_well_posed=not options.allow_ill_posed
    )
    name, dataset = load_data(options, config.data, form, output)
    try:
        found = evaluate(form, dataset.test_x, dataset.test_y, settings)
    except IllPosedError as error:
        raise IllPosedError(
            f"{options.run}: no multipliers prove that every input has exactly one equilibrium; "
            "--allow-ill-posed evaluates it all the same and counts what does not converge"
        ) from error
    values = {"data": name, **found.as_table()}
    runs.write_result(options.run, "evaluation", values, runs.stored_sha256(options.run))
    output.facts(f"{options.run} on the test data of {name}", rows(found))
    output.result({"run": str(options.run), **values})
    return 0


def rows(found: Evaluation) -> list[tuple[str, str]]:
    """What is shown of an evaluation."""
    bound = "not proved" if found.max_error_bound is None else error_bound(found.max_error_bound)
    residual = "none converged" if found.max_residual is None else error_bound(found.max_residual)
    return [
        ("test error", f"{found.test_error_percent:.2f} %"),
        ("samples", str(found.n)),
        ("without equilibrium", str(found.unconverged)),
        ("largest relative residual", residual),
        ("proven distance to equilibrium", bound),
        ("iterations", str(found.iterations)),
    ]
