"""What was found: every adversarial in it has been solved again in float64, and measured again."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equilip.attack.norms import Box, Norm
from equilip.attack.target import Target
from equilip.form import write_whole

#: Rounds a computed size up, so that it is never below the exact one.
_UP = 1.0 + 2.0**-30


@dataclass(frozen=True, eq=False)
class Attacked:
    """The smallest verified adversarial of every sample.

    adversarial: (batch, p) float64, raw; the sample itself where it is misclassified as it is or where nothing was
        found. size: (batch,) float64, its distance from the sample, rounded up: 0 for a misclassified sample,
        infinite where nothing was found. predicted: (batch,) the class there, -1 where nothing was found or the network
        has no equilibrium. eps: the perturbation sizes asked about, increasing; success: (len(eps), batch) bool,
        whether an adversarial of at most that size is known.
    """

    adversarial: Tensor
    size: Tensor
    predicted: Tensor
    eps: tuple[float, ...]
    norm: str

    @property
    def success(self) -> Tensor:
        bounds = torch.tensor(self.eps, dtype=torch.float64)
        return self.size[None, :] <= bounds[:, None]

    @property
    def accuracy(self) -> tuple[float, ...]:
        """The share of samples that nothing of size eps is known against, for each eps."""
        return tuple(int((~row).sum()) / max(len(row), 1) for row in self.success)

    @property
    def median(self) -> float | None:
        """The median size, misclassified samples counted as 0; None where no adversarial was found for most."""
        ordered = self.size.sort().values
        middle = float(ordered[(len(ordered) - 1) // 2]) if len(ordered) else math.inf
        return middle if math.isfinite(middle) else None

    def better(self, other: Attacked) -> Attacked:
        """The smaller of two attacks' perturbations, sample by sample (of the same samples, eps and norm)."""
        less = other.size < self.size
        return Attacked(
            torch.where(less[:, None], other.adversarial, self.adversarial),
            torch.where(less, other.size, self.size),
            torch.where(less, other.predicted, self.predicted),
            self.eps,
            self.norm,
        )


def join(parts: Sequence[Attacked]) -> Attacked:
    """The results of one attack on several batches, as one."""
    return Attacked(
        torch.cat([part.adversarial for part in parts]),
        torch.cat([part.size for part in parts]),
        torch.cat([part.predicted for part in parts]),
        parts[0].eps,
        parts[0].norm,
    )


def save_arrays(path: str | os.PathLike[str], **arrays: NDArray[Any]) -> None:
    """Write arrays to a .npz file: all of it, or nothing."""
    stream = BytesIO()
    save: Any = np.savez_compressed  # its options are typed as if arrays could not be named freely
    save(stream, **arrays)
    write_whole(Path(path), stream.getvalue())


class Ledger:
    """Collects adversarials of a batch; the only way in is to be verified."""

    def __init__(self, target: Target, x: Tensor, label: Tensor, norm: Norm, box: Box | None) -> None:
        """x (batch, p) raw and label (batch,), checked by the caller."""
        self.target, self.norm, self.box = target, norm, box
        self.x = x.detach().to("cpu", torch.float64)
        self.label = label
        judgement = target.judge(self.x)
        wrong = judgement.predicted != label
        self.adversarial = self.x.clone()
        self.size = torch.where(wrong, 0.0, torch.inf).to(torch.float64)
        self.predicted = torch.where(wrong, judgement.predicted, -1)

    def standing(self, eps: float) -> Tensor:
        """The samples against which nothing of size at most ``eps`` is known."""
        return (self.size > eps).nonzero().flatten()

    def offer(self, rows: Tensor, delta: Tensor, *, within: float | None = None) -> Tensor:
        """Verify x[rows] + δ; keep what is adversarial and smaller than what is known. Which are adversarial, (rows,).

        The points are moved into the box and, where ``within`` is given, into the ball of that size before they
        are judged, in float64.
        """
        x, label = self.x[rows], self.label[rows]
        delta = delta.detach().to("cpu", torch.float64)
        if within is not None:
            # A hair inside, for the size is rounded up below.
            size = self.norm.size(delta).clamp(min=1e-300)
            delta = delta * (within * (1 - 2.0**-24) / size).clamp(max=1.0)[:, None]
        point = x + delta
        if self.box is not None:
            point = point.clamp(self.box.lower, self.box.upper)
        size = self.norm.size(point - x) * _UP
        judgement = self.target.judge(point)
        broken = judgement.misses(label)
        kept = broken & (size < self.size[rows])
        into = rows[kept]
        self.adversarial[into] = point[kept]
        self.size[into] = size[kept]
        self.predicted[into] = judgement.predicted[kept]
        return broken

    def result(self, eps: Sequence[float]) -> Attacked:
        return Attacked(self.adversarial, self.size, self.predicted, tuple(eps), self.norm.name)
