"""Equilibrium networks whose robustness is guaranteed.

The names below are imported when they are first used, so that ``import equilip`` (and with it
``equilip --help`` and the stand-alone ``equilip.checker``) loads neither torch nor anything else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_ROOMS = (
    "activations",
    "certify",
    "checker",
    "data",
    "errors",
    "form",
    "interop",
    "nn",
    "operators",
    "solve",
    "train",
)

if TYPE_CHECKING:
    from equilip import (
        activations,
        certify,
        checker,
        data,
        errors,
        form,
        interop,
        nn,
        operators,
        solve,
        train,
    )

__all__ = [*_ROOMS]


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return importlib.import_module(f"equilip.{name}")
    raise AttributeError(f"module 'equilip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS]
