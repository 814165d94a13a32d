"""Train every family of networks on one data set at equal parameters and equal time, and compare what comes of it.

Every network is an ordinary run directory in --out. What is finished is skipped on the next call (--resume). At the end
--out holds comparison.html, with the table and the plots, and comparison.md and comparison.json with the numbers.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from equilip.cli.options import Parser, add_data, count, one_of
from equilip.cli.output import Output
from equilip.compare.families import CONVOLUTIONAL, EVERY_NAME, FAMILIES
from equilip.data import check_name
from equilip.errors import ConfigError


def arguments(parser: Parser) -> None:
    parts = (("families:", FAMILIES), ("families of images, compared where --families names them:", CONVOLUTIONAL))
    parser.epilog = "\n".join(
        line for title, some in parts for line in (title, *(f"  {family.name:<14} {family.label}" for family in some))
    )
    parser.add_argument("--data", type=check_name, default="digits", metavar="NAME", help="data set (default: digits)")
    parser.add_argument("--out", metavar="DIR", help="folder of the runs (default: runs/compare-DATA)")
    parser.add_argument("--resume", action="store_true", help="go on with what is in --out")
    parser.add_argument(
        "--families",
        nargs="+",
        type=one_of(EVERY_NAME),
        metavar="NAME",
        help="only these (default: all but those of images)",
    )
    parser.add_argument("--parameters", type=count, metavar="N", help="of every network (default: as suits the data)")
    parser.add_argument(
        "--seconds", type=float, metavar="X", help="of the processor for every training (default: as suits the data)"
    )
    parser.add_argument("--runs", type=count, metavar="N", help="seeds, from --seed on (default: as suits the data)")
    parser.add_argument(
        "--eps", type=float, nargs="+", metavar="X", help="raw l2 distances (default: four that suit the data)"
    )
    parser.add_argument(
        "--attacked", type=count, metavar="N", help="test samples to attack (default: as suits the data)"
    )
    parser.add_argument(
        "--increasing", type=int, nargs="+", metavar="N", help="inputs of the monotonic family that rise"
    )
    parser.add_argument(
        "--decreasing", type=int, nargs="+", metavar="N", help="inputs of the monotonic family that fall"
    )
    parser.add_argument(
        "--jobs", type=count, metavar="N", help="networks at once, one thread each (default: one for each core)"
    )
    parser.add_argument(
        "--device", default="cpu", help="cpu: times are compared, and proofs are made, on the processor"
    )
    add_data(parser)


def run(options: argparse.Namespace, output: Output) -> int:
    if options.device != "cpu":
        raise ConfigError("the families are compared on the processor: leave out --device")
    name = options.data.removeprefix("npz:")
    out = Path(options.out or f"runs/compare-{Path(name).stem if name != options.data else name}")
    if out.exists() and not options.resume and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; go on with what is in it with --resume, or choose another --out")
    # Torch's profiler, which measures memory, warns of what was allocated before it was asked.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from equilip.compare.page import account, write
    from equilip.compare.settings import settings
    from equilip.compare.tables import sentences
    from equilip.compare.work import carry_out

    def several(values: list[float] | None) -> tuple[float, ...] | None:
        return None if values is None else tuple(values)

    chosen = settings(
        options.data,
        limit=options.limit,
        families=None if options.families is None else tuple(options.families),
        parameters=options.parameters,
        seconds=options.seconds,
        runs=options.runs,
        seed=options.seed,
        eps=several(options.eps and sorted(options.eps)),
        attacked=options.attacked,
        increasing=several(options.increasing),
        decreasing=several(options.decreasing),
    )
    try:
        comparison = carry_out(
            chosen,
            out,
            data_dir=options.data_dir,
            jobs=options.jobs or len(os.sched_getaffinity(0)),
            said=lambda network, text: output.line(f"{network}: {text}"),
        )
    except KeyboardInterrupt:
        output.line("stopped; call again with --resume to go on")
        raise
    found = account(comparison, command(options))
    page = write(found, out)
    for title, _, table in found.tables():
        output.table(title, table.columns, table.rows)
    for sentence in sentences(comparison):
        output.line(sentence)
    output.line(f"open {page}; for documentation: {out / 'comparison.md'}")
    output.result({"out": str(out), "page": str(page), **found.as_table()})
    return 1 if any(result.bugs for result in comparison.results) else 0


def command(options: argparse.Namespace) -> str:
    """What repeats the comparison, but for where its data and its results lie."""
    words = ["equilip", "compare", "--data", options.data]
    for name in ("families", "parameters", "seconds", "runs", "eps", "attacked", "increasing", "decreasing", "limit"):
        value = getattr(options, name)
        if value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *(f"{each:g}" if isinstance(each, float) else str(each) for each in values)]
    words += ["--seed", str(options.seed)] if options.seed else []
    return shlex.join(words)
