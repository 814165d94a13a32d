"""From a system to its semidefinite programme and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equilip.certify.barrier import Programme, minimise
from equilip.certify.system import System
from equilip.rounding import Array


@dataclass(frozen=True, eq=False)
class Found:
    """Strictly feasible multipliers (n,) and the bound squared that they give, by the programme's own numbers."""

    lam: Array
    rho: float
    converged: bool


def solve(system: System, lam: Array, rho: float, *, seconds: float, relative: float = 2e-6) -> Found | None:
    """The best multipliers for the system's head, from multipliers ``lam`` that give the bound squared ``rho``.

    ``relative``: how near to the optimum rho shall come. The programme is set up in units where C and U have norm
    one, or D where that is larger. None where ``lam`` is not feasible, or numbers so different in size that they leave
    the range of float64.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore"):
        return _solve(system, lam, rho, seconds, relative)


def _solve(system: System, lam: Array, rho: float, seconds: float, relative: float) -> Found | None:
    head = system.head
    C = _compressed(system)
    gram = system.full_gram(head).mid if C is None else system.gram.mid
    C = head.C.mid if C is None else C
    q = C.shape[0]
    if gram.shape[0] != system.size + q:
        gram = np.pad(gram, (0, q))
    inputs = float(np.linalg.norm(gram[: system.size, : system.size], 2)) or 1.0
    # rho = unit rho', and the output in units of sqrt(output): lam = output lam'.
    feed = float(np.linalg.norm(gram[system.size :, system.size :], 2))
    output = max(float(np.linalg.norm(C, 2)) ** 2, feed / inputs, 1e-300)
    unit = output * inputs
    n = system.size
    scaling = np.concatenate([np.full(n, 1.0 / np.sqrt(inputs)), np.full(q, 1.0 / np.sqrt(unit))])
    programme = Programme(
        W=system.W.mid,
        C=C / np.sqrt(output),
        gram=gram * scaling[:, None] * scaling[None, :],
        rank=min(n + q, system.U.shape[1]),
    )
    for factor in (2.0, 1.0 + 1e-3, 10.0, 1e3):
        try:
            minimum = minimise(
                programme, lam * (np.sqrt(factor) / output), rho * factor / unit, seconds=seconds, relative=relative
            )
        except ValueError:
            continue
        return Found(minimum.lam * output, minimum.rho * unit, minimum.converged)
    return None


def _compressed(system: System) -> Array | None:
    """Where there are more outputs than neurons and no feed-through: a square factor of C' C."""
    C = system.head.C.mid
    if system.head.D is None and C.shape[0] > C.shape[1]:
        return np.linalg.qr(C)[1]
    return None
