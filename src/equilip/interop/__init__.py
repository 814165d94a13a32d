"""Other people's checkpoints in.

:func:`load` turns a published file of one of :data:`KINDS` into one of our modules. Torch is imported when it
is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from equilip.interop.kinds import KINDS

if TYPE_CHECKING:
    from equilip.interop.published import guess_data, load

__all__ = ["KINDS", "guess_data", "load"]


def __getattr__(name: str) -> object:
    if name in ("guess_data", "load"):
        return getattr(importlib.import_module("equilip.interop.published"), name)
    raise AttributeError(f"module 'equilip.interop' has no attribute {name!r}")
