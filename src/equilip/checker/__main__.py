"""``python -m equilip.checker CERTIFICATE [--form PATH] [--json]``; exit status 0 valid, 1 invalid, 2 unreadable."""

from __future__ import annotations

import argparse
import json
import sys

from equilip.checker import Verdict, check


def as_json(verdict: Verdict) -> str:
    """The verdict as one JSON object; bounds also in hexadecimal, which is exact."""
    claims = [
        {name: value for name, value in claim._asdict().items() if name != "directions" or value}
        | {"bound_hex": claim.bound.hex()}
        for claim in verdict.claims
    ]
    word = "VALID" if verdict.valid else "UNREADABLE" if verdict.unreadable else "INVALID"
    fields = {"verdict": word, "reason": verdict.reason, "sha256": verdict.digest, "claims": claims}
    return json.dumps(fields)


def as_text(verdict: Verdict) -> str:
    """The verdict for people."""
    if not verdict.valid:
        return f"{'UNREADABLE' if verdict.unreadable else 'INVALID'}: {verdict.reason}"
    lines = [f"VALID for the form with sha256 {verdict.digest}:"]
    for claim in verdict.claims:
        if claim.directions:
            lines.append("  monotone: every input has exactly one equilibrium, and")
            lines += [f"    {said}" for k, row in enumerate(claim.directions) for said in directions(k, row)]
            continue
        statement = f"every input has exactly one equilibrium, and {claim.norm} slopes are at most {claim.bound!r}"
        lines.append(f"  {claim.kind}: {statement} ({claim.bound.hex()}) in {claim.units} input units")
    return "\n".join(lines)


def directions(output: int, row: tuple[int, ...]) -> list[str]:
    """What is said of one output's monotonicity; both are counted from 0."""
    said = []
    for sign, verb in ((1, "never falls"), (-1, "never rises")):
        inputs = [str(j) for j, direction in enumerate(row) if direction == sign]
        if inputs:
            said.append(f"output {output} {verb} where input {', '.join(inputs)} grows")
    return said


def main(arguments: list[str] | None = None) -> int:
    """Check, print, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m equilip.checker", description="Check a certificate.")
    parser.add_argument("certificate", help="certificate.json")
    parser.add_argument("--form", help="the form, where it is not the file that the certificate names")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    verdict = check(options.certificate, options.form)
    print(as_json(verdict) if options.json else as_text(verdict))
    return verdict.exit_status


if __name__ == "__main__":
    sys.exit(main())
