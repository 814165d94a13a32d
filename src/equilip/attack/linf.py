"""ℓ∞ attacks beside what is certified in ℓ∞; an attack that wins against a certified sample is a bug."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.attack.attack import Attack, checked_inputs, checked_sizes
from equilip.attack.ball import PGD, FastGradient
from equilip.attack.ledger import Attacked, Ledger
from equilip.attack.norms import Box, Linf
from equilip.attack.robustness import Row
from equilip.attack.target import FormTarget, Target
from equilip.certify.robust import LinfCertified, certified_linf, linf_margins
from equilip.certify.system import HasForm
from equilip.chain import Network
from equilip.errors import InputError


@dataclass(frozen=True, eq=False)
class LinfRobustness:
    """Certified against attacked, in ℓ∞ and raw units.

    rows: one for every eps, increasing. certified: what each method proves at each eps. violations: (k, 2), the index
    of eps and of the sample wherever an attack won against a certified sample; empty unless equilip has a bug.
    """

    rows: tuple[Row, ...]
    certified: tuple[LinfCertified, ...]
    attacked: Attacked
    violations: Tensor
    seconds: float
    form_sha256: str


def robustness_linf(
    model: Network | HasForm | Target,
    x: Tensor,
    label: Tensor,
    eps: Sequence[float],
    *,
    box: Box | None = None,
    seed: int = 0,
    attacks: Sequence[Attack] | None = None,
) -> LinfRobustness:
    """Attack raw inputs x (batch, p) with labels (batch,) in ℓ∞, and compare with what is certified for them.

    ``attacks`` default to a signed gradient step and projected gradient steps with two starts, in ``box``. For a target
    that waives well-posedness nothing is certified. Raises InputError for unusable arguments.
    """
    start = time.monotonic()
    sizes = checked_sizes(eps)
    target = FormTarget.narrow(model)
    own = (FastGradient, PGD)
    found = tuple(kind(norm=Linf(), box=box, seed=seed) for kind in own) if attacks is None else tuple(attacks)
    if any(attack.norm != Linf() or attack.box != box for attack in found):
        raise InputError("certified boxes are l-infinity boxes: compare them with l-infinity attacks of the same box")
    x, label = checked_inputs(target, x, label, box)
    if not len(x):
        raise InputError("there is no sample to attack")
    ledger = Ledger(target, x, label, Linf(), box)
    for attack in found:
        attack.extend(ledger, sizes)
    attacked = ledger.result(sizes)
    certified: tuple[LinfCertified, ...] = ()
    limits = None if box is None else (box.lower, box.upper)
    if target.proved:
        margins = linf_margins(target.original, x, label)
        certified = tuple(
            certified_linf(target.original, x, label, size, limits=limits, margins=margins) for size in sizes
        )
    clean = int((attacked.size > 0).sum()) / len(x)
    shares = [found.accuracy for found in certified] or [0.0] * len(sizes)
    rows = tuple(
        Row(size, share, accuracy, clean, len(x))
        for size, share, accuracy in zip(sizes, shares, attacked.accuracy, strict=True)
    )
    broken = [
        torch.stack([torch.full_like(wrong, index), wrong], 1)
        for index, (proved, won) in enumerate(zip(certified, attacked.success, strict=False))
        if len(wrong := (proved.certified & won).nonzero().flatten())
    ]
    return LinfRobustness(
        rows=rows,
        certified=certified,
        attacked=attacked,
        violations=torch.cat(broken) if broken else torch.zeros(0, 2, dtype=torch.int64),
        seconds=time.monotonic() - start,
        form_sha256=target.sha256,
    )
