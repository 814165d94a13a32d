"""Carry out a published experiment, and put its numbers beside the published ones.

Every network is an ordinary run directory in --out, trained, evaluated, certified and attacked as the other commands
do it. What is finished is skipped on the next call (--resume), so an interrupted experiment loses an epoch at most. At
the end --out holds reproduction.html, the plots as SVG, and reproduction.md and reproduction.json with the table.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from equilip.cli.options import Parser, add_data, count, one_of
from equilip.cli.output import Output
from equilip.errors import ConfigError
from equilip.paper import EXPERIMENTS


def arguments(parser: Parser) -> None:
    parser.epilog = "\n".join(["experiments:", *(f"  {name}" for name in EXPERIMENTS)])
    parser.add_argument("experiment", type=one_of(EXPERIMENTS), metavar="NAME", help="the experiment, see below")
    parser.add_argument("--quick", action="store_true", help="a few epochs and samples only, to see that it works")
    parser.add_argument("--out", metavar="DIR", help="folder of the runs (default: runs/NAME, or runs/NAME-quick)")
    parser.add_argument("--resume", action="store_true", help="go on with what is in --out")
    parser.add_argument(
        "--jobs", type=count, metavar="N", help="networks at once, one thread each (default: one for each core)"
    )
    add_data(parser)


def run(options: argparse.Namespace, output: Output) -> int:
    name = options.experiment
    out = Path(options.out or f"runs/{name}{'-quick' if options.quick else ''}")
    if out.exists() and not options.resume and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; go on with what is in it with --resume, or choose another --out")
    experiment = EXPERIMENTS[name](quick=options.quick, seed=options.seed, limit=options.limit, device=options.device)
    from equilip.paper.page import account, write
    from equilip.paper.work import carry_out

    try:
        carry_out(
            experiment,
            out,
            data_dir=options.data_dir,
            jobs=options.jobs or len(os.sched_getaffinity(0)),
            said=lambda network, text: output.line(f"{network}: {text}"),
        )
    except KeyboardInterrupt:
        output.line("stopped; call again with --resume to go on")
        raise
    found = account(experiment, out, command(options))
    page = write(found, out)
    for title, table in found.tables():
        output.table(title, table.columns, table.rows)
    for sentence in found.sentences:
        output.line(sentence)
    output.line(f"open {page}; for documentation: {out / 'reproduction.md'}")
    output.result({"out": str(out), "page": str(page), **found.as_table()})
    return 1 if any(result.bugs for result in found.results) else 0


def command(options: argparse.Namespace) -> str:
    """What repeats the experiment, but for where its data and its results lie."""
    words = ["equilip", "reproduce", options.experiment]
    words += ["--quick"] if options.quick else []
    words += ["--seed", str(options.seed)] if options.seed else []
    words += ["--limit", str(options.limit)] if options.limit is not None else []
    words += ["--device", options.device] if options.device != "cpu" else []
    return shlex.join(words)
