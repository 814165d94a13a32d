"""What a check can end with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Refused(Exception):  # noqa: N818 - an outcome, not a mishap
    """The files were read and the certificate proves nothing: INVALID, with the reason as message."""


class Unreadable(Exception):  # noqa: N818
    """There is nothing to judge: a file is missing, cannot be read, or the certificate is not JSON at all."""


class Claim(NamedTuple):
    """A statement about the form that has been proved.

    ``directions`` (q, p) is what claims of kind ``monotone`` are about: 1 where the output never falls when the input
    grows, -1 where it never rises, 0 where nothing is said. It is empty for all others.
    """

    kind: str
    norm: str
    units: str
    bound: float
    directions: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check. ``claims`` holds what was proved, and is empty unless ``valid``."""

    valid: bool
    reason: str
    claims: tuple[Claim, ...] = ()
    digest: str = ""  #: sha256 of the form's file, as found; empty where it was not read
    unreadable: bool = False

    @property
    def exit_status(self) -> int:
        """0: valid, 1: invalid, 2: unreadable."""
        return 0 if self.valid else 2 if self.unreadable else 1
