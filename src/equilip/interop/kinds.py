"""The kinds of checkpoint that are understood: which tensors each holds, and of which shapes. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A published family of files. ``tensors`` gives each tensor's shape in n (neurons), p (inputs) and
    q (outputs); ``matlab`` files hold them under exactly these names, PyTorch files behind some prefix."""

    name: str
    summary: str
    tensors: dict[str, tuple[str, ...]]
    matlab: bool = False
    bounded: bool = False  # whether the file means nothing without its gamma
    margin: float | None = None  # the published epsilon (or m), where the parametrisation has one
    standardised: bool = True


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
