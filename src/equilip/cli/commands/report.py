"""Write one HTML page about a run, or about several compared: to be opened in any browser, without a network.

The page says what was trained, its test error, what is proved beside what attacks found, and what is missing, with the
command that makes it. Nothing is measured: run evaluate, certify and attack first. But every certificate is checked
anew by the stand-alone checker. Exit status 1 if one proves nothing, if a file is damaged, or if something that was
found contradicts what is proved.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equilip.cli.commands.certify import non_negative
from equilip.cli.options import Parser
from equilip.cli.output import Output

if TYPE_CHECKING:
    from equilip.report import Findings


def arguments(parser: Parser) -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="run directories")
    parser.add_argument(
        "--out", metavar="FILE", help="the page (default: RUN/report.html; for several runs, report.html here)"
    )
    parser.add_argument(
        "--eps",
        type=non_negative,
        nargs="+",
        default=[],
        metavar="X",
        help="perturbation sizes at which accuracies are tabulated, raw units (default: some of the attack's)",
    )


def run(options: argparse.Namespace, output: Output) -> int:
    from equilip import report

    found = report.gather(options.runs)
    path = Path(options.out or (Path(options.runs[0]) / "report.html" if len(found) == 1 else "report.html"))
    report.write(found, path, options.eps)
    for each in found:
        for notice in each.notices:
            output.line(f"{each.name}: {notice.text}" + (f": {notice.command}" if notice.command else ""))
    output.line(f"{path} written; open it in a browser")
    output.result({"report": str(path), "runs": [values(each) for each in found]})
    return 1 if any(notice.serious for each in found for notice in each.notices) else 0


def values(found: Findings) -> dict[str, Any]:
    """What the report says of a run, in numbers."""
    check, attacked = found.check, found.attacked
    word = None
    if check is not None:
        word = "VALID" if check.verdict.valid else "UNREADABLE" if check.verdict.unreadable else "INVALID"
    return {
        "run": str(found.path),
        "form": found.form_sha256,
        "verdict": word,
        "certificate_sha256": None if check is None else check.digest,
        "test_error_percent": found.test_error_percent,
        "declared": found.declared,
        "certified": found.proved,
        "certified_raw": found.proved_raw,
        "largest_slope": None if attacked is None else attacked.largest_slope,
        "largest_slope_raw": None if attacked is None else attacked.largest_slope_raw,
        "tightness_percent": found.tightness_percent,
        "notices": [notice.text for notice in found.notices],
    }
