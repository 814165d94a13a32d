"""Data sets: download, verify, load. Everything is held in memory, in raw units, and flattened.

:func:`load` gives a :class:`Dataset` by name, :func:`from_arrays` one of your own. Torch is imported when either is
first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from equilip.data.catalogue import NAMES, check_name

if TYPE_CHECKING:
    from equilip.data.dataset import Dataset
    from equilip.data.known import load, standardisation
    from equilip.data.own import from_arrays, read_npz

_ROOMS = {
    "Dataset": "dataset",
    "from_arrays": "own",
    "load": "known",
    "read_npz": "own",
    "standardisation": "known",
}

__all__ = ["NAMES", "Dataset", "check_name", "from_arrays", "load", "read_npz", "standardisation"]


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"equilip.data.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'equilip.data' has no attribute {name!r}")
