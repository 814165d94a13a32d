"""From numbers that look right to a bound that is proved for the stored numbers.

The matrix of mathematics 9.3, its input block eliminated as in :mod:`equilip.certify.barrier`, is enclosed entry by
entry with every rounding accounted for, and proved positive definite by
:func:`equilip.rounding.verified_positive_definite`.
"""

from __future__ import annotations

import numpy as np

from equilip.certify.enclosure import Enclosure, block
from equilip.certify.system import Head, System
from equilip.rounding import Array, down, up, verified_positive_definite

#: Exponents of the ladder of inflation factors 1 + 2**-k that a proof may climb.
_LADDER = range(50, 3, -1)


class Prover:
    """Proves bounds on one head of a system: the rows of ``head``, jointly in the l2 norm."""

    def __init__(self, system: System, head: Head | None = None) -> None:
        self.system = system
        self.head = system.head if head is None else head
        self._gram = system.full_gram(self.head)

    def matrix(self, lam: Array, gamma: float) -> Enclosure:
        """[[P, C'], [C, I]] - K G K / rho with K = diag(Lam, -I) and rho <= gamma², enclosed."""
        q = self.head.C.shape[0]
        rho = down(gamma * gamma)
        weighted = self.system.W * lam[:, None]
        P = Enclosure.exact(np.diag(2.0 * lam)) - (weighted + weighted.T)
        table = block([[P, self.head.C.T], [self.head.C, Enclosure.exact(np.eye(q))]])
        k = np.concatenate([lam, -np.ones(q)])
        # gram / rho first: k may be large where rho is, and small where rho is.
        return (table - self._gram * k[:, None] / rho * k[None, :]).mirrored()

    def proves(self, lam: Array, gamma: float) -> bool:
        """Whether it is proved that |dy| <= gamma |dx| for the system, and that its equilibrium is unique.

        ``lam`` (n,) are the system's multipliers. False says only that this proof did not go through.
        """
        if not (0.0 < gamma < 1e150 and (lam > 0).all() and np.isfinite(lam).all()):
            return False
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            matrix = self.matrix(lam, gamma)
        return verified_positive_definite(matrix.mid, matrix.rad)

    def least(self, lam: Array, estimate: float) -> tuple[float, float] | None:
        """(gamma, inflation): the least gamma = estimate (1 + 2**-k) that is proved, or None.

        ``inflation`` is gamma over ``estimate``. Where the search over factors alone fails, None.
        """
        ladder = [1.0 + 2.0**-k for k in _LADDER]
        if not (np.isfinite(estimate) and estimate >= 0.0) or not self.proves(lam, up(estimate * ladder[-1])):
            return None
        low, high = -1, len(ladder) - 1
        while high - low > 1:
            middle = (low + high) // 2
            if self.proves(lam, up(estimate * ladder[middle])):
                high = middle
            else:
                low = middle
        gamma = up(estimate * ladder[high])
        return gamma, gamma / estimate if estimate > 0.0 else 1.0
