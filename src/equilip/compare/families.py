"""The families that are compared, each as what it changes of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: What kinds of networks there are, for the plot: each family belongs to one.
KINDS = ("equilibrium", "1-Lipschitz layers", "ordinary", "monotonic")


@dataclass(frozen=True)
class Family:
    """A family: ``name`` for folders, ``label`` for people, ``kind`` one of :data:`KINDS`.

    bounded: it has a bound by construction, and is trained for certified radii against it; margin: it has none, and is
    trained for them all the same. images: it takes nothing but images, and its width counts channels. changes: the
    fields of the training that are its own.
    """

    name: str
    label: str
    kind: str
    bounded: bool = False
    margin: bool = False
    images: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)


def _layers(name: str, label: str) -> Family:
    return Family(name, label, "1-Lipschitz layers", bounded=True, changes={"model": name, "depth": 2})


def _convolutions(name: str, label: str, **changes: Any) -> Family:
    own = {"model": f"{name}-conv", "depth": 2, "pool": 1, **changes}
    return Family(f"{name}-conv", f"{label} conv", "1-Lipschitz layers", bounded=True, images=True, changes=own)


def _ordinary(name: str, label: str, *, margin: bool = False, **changes: Any) -> Family:
    return Family(name, label, "ordinary", margin=margin, changes={"model": "feedforward", "depth": 2, **changes})


FAMILIES = (
    Family("lben", "LBEN", "equilibrium", bounded=True, changes={"model": "lben", "epsilon": 0.1}),
    Family("mondeq", "monDEQ", "equilibrium", changes={"model": "monotone", "m": 0.1}),
    Family("nemon", "NEMON", "equilibrium", changes={"model": "nemon"}),
    _layers("cpl", "CPL"),
    _layers("sll", "SLL"),
    _layers("aol", "AOL"),
    _layers("cayley", "orthogonal (Cayley)"),
    _layers("sandwich", "sandwich"),
    _layers("spectral", "spectral"),
    _ordinary("plain", "plain"),
    _ordinary("clip", "plain + CLIP", penalty="clip", regulariser=0.05, lr=2e-3),
    _ordinary("jacobian", "plain + Jacobian", penalty="jacobian", regulariser=0.02),
    _ordinary("margin", "plain + margin", margin=True),
    Family("monotonic", "monotonic", "monotonic", changes={"model": "monotonic", "depth": 2}),
)
#: Convolutional families, for images: compared where they are named, since their solves and proofs take longer.
CONVOLUTIONAL = (
    Family(
        "lben-conv", "LBEN conv", "equilibrium", bounded=True, images=True,
        changes={"model": "lben-conv", "epsilon": 0.1},
    ),
    Family("mondeq-conv", "monDEQ conv", "equilibrium", images=True, changes={"model": "lben-conv", "epsilon": 0.1}),
    Family("nemon-conv", "NEMON conv", "equilibrium", images=True, changes={"model": "nemon-conv"}),
    _convolutions("cpl", "CPL"),
    _convolutions("sll", "SLL"),
    _convolutions("aol", "AOL"),
    _convolutions("cayley", "orthogonal (Cayley)", padding="circular"),
    _convolutions("sandwich", "sandwich", padding="circular"),
    _convolutions("spectral", "spectral"),
)  # fmt: skip
EVERY = (*FAMILIES, *CONVOLUTIONAL)
#: Those that are compared where none are named.
NAMES = tuple(family.name for family in FAMILIES)
EVERY_NAME = tuple(family.name for family in EVERY)
