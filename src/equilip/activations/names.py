"""Activations by name, from torch modules, and as files describe them."""

from __future__ import annotations

from typing import Any

import torch

from equilip.activations.activation import Activation
from equilip.activations.blockwise import blocks, join
from equilip.activations.piecewise import HardTanh, Identity, LeakyReLU, ReLU
from equilip.activations.smooth import ELU, Sigmoid, Softplus, Tanh
from equilip.errors import ActivationError, FormatError, InputError

#: Slope intervals of the popular activations that no guarantee covers (mathematics 0).
REFUSED: dict[str, tuple[float, float]] = {
    "gelu": (-0.128905, 1.128905),
    "silu": (-0.099840, 1.099840),
    "mish": (-0.11253, 1.08850),
    "selu": (0.0, 1.758099),
    "hardswish": (-0.5, 1.5),
}

_KINDS: dict[str, type[Activation]] = {
    kind.kind: kind for kind in (ReLU, LeakyReLU, Tanh, ELU, Softplus, HardTanh, Sigmoid, Identity)
}


def refuse(name: str) -> ActivationError:
    """The error for an activation that this library cannot cover, naming its slope interval where known."""
    known = REFUSED.get(name.lower())
    if known is not None:
        return ActivationError(
            f"{name} has slopes in [{known[0]:g}, {known[1]:g}], outside [0, 1]: no guarantee here covers it; "
            f"use one of {', '.join(_KINDS)}"
        )
    return ActivationError(f"unknown activation {name!r}; use one of {', '.join(_KINDS)}")


def activation(name: str, **parameters: float) -> Activation:
    """The activation of that name ("relu", "tanh", ...), with its parameters.

    Raises ActivationError for names that are unknown or whose slopes leave [0, 1] (gelu, silu, ...).
    """
    kind = _KINDS.get(name.lower())
    if kind is None:
        raise refuse(name)
    try:
        return kind(**parameters)
    except TypeError:
        raise InputError(f"{name} takes no parameters {sorted(parameters)}") from None


def from_module(module: torch.nn.Module) -> Activation:
    """The activation that a torch module such as ``torch.nn.ReLU()`` stands for; ActivationError if none."""
    match module:
        case torch.nn.ReLU():
            return ReLU()
        case torch.nn.LeakyReLU():
            return LeakyReLU(float(module.negative_slope))
        case torch.nn.ReLU6():
            return HardTanh(0.0, 6.0)
        case torch.nn.Hardtanh():
            return HardTanh(float(module.min_val), float(module.max_val))
        case torch.nn.ELU():
            return ELU(float(module.alpha))
        case torch.nn.Tanh():
            return Tanh()
        case torch.nn.Sigmoid():
            return Sigmoid()
        case torch.nn.Softplus() if module.beta == 1:
            return Softplus()
        case torch.nn.Identity():
            return Identity()
    raise refuse(type(module).__name__)


def describe(sigma: Activation, size: int) -> list[dict[str, Any]]:
    """σ as plain data, floats as exact hexadecimal strings: what the form's file stores."""
    return [
        {"kind": own.kind, "size": count, **{k: float(v).hex() for k, v in own.parameters().items()}}
        for own, count in blocks(sigma, size)
    ]


def restore(description: list[dict[str, Any]]) -> Activation:
    """The inverse of :func:`describe`; FormatError when the description makes no sense."""
    try:
        parts = []
        for block in description:
            numbers = {k: float.fromhex(v) for k, v in block.items() if k not in ("kind", "size")}
            size = block["size"]
            if type(size) is not int or size < 0:
                raise FormatError(f"a group of {size!r} neurons")
            parts.append((activation(block["kind"], **numbers), size))
        return join(parts)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise FormatError(f"the file's activation cannot be understood: {error}") from error
