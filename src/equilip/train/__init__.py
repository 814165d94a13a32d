"""The training loop, run directories, evaluation.

Torch is imported when a name that needs it is first used, so that a command line can be read without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from equilip.train.config import TrainConfig

if TYPE_CHECKING:
    from equilip.train.evaluation import Evaluation, evaluate
    from equilip.train.loop import fit
    from equilip.train.metrics import EpochMetrics
    from equilip.train.penalties import CLIP, Discrepancy, Jacobian
    from equilip.train.runs import load_form, load_network, load_run
    from equilip.train.session import resume, train

_ROOMS = {
    "CLIP": "penalties",
    "Discrepancy": "penalties",
    "Evaluation": "evaluation",
    "evaluate": "evaluation",
    "EpochMetrics": "metrics",
    "Jacobian": "penalties",
    "fit": "loop",
    "load_form": "runs",
    "load_network": "runs",
    "load_run": "runs",
    "resume": "session",
    "train": "session",
}

__all__ = [
    "CLIP",
    "Discrepancy",
    "EpochMetrics",
    "Evaluation",
    "Jacobian",
    "TrainConfig",
    "evaluate",
    "fit",
    "load_form",
    "load_network",
    "load_run",
    "resume",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return getattr(importlib.import_module(f"equilip.train.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'equilip.train' has no attribute {name!r}")
