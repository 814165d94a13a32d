"""The HTML report of runs, and its plots.

:func:`gather` reads run directories and checks their certificates anew; :func:`write` makes one page of them.
:mod:`equilip.report.plots` draws lines and points as SVG that follows the reader's light or dark scheme; it knows
nothing of runs, so that others can draw with it. Torch is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from equilip.report.findings import Findings, Notice, gather, look
    from equilip.report.page import render, write
    from equilip.report.results import Check

_ROOMS = {
    "Check": "results",
    "Findings": "findings",
    "Notice": "findings",
    "gather": "findings",
    "look": "findings",
    "render": "page",
    "write": "page",
}

__all__ = ["Check", "Findings", "Notice", "gather", "look", "render", "write"]


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"equilip.report.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'equilip.report' has no attribute {name!r}")
