"""Data sets: download, verify, load. Everything is held in memory, in raw units, and flattened.

:func:`load` gives a :class:`Dataset` by name. Torch is imported when either is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from equilip.data.catalogue import NAMES

if TYPE_CHECKING:
    from equilip.data.dataset import Dataset, load, standardisation

__all__ = ["NAMES", "Dataset", "load", "standardisation"]


def __getattr__(name: str) -> object:
    if name in ("Dataset", "load", "standardisation"):
        return getattr(importlib.import_module("equilip.data.dataset"), name)
    raise AttributeError(f"module 'equilip.data' has no attribute {name!r}")
