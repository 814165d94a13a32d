"""What every attack is: a small frozen object, called with a model, inputs, labels and a list of sizes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from equilip.attack.ledger import Attacked, Ledger
from equilip.attack.norms import L2, Box, Norm, Room
from equilip.attack.target import Target
from equilip.certify.margins import inputs_of
from equilip.certify.system import HasForm
from equilip.chain import Network
from equilip.errors import InputError

#: Samples searched together: their perturbations stay near the processor.
CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Looks for a perturbed input with another class, in raw units.

    norm: how perturbations are measured. box: valid inputs, such as ``Box(0, 1)`` for pixels; None where every
    input is valid. seed: of everything random; the same seed gives the same result.
    """

    norm: Norm = field(default_factory=L2)
    box: Box | None = None
    seed: int = 0

    def __call__(self, model: Network | HasForm | Target, x: Tensor, label: Tensor, eps: Sequence[float]) -> Attacked:
        """Attack raw inputs x (batch, p) with labels (batch,) for perturbation sizes ``eps``.

        The model is not changed. Raises InputError for NaN, labels out of range, inputs outside the box, a network
        with one output, and sizes that are not positive; IllPosedError for a W without a proof of one equilibrium
        (:meth:`Target.of` can waive it).
        """
        sizes = checked_sizes(eps)
        target = Target.of(model)
        x, label = checked_inputs(target, x, label, self.box)
        ledger = Ledger(target, x, label, self.norm, self.box)
        self.extend(ledger, sizes)
        return ledger.result(sizes)

    def extend(self, ledger: Ledger, eps: tuple[float, ...]) -> None:
        """Attack what a ledger of the same norm and box leaves standing; ``eps`` as :func:`checked_sizes` gives."""
        self._search(ledger, eps, torch.Generator().manual_seed(self.seed))

    @abstractmethod
    def _search(self, ledger: Ledger, eps: tuple[float, ...], generator: torch.Generator) -> None:
        """Offer perturbations to the ledger."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Some standing samples in the search's number format and on its device."""

    rows: Tensor
    x: Tensor
    label: Tensor
    room: Room | None

    def select(self, kept: Tensor) -> Batch:
        """Some of these (indices into the batch)."""
        here = kept.to(self.x.device)
        room = None if self.room is None else self.room.rows(here)
        return Batch(self.rows[kept.cpu()], self.x[here], self.label[here], room)


def batches(ledger: Ledger, rows: Tensor) -> list[Batch]:
    """The rows in chunks, ready to be searched."""
    fast = ledger.target.fast
    found = []
    for part in rows.split(CHUNK) if len(rows) else ():
        x = ledger.x[part].to(fast.device, fast.dtype)
        room = None if ledger.box is None else Room.around(x, ledger.box)
        found.append(Batch(part, x, ledger.label[part].to(fast.device), room))
    return found


def checked_sizes(eps: Sequence[float]) -> tuple[float, ...]:
    """The sizes in increasing order, each once; InputError for anything but positive numbers."""
    sizes = sorted({float(size) for size in eps})
    if not sizes:
        raise InputError("name at least one perturbation size eps")
    for size in sizes:
        if not (math.isfinite(size) and size > 0):
            raise InputError(f"a perturbation size eps must be a positive number, got {size:g}")
    return tuple(sizes)


def checked_inputs(target: Target, x: Tensor, label: Tensor, box: Box | None) -> tuple[Tensor, Tensor]:
    """Inputs (batch, p) and labels (batch,) on the CPU; InputError says what is wrong with them."""
    x, checked = inputs_of(target.original, x, label)
    assert checked is not None
    if target.out_size < 2:
        raise InputError("an attack changes the class, and this network has a single output")
    if box is not None:
        box.check(x)
    return x.cpu(), checked
