"""Bounds of convolutional networks by their construction: no matrix of the neurons is formed (mathematics 1.4, 10.2).

With P >= 2ε I + (CᵀC + (ΛU)(ΛU)ᵀ)/γ by construction, multipliers τΛ prove the bound β wherever

    max(0, γ - τβ) c² + max(0, τ²γ - τβ) f² <= 2 τ ε β γ,    c >= ‖C‖, f >= ‖ΛU‖

(docs/mathematics/convolution.md). τ = 1 proves γ itself; another τ proves less where c and f differ, or where ε is
large beside them. Norms are bounded as the checker bounds them, and the inequality is decided in rational arithmetic.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from pathlib import Path

import numpy as np
import torch

import equilip
from equilip import tiered, wiring
from equilip.certify.bounds import Bound, raw_bound, slopes_of
from equilip.errors import ProofError
from equilip.form import Form, write_whole
from equilip.operators import Plain, Tiers, WithProof
from equilip.rounding import up

#: Relative rise of what is computed in floating point, before the exact inequality is asked.
RISE = 2.0**-40


@dataclass(frozen=True, eq=False)
class Constructed(Bound):
    """A bound by construction: ``scale`` is τ, ``head`` c²; the rest as for :class:`Bound`."""

    scale: float = 1.0
    head: float = 1.0

    def save(self, path: str | PathLike[str], *, form_file: str = "form.safetensors") -> None:
        """Write the certificate that ``equilip verify`` checks; ``form_file`` is the form's name beside it."""
        claims = [
            {
                "kind": "lipschitz",
                "norm": self.norm,
                "units": units,
                "bound": value.hex(),
                "scale": self.scale.hex(),
                "head": self.head.hex(),
                "well_posed": True,
            }
            for units, value in (("standardised", self.value), ("raw", self.value_raw))
        ]
        content = {
            "format": "equilip.certificate/1",
            "form": {"file": form_file, "sha256": self.form_sha256},
            "claims": claims,
            "method": self.method,
            "seconds": round(self.seconds, 6),
            "inflation": self.inflation,
            "readable": f"l2 slope at most {self.value:.6g} (standardised input), {self.value_raw:.6g} (raw input)",
            "version": equilip.__version__,
            "note": self.note,
        }
        write_whole(Path(path), (json.dumps(content, indent=1) + "\n").encode())


def is_constructed(form: Form) -> bool:
    """Whether the form has its proof built into W."""
    return isinstance(form.W, WithProof)


@dataclass(frozen=True, eq=False)
class Facts:
    """What the proof needs of a form: its kernel U (c, c_in, k, k), its matrix C (q, pooled), and numbers.

    C reads means over ``pool`` pixels each way. ``gamma``: None where W has no terms of it. ``largest``: by how much Λ
    makes U larger. ``apart``: whether U and C meet different neurons.
    """

    U: torch.Tensor
    C: torch.Tensor
    pool: int
    epsilon: float
    gamma: float | None
    largest: float
    apart: bool = False


def facts(form: Form) -> Facts:
    """What the proof needs. InputError for a form whose wiring the construction does not cover."""
    if isinstance(form.W, Tiers):
        kernels = tiered.parts(form)  # Λ = 1, and no γ in W
        return Facts(kernels.U, kernels.C, kernels.pool, kernels.epsilon, None, 1.0, apart=True)
    wired = wiring.parts(form)
    largest = float(wired.lam.max()) if wired.layer is Plain else 1.0
    return Facts(wired.U, wired.C, wired.pool, wired.epsilon, wired.gamma, largest)


