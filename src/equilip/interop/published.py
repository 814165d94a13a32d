"""From other people's parameters to our modules."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import Tensor

from equilip import data, nn
from equilip import form as forms
from equilip.data.catalogue import CHANNELS, SHAPES
from equilip.errors import FormatError, InputError
from equilip.form import Standardisation
from equilip.interop import checkpoint, convolutional
from equilip.interop.kinds import KINDS

Imported = nn.LBEN | nn.LBENConv | nn.MonotoneNetwork | nn.Explicit | nn.FeedForward


def guess_data(in_features: int) -> str | None:
    """The data set whose images have that many numbers, mnist before fashion-mnist; None if there is none."""
    return next((name for name, shape in SHAPES.items() if math.prod(shape) == in_features), None)


def load(
    path: str | os.PathLike[str],
    kind: str,
    *,
    gamma: float | None = None,
    epsilon: float | None = None,
    data_name: str | None = None,
    dtype: torch.dtype = torch.float64,
) -> Imported:
    """A published checkpoint as one of our modules, in eval mode.

    kind: a key of :data:`KINDS`. gamma: the bound that an ``lben-fc`` or ``lben-conv-lip`` was trained with; the
        file does not hold it, and with another one it is another network. epsilon: the margin that the authors call m
        (as they published it: 1 for dense networks, 0.1 for convolutional ones).
    data_name: the data set that the network was trained on, whose standardisation it starts with (``lmt-fc``
        takes raw pixels); by default the one whose images have as many numbers as the network has inputs.

    Raises FormatError for a file that is not what ``kind`` says, InputError for a wrong argument.
    """
    if kind not in KINDS:
        raise InputError(f"unknown kind {kind!r}; choose one of {', '.join(KINDS)}")
    described = KINDS[kind]
    if described.bounded and gamma is None:
        raise InputError(f"a checkpoint of kind {kind} needs its gamma (--gamma): the file does not hold it")
    if not described.bounded and gamma is not None:
        raise InputError(f"gamma means nothing to a checkpoint of kind {kind}; leave it out")
    if described.margin is None and epsilon is not None:
        raise InputError(f"epsilon means nothing to a checkpoint of kind {kind}; leave it out")
    for name, value in (("gamma", gamma), ("epsilon", epsilon)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be a positive number, got {value:g}")
    tensors = checkpoint.read(Path(path), described, dtype)
    margin = described.margin if epsilon is None else epsilon
    if kind in ("lben-conv", "lben-conv-lip"):
        assert margin is not None
        return convolutional.module(tensors, gamma, margin, data_name, Path(path)).eval()
    p = next(tensors[name].shape[1] for name, shape in described.tensors.items() if shape == ("n", "p"))
    standardisation = _standardisation(data_name, p, dtype, described.standardised)
    return _module(kind, tensors, gamma, 1.0 if margin is None else margin, standardisation, Path(path)).eval()


def _standardisation(name: str | None, p: int, dtype: torch.dtype, standardised: bool) -> Standardisation | None:
    name = guess_data(p) if name is None else name
    if name is None:
        return None
    if name not in CHANNELS:
        raise InputError(f"unknown data set {name!r}; choose one of {', '.join(CHANNELS)}")
    if math.prod(SHAPES[name]) != p:
        raise InputError(f"the network takes {p} numbers, {name} has {math.prod(SHAPES[name])}")
    return data.standardisation(name).to(dtype, None) if standardised else None


def _module(
    kind: str,
    t: dict[str, Tensor],
    gamma: float | None,
    epsilon: float,
    standardisation: Standardisation | None,
    path: Path,
) -> Imported:
    dtype = next(iter(t.values())).dtype
    if kind == "lben-fc":
        n, p = t["B.weight"].shape
        lben = nn.LBEN(
            p,
            n,
            len(t["G.bias"]),
            gamma,
            epsilon=epsilon,
            standardisation=standardisation,
            dtype=dtype,
        )
        return _fill(
            lben,
            V=t["V.weight"],
            S=t["S.weight"],
            psi=t["psi"],
            U=t["B.weight"],
            b=t["B.bias"],
            C=t["G.weight"],
            c=t["G.bias"],
        )
    if kind == "lmt-fc":
        n, p = t["W1"].shape
        feedforward = nn.FeedForward(p, (n,), len(t["b2"]), standardisation=standardisation, dtype=dtype)
        with torch.no_grad():
            for layer, number in enumerate("12"):
                feedforward.weights[layer].copy_(t[f"W{number}"])
                feedforward.biases[layer].copy_(t[f"b{number}"])
        return feedforward
    U, b, C, c = (t[name] for name in ("U.weight", "U.bias", "Wout.weight", "Wout.bias"))
    n, p = U.shape
    if kind == "unconstrained-fc":
        form = forms.dense(t["Wp"], U, b, C, c, standardisation=standardisation)
        return nn.Explicit(form)
    if kind == "mondeq-fc":
        monotone = nn.MonotoneNetwork(p, n, len(c), m=epsilon, standardisation=standardisation, dtype=dtype)
        return _fill(monotone, A=t["A.weight"], B=t["B.weight"], U=U, b=b, C=C, c=c)
    if not bool((t["Lambda"] > 0).all()):
        raise FormatError(f"{path}: Lambda must be positive; its smallest entry is {float(t['Lambda'].min()):g}")
    ode = nn.LBEN(p, n, len(c), None, epsilon=epsilon, standardisation=standardisation, dtype=dtype)
    return _fill(ode, V=t["V.weight"], S=t["S.weight"], psi=t["Lambda"].log(), U=U, b=b, C=C, c=c)


def _fill(module: Imported, **values: Tensor) -> Imported:
    """Copy the values into the parameters of these names."""
    with torch.no_grad():
        for name, value in values.items():
            module.get_parameter(name).copy_(value)
    return module
