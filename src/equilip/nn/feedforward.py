"""Ordinary feed-forward and residual networks as forms (mathematics 1.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from equilip import activations
from equilip import form as forms
from equilip.activations import Activation, ReLU
from equilip.errors import InputError
from equilip.form import Form, Standardisation, compose
from equilip.nn.layer import LipschitzLayer
from equilip.nn.module import check_sizes, check_small, uniform
from equilip.nn.standardise import Standardise


class Residual(torch.nn.Sequential):
    """x + f(x), f the sequence of the given modules."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)  # type: ignore[no-untyped-call]


def sequential_form(network: torch.nn.Sequential) -> Form:
    """The form of a Sequential of Linear, activations, Residual, Flatten, Dropout (as in eval) and Standardise.

    Every :class:`equilip.nn.LipschitzLayer` may be in it too. Differentiable in the network's parameters. A Standardise
    must come first. Raises ActivationError for activations with slopes outside [0, 1], InputError for modules that are
    no part of such a network, and for networks of more than 8,000 neurons.
    """
    modules = [network] if isinstance(network, Residual) else _flat(network)
    standardisation: Standardisation | None = None
    while modules and isinstance(modules[0], Standardise | torch.nn.Flatten):
        if isinstance(modules[0], Standardise):
            standardisation = modules[0].standardisation()
            modules = modules[1:]
            break
        modules = modules[1:]
    form = _chain(modules)
    if standardisation is not None and standardisation.mean.shape != (form.in_size,):
        raise InputError(f"the standardisation is for {standardisation.mean.shape[0]} inputs, not {form.in_size}")
    return replace(form, standardisation=standardisation)


def _flat(network: torch.nn.Sequential) -> list[torch.nn.Module]:
    """The modules of a Sequential, those of nested ones in their place."""
    modules: list[torch.nn.Module] = []
    for module in network:
        if isinstance(module, torch.nn.Sequential) and not isinstance(module, Residual):
            modules += _flat(module)
        else:
            modules.append(module)
    known = {torch.nn.Sequential.forward, torch.nn.Linear.forward, Residual.forward}
    for own in (network, *modules):
        kind: Any = type(own)
        if isinstance(own, torch.nn.Sequential | torch.nn.Linear) and kind.forward not in known:
            raise InputError(f"{kind.__name__} has a forward of its own, so that its form is not known")
    return modules


def _chain(modules: Sequence[torch.nn.Module], before: Form | None = None) -> Form:
    """``before``: what the chain takes its input from, None where its first layer says how many inputs there are."""
    parts: list[Form] = []
    for module in modules:
        last = parts[-1] if parts else before
        if isinstance(module, torch.nn.Flatten | torch.nn.Dropout):
            continue
        if isinstance(module, torch.nn.Linear):
            bias = module.bias if module.bias is not None else module.weight.new_zeros(module.out_features)
            parts.append(forms.affine(module.weight, bias))
        elif isinstance(module, LipschitzLayer):
            check_small(module.in_features, module.out_features)
            parts.append(module.form())
        elif isinstance(module, Residual):
            parts.append(forms.residual(_chain(_flat(module), last)))
        elif isinstance(module, Standardise):
            raise InputError("a Standardise must be the first module of the network")
        elif last is not None:
            parts.append(forms.pointwise(activations.from_module(module), last.out_size, like=last.b))
        else:
            raise InputError(f"the network must begin with a Linear (or Residual), not with {type(module).__name__}")
    if not parts:
        raise InputError("the network has no layers")
    neurons = sum(part.hidden_size for part in parts)
    check_small(neurons, neurons)
    return reduce(compose, parts)


class FeedForward(torch.nn.Module):
    """An ordinary multi-layer perceptron that also knows its form: p -> hidden... -> q.

    Nothing is guaranteed by construction. Parameters: ``weights`` (out, in) and ``biases`` (out,),
    one of each per layer.
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: Activation | None = None,
        standardisation: Standardisation | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_sizes(in_features=in_features, out_features=out_features)
        for width in hidden:
            check_sizes(hidden=width)
        self.in_features, self.hidden, self.out_features = in_features, tuple(hidden), out_features
        self.activation = ReLU() if activation is None else activation
        self.input = None
        if standardisation is not None:
            self.input = Standardise(standardisation.mean, standardisation.std)
        sizes = [in_features, *hidden, out_features]
        self.weights = torch.nn.ParameterList()
        self.biases = torch.nn.ParameterList()
        for size, following in pairwise(sizes):
            for shape, group in (((following, size), self.weights), ((following,), self.biases)):
                group.append(uniform(*shape, fan_in=size, device=device, dtype=dtype, generator=generator))
        self.to(device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.input is None else self.input(x)
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.nn.functional.linear(self.activation.value(h) if depth else h, weight, bias)
        return h

    def form(self) -> Form:
        """The same network as one form, differentiable in the parameters."""
        parts: list[Form] = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            if parts:
                parts.append(forms.pointwise(self.activation, weight.shape[1], like=bias))
            parts.append(forms.affine(weight, bias))
        standardisation = None if self.input is None else self.input.standardisation()
        return replace(reduce(compose, parts), standardisation=standardisation)

    def guarantee(self) -> None:
        """Nothing is promised."""
        return

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.hidden}, {self.out_features}, activation={self.activation.kind}"
