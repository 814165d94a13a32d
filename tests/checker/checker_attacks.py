"""The loop of every tampering suite: attack true certificates, and let a second opinion judge what is accepted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from equilip.checker import check

Files = tuple[bytes, bytes]


def tamper(
    folder: Path,
    new: Callable[[], Any],
    always_caught: Sequence[Callable[[Any], Files]],
    caught_where_false: Sequence[Callable[[Any], Files]],
    holds: Callable[[bytes, bytes], bool],
    *,
    cases: int,
    each: int,
    harmless: Sequence[Callable[[Any], Files]] = (),
) -> None:
    """``cases`` attacks in turn, on a new certified form every ``each`` of them.

    Nothing may be valid after an attack of ``always_caught``; after others only what ``holds`` by itself. Each of the
    others has to be refused at least once, so that it is known to bite, unless it is ``harmless``.
    """
    form_path, certificate_path = folder / "form.safetensors", folder / "certificate.json"
    attacks = [*always_caught, *caught_where_false]
    refused: Counter[str] = Counter()
    case: Any = None
    for number in range(cases):
        if number % each == 0:
            case = new()
            form_path.write_bytes(case.form)
            certificate_path.write_bytes(case.certificate())
            verdict = check(certificate_path)
            assert verdict.valid, verdict.reason
            assert holds(case.certificate(), case.form)
        attack = attacks[number % len(attacks)]
        stated, form = attack(case)
        form_path.write_bytes(form)
        certificate_path.write_bytes(stated)
        verdict = check(certificate_path)
        where = f"case {number}: {attack.__name__}"
        if verdict.valid:
            assert attack not in always_caught, where
            assert holds(stated, form), where
        else:
            assert verdict.exit_status, where
            assert verdict.claims == (), where
            refused[attack.__name__] += 1
    for attack in caught_where_false:
        assert refused[attack.__name__] or attack in harmless, attack.__name__


def flipped(case: Any, content: bytes) -> bytes:
    """One bit changed."""
    changed = bytearray(content)
    changed[int(case.rng.integers(len(content)))] ^= 1 << int(case.rng.integers(8))
    return bytes(changed)


def flipped_certificate(case: Any) -> Files:
    return flipped(case, case.certificate()), case.form


def flipped_form(case: Any) -> Files:
    return case.certificate(), flipped(case, case.form)


def flipped_form_with_new_digest(case: Any) -> Files:
    form = flipped(case, case.form)
    return case.certificate(form), form