def by_construction(form: Form, value: float | None = None) -> Constructed:
    """The smallest bound that the construction proves for the stored numbers, or ``value``, proved.

    Raises InputError for a form whose wiring the construction does not cover, ProofError where ``value`` is not proved.
    """
    start = time.monotonic()
    known = facts(form.detach())
    head = head_square(known)
    inner = input_square(known)
    tau, beta = _best(known, head, inner)
    for _ in range(60):
        if proves(known, beta, tau, head, inner):
            break
        beta = up(beta * (1 + RISE))
    else:
        raise ProofError("the construction's own bound could not be proved for the stored numbers")
    if value is not None:
        if value < beta and not proves(known, value, tau, head, inner):
            raise ProofError(f"the bound {value:g} could not be proved by the construction; {beta:g} could")
        beta = value
    assert isinstance(form.W, WithProof)
    lam = form.W.multipliers.detach().double().cpu().numpy() * tau * beta
    sharp = known.gamma is None or beta < known.gamma
    return Constructed(
        value=beta,
        value_raw=raw_bound(form, beta),
        multipliers=lam,
        multipliers_raw=lam,
        slopes=slopes_of(form),
        method="construction",
        inflation=1.0 + RISE,
        converged=False,
        note="by construction, with the best scale of its multipliers" if sharp else "by construction",
        seconds=time.monotonic() - start,
        form_sha256=form.sha256,
        scale=tau,
        head=head,
    )


def proves(known: Facts, beta: float, tau: float, head: float, inner: Fraction) -> bool:
    """Whether the inequality of the module's text holds, exactly; (γ, of the missing terms, is 1 without a γ)."""
    if not (beta > 0.0 and math.isfinite(beta)):
        return False
    b, t, epsilon = Fraction(beta), Fraction(tau), Fraction(known.epsilon)
    if known.gamma is None:
        of_head, of_input = Fraction(head), t * t * inner
        return (max(of_head, of_input) if known.apart else of_head + of_input) <= 2 * t * epsilon * b
    gamma = Fraction(known.gamma)
    squares = max(Fraction(0), gamma - t * b) * Fraction(head) + max(Fraction(0), t * t * gamma - t * b) * inner
    return squares <= 2 * t * epsilon * b * gamma


def _best(known: Facts, head: float, inner: Fraction) -> tuple[float, float]:
    """τ and the smallest β for it, in floating point."""
    f, epsilon = max(float(inner), 1e-300), known.epsilon
    head = max(head, 1e-300)
    if known.gamma is None:
        tau = math.sqrt(head / f)
        return tau, (1 if known.apart else 2) * math.sqrt(head * f) / (2 * epsilon) * (1 + RISE)
    gamma = known.gamma

    def beta(tau: float) -> float:
        """The least β for this τ: the inequality holds for all larger ones, so halving finds it."""
        low, high = 0.0, 2 * max(gamma / tau, tau * gamma)
        for _ in range(60):
            middle = 0.5 * (low + high)
            squares = max(0.0, gamma - tau * middle) * head + max(0.0, tau * tau * gamma - tau * middle) * f
            low, high = (low, middle) if squares <= 2 * tau * epsilon * middle * gamma else (middle, high)
        return high

    candidates = np.exp(np.linspace(-6, 6, 601))
    tau = min((1.0, *candidates.tolist()), key=beta)
    found = beta(tau) * (1 + RISE)
    return (tau, found) if found < gamma else (1.0, gamma)


def head_square(known: Facts) -> float:
    """c² >= ‖C P‖² with a margin that a proof has room for: pooling has P Pᵀ <= 1/pool²."""
    C = known.C.detach().double().cpu()
    square = float(torch.linalg.eigvalsh(C @ C.mT)[-1]) / known.pool**2
    return square * (1 + 1e-9) + 1e-30


def input_square(known: Facts) -> Fraction:
    """f² >= ‖ΛU‖², exactly: sums of absolute values of the kernel by output times by input, times λ² if it is plain."""
    kernel = known.U.detach().double().cpu().abs()
    sums = [[sum(map(Fraction, taps.flatten().tolist())) for taps in row] for row in kernel]
    rows = max(sum(row, Fraction(0)) for row in sums)
    columns = max(sum(column, Fraction(0)) for column in zip(*sums, strict=True))
    return rows * columns * Fraction(known.largest) ** 2


def norms_product(form: Form, *, raw: bool) -> float:
    """‖C‖ ‖ΛU‖ / ε, with the norms as they are bounded here: what holds without looking at the terms of γ."""
    known = facts(form)
    value = math.sqrt(head_square(known) * float(input_square(known))) / known.epsilon
    return raw_bound(form, value) if raw else value
