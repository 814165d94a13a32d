"""Sorting activations, MaxMin and GroupSort, as layers of slope 1 that are forms too.

They are not elementwise, so no diagonal multipliers cover them as they stand. But comparing two numbers is a step down
a convex potential, for min(a, b) = a - relu(a - b) and max(a, b) = b + relu(a - b): x - 2 wᵀ T⁻¹ relu(w x) with
w = (1, -1) and T = ‖w‖² = 2. One relu a comparison, multiplier 1, and the LMI at γ = 1 holds with equality. Sorting
more numbers is a network of comparisons.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from equilip import form as forms
from equilip.activations import ReLU
from equilip.errors import InputError
from equilip.form import Form, compose
from equilip.nn.guarantee import Guarantee
from equilip.nn.image import ImageLayer, image_shape
from equilip.nn.module import check_sizes


class GroupSort(ImageLayer):
    """Sorts every group of ``group_size`` neighbouring channels at every pixel, the smallest first.

    Of dense features where image_size is left out. The form has group_size (group_size - 1) / 2 neurons a group.
    Raises InputError where the groups do not divide the channels.
    """

    like: Tensor

    def __init__(self, channels: int, group_size: int, *, image_size: int | tuple[int, int] = 1) -> None:
        check_sizes(group_size=group_size)
        super().__init__()
        shape = image_shape(channels, image_size)
        if channels % group_size:
            raise InputError(f"{channels} channels are not made of groups of {group_size}")
        self.group_size = group_size
        self._shapes(shape, shape)
        self.register_buffer("like", torch.zeros(0), persistent=False)

    def rows(self, x: Tensor) -> Tensor:
        c, h, w = self.in_shape
        groups = x.reshape(len(x), c // self.group_size, self.group_size, h * w)
        if self.group_size == 2:
            a, b = groups.unbind(2)
            return torch.stack([torch.minimum(a, b), torch.maximum(a, b)], 2).flatten(1)
        return groups.sort(dim=2).values.flatten(1)

    def form(self) -> Form:
        """Odd-even transposition: after ``group_size`` rounds of comparing neighbours a group is sorted."""
        parts = [self._round(start % 2) for start in range(self.group_size if self.group_size > 2 else 1)]
        return reduce(compose, parts) if self.group_size > 1 else self._round(0)

    def guarantee(self) -> Guarantee:
        groups = self.in_features // self.group_size
        return Guarantee(1.0, self.like.new_ones(groups * self.group_size * (self.group_size - 1) // 2))

    def proved_bound(self) -> float:
        return 1.0

    def _round(self, start: int) -> Form:
        """One round: every second neighbour within the groups compared, beginning with place ``start``."""
        c, h, w = self.in_shape
        place = torch.arange(self.in_features, device=self.like.device).view(c, h * w)
        within = torch.arange(c, device=self.like.device) % self.group_size
        first = place[(within % 2 == start) & (within < self.group_size - 1)].flatten()
        second = first + h * w
        n, p, none = len(first), self.in_features, self.like.new_zeros
        U = none(n, p)
        row = torch.arange(n, device=self.like.device)
        U[row, first], U[row, second] = 1.0, -1.0
        eye = torch.eye(p, dtype=self.like.dtype, device=self.like.device)
        return forms.dense(none(n, n), U, none(n), -U.mT, none(p), D=eye, activation=ReLU(), lam=self.like.new_ones(n))

    def extra_repr(self) -> str:
        return f"{self.in_shape[0]}, {self.group_size}, image_size={self.in_shape[1:]}"


class MaxMin(GroupSort):
    """Neighbouring channels in pairs, the smaller one first: GroupSort of groups of two."""

    def __init__(self, channels: int, *, image_size: int | tuple[int, int] = 1) -> None:
        super().__init__(channels, 2, image_size=image_size)
