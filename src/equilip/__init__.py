"""Equilibrium networks whose robustness is guaranteed.

The rooms below are imported when they are first used, so that ``import equilip`` (and with it
``equilip --help`` and the stand-alone ``equilip.checker``) loads neither torch nor anything else.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_ROOMS = frozenset(
    (
        "activations",
        "attack",
        "certify",
        "checker",
        "data",
        "errors",
        "estimators",
        "form",
        "interop",
        "nn",
        "norms",
        "operators",
        "report",
        "solve",
        "train",
    )
)

#: Names of rooms that are handed on here.
_NAMES = {"LipschitzClassifier": "estimators", "LipschitzRegressor": "estimators"}


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return importlib.import_module(f"equilip.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"equilip.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'equilip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS, *_NAMES]
