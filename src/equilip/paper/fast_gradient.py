"""The fast-gradient attack of papers: one step of the input along the gradient of the cross-entropy, cut to the box.

What falls outside the box is cut off, so steps are shorter than their nominal size. The stronger attack that uses the
whole size is :class:`equilip.attack.FastGradient`; this one is here to draw the same curve as the authors did.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equilip.attack import Box, CrossEntropy, Target, checked_sizes
from equilip.train.evaluation import rows_at_a_time


def errors(target: Target, x: Tensor, label: Tensor, sizes: Sequence[float], box: Box | None) -> tuple[float, ...]:
    """The share of raw inputs x (batch, p) that are not classified as label (batch,) after a step of each raw l2 size.

    The sizes increase. The gradient is that at x; where it vanishes there is no step. Each point is solved in float64,
    and one without an equilibrium counts as wrong.
    """
    checked_sizes(sizes)
    part = rows_at_a_time(target.exact.hidden_size)
    wrong = [0] * len(sizes)
    for rows, own in zip(x.split(part), label.split(part), strict=True):
        direction = _direction(target, rows, own)
        for k, size in enumerate(sizes):
            moved = rows.double() + size * direction
            if box is not None:
                moved = moved.clamp(box.lower, box.upper)
            wrong[k] += int((target.judge(moved).predicted != own).sum())
    return tuple(count / len(x) for count in wrong)


def _direction(target: Target, x: Tensor, label: Tensor) -> Tensor:
    """The gradient of the cross-entropy at x (batch, p), of length 1, in float64; zero where it vanishes."""
    fast = target.fast
    labels = label.to(fast.device)
    loss = CrossEntropy()
    _, gradient = target.gradient(x.to(fast.device, fast.dtype), lambda y: loss.cotangent(y, labels))
    gradient = gradient.to("cpu", torch.float64)
    scale = gradient.abs().amax(dim=1, keepdim=True)
    return torch.nn.functional.normalize(gradient / torch.where(scale > 0, scale, 1.0), dim=1)
