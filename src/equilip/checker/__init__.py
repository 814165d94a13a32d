"""The stand-alone checker of certificates: Python, numpy, and nothing else of equilip.

It reads ``certificate.json`` and ``form.safetensors``, builds the matrix of each claim from the stored numbers
in exact integer arithmetic, and proves it positive definite (or, for some l-infinity bounds, checks inequalities).
docs/what-is-proved.md says what must be trusted.
Read it in this order: verdict, exact, definite, quadratic, claims, files; convolution and contraction stand alone,
and so do gram, maps and chain; tiers comes after convolution.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from equilip.checker.chain import parse_chain, prove_chain
from equilip.checker.claims import prove_all
from equilip.checker.contraction import parse_contracting, prove_contractions
from equilip.checker.convolution import parse_convolutional, prove_convolutional
from equilip.checker.files import MAX_CERTIFICATE, MAX_FORM, parse_certificate, parse_form, parse_metadata, read
from equilip.checker.tiers import parse_tiered, prove_tiered
from equilip.checker.verdict import Claim, Refused, Unreadable, Verdict

__all__ = ["Claim", "Verdict", "check"]


def check(certificate: str | os.PathLike[str], form: str | os.PathLike[str] | None = None) -> Verdict:
    """Check a certificate against its form (the file it names, beside it, unless ``form`` says where).

    ``valid`` is True only if every claim is true of the numbers in the form, whose sha256 is ``digest``:
    of the network in exact arithmetic, its activations the mathematical functions. False says that this
    program found no proof, not that the claims are false. No content of the files raises an exception.
    """
    digest = ""
    try:
        stated = parse_certificate(read(Path(certificate), MAX_CERTIFICATE))
        content = read(Path(form) if form is not None else Path(certificate).parent / stated.file, MAX_FORM)
        digest = hashlib.sha256(content).hexdigest()
        if digest != stated.sha256:
            raise Refused(f"the certificate is for another form: sha256 {stated.sha256}, found {digest}")
        fields, tensors = parse_metadata(content)
        # Floating point only makes proposals here; where it overflows, a proof fails and says so.
        with np.errstate(all="ignore"):
            if "layers" in fields:
                claims = prove_chain(parse_chain(fields, tensors), stated.claims)
            elif fields["format"] == "equilip.form/2" and "W" in tensors:
                claims = prove_contractions(parse_contracting(fields, tensors), stated.claims)
            elif fields["format"] == "equilip.form/2" and "K" in tensors:
                claims = prove_tiered(parse_tiered(fields, tensors), stated.claims)
            elif fields["format"] == "equilip.form/2":
                claims = prove_convolutional(parse_convolutional(fields, tensors), stated.claims)
            else:
                claims = prove_all(parse_form(content), stated.claims)
    except Refused as refusal:
        return Verdict(False, str(refusal), digest=digest)
    except Unreadable as failure:
        return Verdict(False, str(failure), digest=digest, unreadable=True)
    except (MemoryError, RecursionError) as error:
        return Verdict(False, f"too large or too deeply nested: {type(error).__name__}", digest=digest)
    return Verdict(True, "every claim is proved", claims, digest)
