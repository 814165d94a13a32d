"""Check a certificate with the stand-alone checker: VALID or INVALID, and why.

Trusts nothing of the certificate, nothing of the program that wrote it, and no floating-point proof: the claims
are proved anew in exact integers. Exit status 0 valid, 1 invalid, 2 unreadable. `python -m equilip.checker`
does the same with numpy alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from equilip.cli.options import Parser
from equilip.cli.output import Output


def arguments(parser: Parser) -> None:
    parser.add_argument("certificate", metavar="CERT", help="a certificate; for a run its certificate.json")
    parser.add_argument("--form", metavar="PATH", help="the form, where it is not the file that the certificate names")


def run(options: argparse.Namespace, output: Output) -> int:
    from equilip.checker import check
    from equilip.checker.__main__ import as_json, as_text

    certificate = Path(options.certificate)
    if certificate.is_dir():
        certificate /= "certificate.json"
    verdict = check(certificate, options.form)
    output.line(as_text(verdict))
    output.result(json.loads(as_json(verdict)))
    return verdict.exit_status
