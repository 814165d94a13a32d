"""The fast-gradient attack of papers: one step of the input along the gradient of the cross-entropy, cut to the box.

What falls outside the box is cut off, so steps are shorter than their nominal size. The stronger attack that uses the
whole size is :class:`equilip.attack.FastGradient`; this one is here to draw the same curve as the authors did.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equilip.attack import Box, CrossEntropy, Target, checked_sizes


def errors(target: Target, x: Tensor, label: Tensor, sizes: Sequence[float], box: Box | None) -> tuple[float, ...]:
    """The share of raw inputs x (batch, p) that are not classified as label (batch,) after a step of each raw l2 size.

    The sizes increase. The gradient is that at x; where it vanishes there is no step. Each point is solved in float64,
    and one without an equilibrium counts as wrong.
    """
    checked_sizes(sizes)
    fast = target.fast
    labels = label.to(fast.device)
    loss = CrossEntropy()
    _, gradient = target.gradient(x.to(fast.device, fast.dtype), lambda y: loss.cotangent(y, labels))
    gradient = gradient.to("cpu", torch.float64)
    scale = gradient.abs().amax(dim=1, keepdim=True)
    direction = torch.nn.functional.normalize(gradient / torch.where(scale > 0, scale, 1.0), dim=1)
    found = []
    for size in sizes:
        moved = x.double() + size * direction
        if box is not None:
            moved = moved.clamp(box.lower, box.upper)
        found.append(float((target.judge(moved).predicted != label).double().mean()))
    return tuple(found)
