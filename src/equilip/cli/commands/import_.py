"""Turn a published checkpoint into a run directory: evaluate, certify and attack it like your own."""

from __future__ import annotations

import argparse

from equilip.cli.options import Parser, one_of
from equilip.cli.output import Output
from equilip.data.catalogue import CHANNELS
from equilip.interop import KINDS


def arguments(parser: Parser) -> None:
    parser.epilog = "\n".join(["kinds:", *(f"  {kind.name:<17} {kind.summary}" for kind in KINDS.values())])
    parser.add_argument("file", metavar="FILE", help="checkpoint: a PyTorch state_dict, or MATLAB for lmt-fc")
    parser.add_argument("--kind", type=one_of(KINDS), required=True, metavar="KIND", help="what FILE is, see below")
    parser.add_argument("--out", metavar="DIR", help="run directory (default: runs/NAME-OF-FILE)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in --out")
    parser.add_argument("--gamma", type=float, metavar="X", help="the bound that an lben-fc was trained with")
    parser.add_argument("--epsilon", type=float, metavar="X", help="the margin it was trained with (default: 1)")
    parser.add_argument(
        "--data",
        type=one_of(CHANNELS),
        metavar="NAME",
        help="data set whose standardisation it starts with (default: the one with as many inputs)",
    )
    parser.add_argument(
        "--dtype",
        type=one_of(("float32", "float64")),
        default="float64",
        help="number format to compute W in (default: float64)",
    )


def run(options: argparse.Namespace, output: Output) -> int:
    from equilip.interop.runs import import_run

    path, config, digest = import_run(
        options.file,
        options.kind,
        out=options.out,
        gamma=options.gamma,
        epsilon=options.epsilon,
        data_name=options.data,
        dtype=options.dtype,
        overwrite=options.overwrite,
    )
    model = config.model
    output.line(
        f"{path}: {options.kind}, {model.in_features} inputs, {sum(model.hidden)} neurons, "
        f"{model.out_features} outputs, form sha256 {digest[:12]}"
    )
    output.line(f"next: equilip evaluate {path}")
    output.result(
        {
            "run": str(path),
            "kind": options.kind,
            "in_features": model.in_features,
            "hidden": list(model.hidden),
            "out_features": model.out_features,
            "data": config.data,
            "form": digest,
        }
    )
    return 0
