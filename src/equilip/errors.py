"""Every exception that equilip raises, each with what to do about it.

All derive from :class:`EquilipError`, so one ``except`` catches everything that is the library's to say.
Those that report a wrong argument also derive from :class:`ValueError`, as callers of Python libraries expect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equilip.solve import Solution


class EquilipError(Exception):
    """The root of everything that equilip raises on purpose."""


class InputError(EquilipError, ValueError):
    """An argument cannot be used as it is: a wrong shape, a NaN, a label out of range, a negative bound."""


class ActivationError(InputError):
    """An activation whose slopes leave [0, 1]; no guarantee of this library covers it."""


class IllPosedError(EquilipError, ValueError):
    """No multipliers were found that prove that W has exactly one equilibrium for every input.

    Use a parametrised module (``nn.LBEN``, ``nn.MonotoneNetwork``), or solve anyway with
    ``require_well_posed=False`` and look at ``Solution.converged``.
    """


class ConvergenceError(EquilipError, RuntimeError):
    """Some samples did not reach the tolerance.

    ``solution`` holds what was reached, per sample; None where it was an adjoint equation that failed.
    """

    def __init__(self, message: str, solution: Solution | None) -> None:
        super().__init__(message)
        self.solution = solution


class ToleranceError(ConvergenceError):
    """The tolerance asked for lies below what the number format can resolve for these weights."""


class ProofError(EquilipError):
    """A bound could not be proved for the stored numbers, with rounding accounted for."""


class FormatError(EquilipError, ValueError):
    """A file is not what it should be: truncated, altered, of another format or version."""


class DataError(EquilipError):
    """A data set is missing, incomplete, or not the one that its checksum names."""


class ConfigError(EquilipError, ValueError):
    """A configuration, a command-line option or a run directory that cannot be used."""
