"""Different activations for groups of neurons, one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.activations.activation import Activation, Step
from equilip.activations.piecewise import ReLU
from equilip.errors import InputError


@dataclass(frozen=True)
class Blockwise(Activation):
    """Different activations for consecutive groups of neurons (what composing two networks gives)."""

    blocks: tuple[tuple[Activation, int], ...]
    kind = "blockwise"

    def _map(self, method: str, s: Tensor, *rest: Step) -> Tensor:
        parts = s.split([size for _, size in self.blocks], dim=-1)
        done = []
        start = 0
        for (activation, size), part in zip(self.blocks, parts, strict=True):
            own = [r[..., start : start + size] if isinstance(r, Tensor) and r.dim() > 0 else r for r in rest]
            done.append(getattr(activation, method)(part, *own))
            start += size
        return torch.cat(done, dim=-1)

    def value(self, s: Tensor) -> Tensor:
        return self._map("value", s)

    def slope(self, s: Tensor) -> Tensor:
        return self._map("slope", s)

    def prox(self, v: Tensor, alpha: Step) -> Tensor:
        return self._map("prox", v, alpha)

    @property
    def interval(self) -> tuple[float, float]:
        lower, upper = zip(*(activation.interval for activation, _ in self.blocks), strict=True)
        return (min(lower), max(upper))

    @property
    def binary(self) -> bool:
        return all(activation.binary for activation, _ in self.blocks)

    @property
    def rounding(self) -> float:
        return max(activation.rounding for activation, _ in self.blocks)


def blocks(sigma: Activation, size: int) -> tuple[tuple[Activation, int], ...]:
    """σ on ``size`` neurons as consecutive (activation, number of neurons) groups."""
    if isinstance(sigma, Blockwise):
        if sum(count for _, count in sigma.blocks) != size:
            raise InputError(f"the activation's blocks cover {sum(c for _, c in sigma.blocks)} neurons, not {size}")
        return sigma.blocks
    return ((sigma, size),)


def join(parts: list[tuple[Activation, int]]) -> Activation:
    """One activation out of consecutive groups; equal neighbours are merged."""
    merged: list[tuple[Activation, int]] = []
    for sigma, size in parts:
        for own, count in blocks(sigma, size):
            if merged and merged[-1][0] == own:
                merged[-1] = (own, merged[-1][1] + count)
            elif count:
                merged.append((own, count))
    if not merged:  # no neurons: any activation will do
        return parts[0][0] if parts else ReLU()
    return merged[0][0] if len(merged) == 1 else Blockwise(tuple(merged))


def slope_bounds(sigma: Activation, size: int) -> tuple[Tensor, Tensor]:
    """The slope interval of every neuron: two float64 tensors of shape (size,)."""
    lower, upper = [], []
    for own, count in blocks(sigma, size):
        lower += [own.interval[0]] * count
        upper += [own.interval[1]] * count
    return torch.tensor(lower, dtype=torch.float64), torch.tensor(upper, dtype=torch.float64)
