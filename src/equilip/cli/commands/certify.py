"""Prove the smallest bound on the slope of a run, and write its certificate.

Speaks of the stored form (form.safetensors) and its stored numbers, on the processor. The bound is for the l2 norm,
every input, and both units: the standardised input, and raw pixels. certificate.json can be checked by anyone
with `equilip verify`; --norm linf proves one for the maximum norm. With --eps, also how many test samples cannot change
their class within these distances.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import TYPE_CHECKING, Any

from equilip.cli import linf
from equilip.cli.inputs import load_data
from equilip.cli.options import Parser, add_data, one_of
from equilip.cli.output import Output
from equilip.data import check_name
from equilip.report.numbers import above, below

if TYPE_CHECKING:
    from torch import Tensor

    from equilip.certify import Bound


def arguments(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument(
        "--eps",
        type=non_negative,
        nargs="+",
        default=[],
        metavar="X",
        help="print the certified accuracy on the test data at these distances in the norm, in raw units",
    )
    parser.add_argument(
        "--norm",
        type=one_of(("l2", "linf")),
        default="l2",
        metavar="l2|linf",
        help="l2, or linf for changes of every input by up to eps; linf writes certificate-linf.json (default: l2)",
    )
    parser.add_argument("--radius", action="store_true", help="print how large the certified radii are (so does --eps)")
    parser.add_argument(
        "--pairs",
        type=one_of(("scale", "sdp")),
        default="scale",
        metavar="scale|sdp",
        help="bounds for pairs of classes: scale takes milliseconds, sdp is tighter and takes seconds (default: scale)",
    )
    parser.add_argument(
        "--seconds",
        type=non_negative,
        default=60.0,
        metavar="X",
        help="budget of each search; the best bound proved in it is kept (default: 60)",
    )
    parser.add_argument("--device", default="cpu", help="as everywhere; proofs are made on the processor all the same")
    parser.add_argument("--data", type=check_name, metavar="NAME", help="data set (default: the run's own)")
    add_data(parser)


def non_negative(text: str) -> float:
    """A finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def run(options: argparse.Namespace, output: Output) -> int:
    if options.norm == "linf":
        return linf.certify(options, output)
    start = time.perf_counter()
    from equilip import certify
    from equilip.chain import Chain
    from equilip.errors import IllPosedError, ProofError
    from equilip.nn import MonotonicWrapper
    from equilip.train import load_network, load_run
    from equilip.train.devices import device

    device(options.device)
    config, model = load_run(options.run)
    form = load_network(options.run)
    dataset = None
    if options.eps or options.radius:
        name, dataset = load_data(options, config.data, form, output)
    guarantee = model.guarantee()
    try:
        bound = certify.lipschitz(form, seconds=options.seconds)
    except (IllPosedError, ProofError):
        # Where something was promised, this says what broke it and what to do.
        certify.check_guarantee(form, guarantee)
        raise
    certify.check_guarantee(form, guarantee, bound=bound)
    path, found = f"{options.run}/certificate.json", None
    if isinstance(model, MonotonicWrapper) and not isinstance(form, Chain):
        found = certify.monotone(form, model.directions, bound=model.slope)
    certify.write_certificate(bound, path, monotone=found) if found is not None else bound.save(path)
    declared = None if guarantee is None else guarantee.bound
    values: dict[str, Any] = {
        "run": str(options.run),
        "norm": bound.norm,
        "declared": declared,
        "certified": bound.value,
        "declared_raw": None if declared is None else certify.raw_bound(form, declared),
        "certified_raw": bound.value_raw,
        # The bound of a chain is the product of its layers' norms.
        "product_of_norms": None if isinstance(form, Chain) else certify.product_of_norms(form),
        "product_of_norms_raw": None if isinstance(form, Chain) else certify.product_of_norms(form, raw=True),
        "method": bound.method,
        "converged": bound.converged,
        "note": bound.note,
        "inflation": bound.inflation,
        "seconds": bound.seconds,
        "form": bound.form_sha256,
        "certificate": path,
    }
    output.facts(f"{options.run}: l2 bounds on the slope of the output", rows(values))
    if found is not None:
        directions = found.directions[-1].tolist()
        values["monotone"] = {"directions": found.directions.tolist(), "method": found.method, "bound": found.bound}
        output.facts(
            f"{options.run}: proved to be monotone",
            [
                (f"the last output never {verb}", f"where input {', '.join(map(str, inputs))} grows")
                for verb, sign in (("falls", 1), ("rises", -1))
                if (inputs := [j for j, direction in enumerate(directions) if direction == sign])
            ],
        )
    if dataset is not None:
        pairs = certify.rows(form, bound, method=options.pairs, seconds=options.seconds)
        x = dataset.test_x.flatten(1)
        radii = certify.radius(form, x, dataset.test_y, bound=bound, pairs=pairs)
        values |= {"data": name, "pairs": options.pairs, **robustness(radii, options.eps)}
        show_radii(values, pairs.pairs_raw, bound, output)
    output.line(f"{path} written; check it: equilip verify {path}")
    output.result({**values, "total_seconds": time.perf_counter() - start})
    return 0


def rows(values: dict[str, Any]) -> list[tuple[str, str]]:
    """What is shown of a bound."""

    def slopes(name: str) -> str:
        return f"{above(values[name])} ({above(values[f'{name}_raw'])} per unit of raw input)"

    found = [
        ("declared", "none" if values["declared"] is None else slopes("declared")),
        ("proved", slopes("certified")),
    ]
    if values["product_of_norms"] is not None:
        found.append(("product of norms, for comparison", slopes("product_of_norms")))
    if values["method"] == "product":
        return [*found, ("proved by", "the product of the layers' bounds"), ("seconds", f"{values['seconds']:.2f}")]
    how = {"sdp": "semidefinite programme", "scale": "best multiple of known multipliers"}
    found += [
        (
            "multipliers from",
            how.get(values["method"], values["method"]) + ("" if values["converged"] else ", not optimal"),
        ),
        ("raised for rounding by", f"{values['inflation'] - 1.0:.0e} of itself"),
        ("seconds", f"{values['seconds']:.2f}"),
    ]
    return [*found, *([("note", values["note"])] if values["note"] else [])]


def robustness(radii: Tensor, eps: list[float]) -> dict[str, Any]:
    """How many of the samples are certified at each distance: a fraction of all, wrongly classified ones included."""
    table = [{"eps": value, "certified_accuracy": float((radii > value).double().mean())} for value in eps]
    return {"n": len(radii), "median_radius": float(radii.median()), "robustness": table}


def show_radii(values: dict[str, Any], pairs: Any, bound: Bound, output: Output) -> None:
    """The certified radii and accuracies for people."""
    largest = float(pairs.max()) / (math.sqrt(2.0) * bound.value_raw)
    output.facts(
        f"certified radii of {values['n']} test samples of {values['data']}, l2, raw units",
        [
            ("median radius", below(values["median_radius"])),
            ("largest pair bound / (sqrt 2 * whole bound)", f"{largest:.4f}"),
        ],
    )
    if values["robustness"]:
        output.table(
            "certified accuracy: classified rightly, and no point within eps is classified otherwise",
            ("eps", "certified"),
            [(f"{row['eps']:g}", f"{100 * row['certified_accuracy']:.2f} %") for row in values["robustness"]],
        )
