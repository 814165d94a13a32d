"""What a solve returns: the point, how far it can be from the truth, and whether to believe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

import torch
from torch import Tensor


class Status(Enum):
    """Why the solver stopped."""

    CONVERGED = "every sample reached the tolerance"
    ITERATION_LIMIT = "some samples did not reach the tolerance within the iteration limit"
    RESOLUTION = "some samples stopped improving at the resolution of the number format, above the tolerance"
    STALLED = "some samples stopped improving, far above what the number format resolves"
    DIVERGED = "some samples left the range of finite numbers"


@dataclass(frozen=True, eq=False)
class Solution:
    """z and y of a batch.

    z: (batch, n), the equilibrium, and y: (batch, q), the output; both carry gradients.
    residual: (batch,), ‖z - σ(W z + U ξ + b)‖₂ / ‖z‖₂ as computed; where z is nearly zero, relative to
        1e-5 ‖U ξ + b‖₂ instead.
    iterations: what the solver took, in applications of W.
    """

    z: Tensor
    y: Tensor
    residual: Tensor
    iterations: int
    status: Status
    tolerance: float
    _prove: Callable[[], Tensor]
    _prove_by_neuron: Callable[[], Tensor]

    @cached_property
    def converged(self) -> Tensor:
        """(batch,) bool: whether the residual is within the tolerance."""
        return self.residual <= self.tolerance

    @cached_property
    def error(self) -> Tensor:
        """(batch,) float64: a proven upper bound on ‖z - z*‖₂, z* the exact equilibrium of the stored numbers.

        It counts the residual and every rounding of its own evaluation (mathematics 10.3, 10.4), whatever
        solver found z. Infinite where nothing is proved: no multipliers known, or a z that is not finite.
        Computed in float64 when first asked for.
        """
        with torch.no_grad():
            return self._prove()

    @cached_property
    def error_linf(self) -> Tensor:
        """(batch,) float64: a proven upper bound on max_i |z_i - z*_i|, with the same care as :attr:`error`.

        Infinite where W is not proved to contract in some weighted maximum norm, as nn.NEMON does by construction.
        """
        with torch.no_grad():
            bound = self._prove_by_neuron()
            return bound.amax(1) if bound.shape[1] else bound.new_zeros(bound.shape[0])
