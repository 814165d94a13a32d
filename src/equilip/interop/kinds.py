"""The kinds of checkpoint that are understood: which tensors each holds, and of which shapes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A published family of files.

    ``tensors`` gives each tensor's shape in letters: n (neurons), p (inputs), q (outputs), c (channels) and so on, the
    same letter always the same size. ``matlab`` files hold them under exactly these names, PyTorch files behind some
    prefix.
    """

    name: str
    summary: str
    tensors: dict[str, tuple[str, ...]]
    matlab: bool = False
    bounded: bool = False  # whether the file means nothing without its gamma
    margin: float | None = None  # the published epsilon (or m), where the parametrisation has one
    standardised: bool = True


#: Kernels of c channels and i inputs, k x l pixels; psi has one letter for each of its sizes, which need not be c.
_CONVOLUTIONAL: dict[str, tuple[str, ...]] = {
    "psi": ("one", "d", "h", "w"),
    "U.weight": ("c", "i", "k", "l"),
    "U.bias": ("c",),
    "A.weight": ("c", "c", "k", "l"),
    "B.weight": ("c", "c", "k", "l"),
    "Wout.weight": ("q", "m"),
    "Wout.bias": ("q",),
}

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "lben-fc",
            "dense LBEN with a Lipschitz bound (Revay, Wang, Manchester 2020)",
            {
                "psi": ("n",),
                "B.weight": ("n", "p"),
                "B.bias": ("n",),
                "V.weight": ("n", "n"),
                "S.weight": ("n", "n"),
                "G.weight": ("q", "n"),
                "G.bias": ("q",),
            },
            bounded=True,
            margin=1.0,
        ),
        Kind(
            "lben-ode-fc",
            "dense LBEN without a bound (the same authors)",
            {
                "Lambda": ("n",),
                "U.weight": ("n", "p"),
                "U.bias": ("n",),
                "V.weight": ("n", "n"),
                "S.weight": ("n", "n"),
                "Wout.weight": ("q", "n"),
                "Wout.bias": ("q",),
            },
            margin=1.0,
        ),
        Kind(
            "lben-conv",
            "convolutional LBEN without a bound (the authors of lben-fc)",
            {"g": (), "h": (), **_CONVOLUTIONAL},
            margin=0.1,
        ),
        Kind(
            "lben-conv-lip",
            "convolutional LBEN with a Lipschitz bound (the same authors)",
            {"a": (), "b": (), "g": (), "u": (), **_CONVOLUTIONAL},
            bounded=True,
            margin=0.1,
        ),
        Kind(
            "mondeq-fc",
            "dense monotone network (Winston, Kolter 2020)",
            {
                "U.weight": ("n", "p"),
                "U.bias": ("n",),
                "A.weight": ("n", "n"),
                "B.weight": ("n", "n"),
                "Wout.weight": ("q", "n"),
                "Wout.bias": ("q",),
            },
            margin=1.0,
        ),
        Kind(
            "unconstrained-fc",
            "equilibrium network with a free W: nothing guarantees an equilibrium",
            {
                "Wp": ("n", "n"),
                "U.weight": ("n", "p"),
                "U.bias": ("n",),
                "Wout.weight": ("q", "n"),
                "Wout.bias": ("q",),
            },
        ),
        Kind(
            "lmt-fc",
            "feed-forward network of Lipschitz-margin training, a MATLAB file; takes raw pixels",
            {"W1": ("n", "p"), "b1": ("n",), "W2": ("q", "n"), "b2": ("q",)},
            matlab=True,
            standardised=False,
        ),
    )
}
