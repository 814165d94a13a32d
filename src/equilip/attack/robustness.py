"""What attacks leave standing beside what is certified; an attack that wins inside a certified radius is a bug."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equilip.attack.attack import Attack, checked_inputs, checked_sizes
from equilip.attack.ball import PGD
from equilip.attack.ledger import Attacked, Ledger, join, save_arrays
from equilip.attack.minimal import Minimal
from equilip.attack.norms import L2, Box
from equilip.attack.target import Target
from equilip.certify.bounds import Bound
from equilip.certify.radius import radius as certified_radius
from equilip.certify.system import HasForm
from equilip.chain import Network
from equilip.errors import InputError

#: Samples attacked before anybody hears of it.
PART = 1024


@dataclass(frozen=True)
class Row:
    """Accuracies at one perturbation size eps (l2, raw units), as shares of n samples.

    certified_accuracy: with a certified radius above eps. attacked_accuracy: classified right, and no adversarial of
    size at most eps is known; the truth lies between the two. clean_accuracy: without perturbation.
    """

    eps: float
    certified_accuracy: float
    attacked_accuracy: float
    clean_accuracy: float
    n: int


@dataclass(frozen=True, eq=False)
class Violations:
    """Samples with an adversarial inside their certified radius, and all that is needed to see it again.

    index: (k,) of the sample. x and adversarial: (k, p) float64, raw. label, predicted: (k,). radius: (k,) certified.
    size: (k,) of the perturbation. form_sha256: of the network.
    """

    index: Tensor
    x: Tensor
    adversarial: Tensor
    label: Tensor
    predicted: Tensor
    radius: Tensor
    size: Tensor
    form_sha256: str

    def __len__(self) -> int:
        return len(self.index)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to a .npz file: all of it, or nothing."""
        names = ("index", "x", "adversarial", "label", "predicted", "radius", "size")
        arrays = {name: getattr(self, name).numpy() for name in names}
        save_arrays(path, form_sha256=np.array(self.form_sha256), **arrays)


@dataclass(frozen=True, eq=False)
class Robustness:
    """Certified against attacked, in l2 and raw units.

    rows: one for every eps, increasing. radius: (n,) certified. attacked: the smallest perturbations found.
    violations: where the two contradict each other; empty unless equilip has a bug.
    """

    rows: tuple[Row, ...]
    radius: Tensor
    attacked: Attacked
    violations: Violations
    seconds: float
    form_sha256: str


def default_attacks(box: Box | None, seed: int = 0) -> tuple[Attack, ...]:
    """The l2 attacks that :func:`robustness` joins, each on what the ones before left standing."""
    return (Minimal(box=box, seed=seed), PGD(box=box, seed=seed, restarts=2))


def robustness(
    model: Network | HasForm | Target,
    x: Tensor,
    label: Tensor,
    eps: Sequence[float],
    *,
    box: Box | None = None,
    seed: int = 0,
    attacks: Sequence[Attack] | None = None,
    bound: Bound | None = None,
    radius: Tensor | None = None,
    on_part: Callable[[Attacked, int], None] | None = None,
) -> Robustness:
    """Attack raw inputs x (batch, p) with labels (batch,), and compare with what is certified for them.

    ``attacks`` default to :func:`default_attacks` with ``box`` and ``seed``. ``bound`` is the network's, if it is
    known; ``radius`` (batch,) are certified radii, if they are; they are computed otherwise. For a target that waives
    well-posedness nothing is certified unless radii are given. ``on_part`` hears, after every :data:`PART` samples,
    what was found so far and how many samples there are.

    Raises InputError for unusable arguments, IllPosedError and ProofError where nothing can be certified.
    """
    start = time.monotonic()
    sizes = checked_sizes(eps)
    target = Target.of(model, multipliers=None if bound is None else bound.multipliers, bound=bound)
    attacks = default_attacks(box, seed) if attacks is None else tuple(attacks)
    boxes = {attack.box for attack in attacks}
    if any(attack.norm != L2() for attack in attacks) or len(boxes) > 1:
        raise InputError("certified radii are l2 radii: compare them with l2 attacks, all with the same box")
    (box,) = boxes or {box}
    x, label = checked_inputs(target, x, label, box)
    if not len(x):
        raise InputError("there is no sample to attack")
    if radius is None:
        if target.proved:
            radius = certified_radius(target.original, x, label, bound=bound)
        else:
            radius = torch.zeros(len(x), dtype=torch.float64)
    radius = radius.detach().to("cpu", torch.float64)
    if radius.shape != label.shape or not bool((radius >= 0).all()):
        raise InputError(f"expected {len(x)} radii of at least 0, got a tensor of shape {tuple(radius.shape)}")
    parts: list[Attacked] = []
    for done in range(0, len(x), PART):
        ledger = Ledger(target, x[done : done + PART], label[done : done + PART], L2(), box)
        for attack in attacks:
            attack.extend(ledger, sizes)
        parts.append(ledger.result(sizes))
        if on_part is not None:
            on_part(join(parts), len(x))
    attacked = join(parts)
    clean = int((attacked.size > 0).sum()) / len(x)
    rows = tuple(
        Row(size, int((radius > size).sum()) / len(x), accuracy, clean, len(x))
        for size, accuracy in zip(sizes, attacked.accuracy, strict=True)
    )
    return Robustness(
        rows=rows,
        radius=radius,
        attacked=attacked,
        violations=violations(attacked, x, label, radius, target.sha256),
        seconds=time.monotonic() - start,
        form_sha256=target.sha256,
    )


def violations(attacked: Attacked, x: Tensor, label: Tensor, radius: Tensor, form_sha256: str) -> Violations:
    """The samples whose smallest l2 perturbation (rounded up) lies below their certified radius."""
    wrong = (attacked.size < radius).nonzero().flatten()
    return Violations(
        index=wrong,
        x=x[wrong].to(torch.float64),
        adversarial=attacked.adversarial[wrong],
        label=label[wrong],
        predicted=attacked.predicted[wrong],
        radius=radius[wrong],
        size=attacked.size[wrong],
        form_sha256=form_sha256,
    )
