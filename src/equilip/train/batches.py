"""Which samples a step sees: the split, the order and the shifts. Seed and epoch decide, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from equilip.errors import ConfigError


class Stream(IntEnum):
    """Independent sources of randomness beside the order of an epoch's samples, which has no number."""

    SPLIT = 1
    SHIFT = 2
    PENALTY = 3


def generator(seed: int, *more: int) -> torch.Generator:
    """A source of randomness of its own for every sequence of numbers."""
    state = np.random.SeedSequence([seed, *more]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of the samples in an epoch, (count,)."""
    return torch.randperm(count, generator=generator(seed, epoch))


def split(seed: int, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to hold out, each ascending. ConfigError where one of them would be empty."""
    held = round(share * count)
    if share and not 0 < held < count:
        raise ConfigError(
            f"validation = {share:g} of {count} training samples leaves {held} to hold out and {count - held} to "
            "train on; choose another share"
        )
    if not share:
        return torch.arange(count), torch.arange(0)
    shuffled = torch.randperm(count, generator=generator(seed, 0, Stream.SPLIT))
    return shuffled[held:].sort().values, shuffled[:held].sort().values


@dataclass(frozen=True)
class Shift:
    """Moves images by up to ``pixels`` in each direction; what comes into view is 0, as a dark border is.

    shape: (channels, height, width) of one row.
    """

    pixels: int
    shape: tuple[int, int, int]

    def apply(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """The rows of x (batch, p), each moved by its own whole number of pixels."""
        channels, height, width = self.shape
        batch, reach = len(x), self.pixels
        move = torch.randint(0, 2 * reach + 1, (2, batch), generator=generator).to(x.device)
        padded = torch.nn.functional.pad(x.view(batch, channels, height, width), (reach,) * 4)
        rows = move[0][:, None] + torch.arange(height, device=x.device)
        columns = move[1][:, None] + torch.arange(width, device=x.device)
        sample = torch.arange(batch, device=x.device)[:, None, None]
        # Two index lists with a slice between them put the channels last.
        moved = padded[sample, :, rows[:, :, None], columns[:, None, :]]
        return moved.permute(0, 3, 1, 2).reshape(batch, -1)
