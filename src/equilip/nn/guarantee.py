"""What a parametrisation promises, for every value of its parameters and in exact arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Guarantee:
    """‖y(x) - y(x')‖₂ <= bound ‖ξ - ξ'‖₂, with respect to the standardised input ξ.

    With ``norm`` "l1-linf" it is max_k |y_k(x) - y_k(x')| <= bound Σ_j |ξ_j - ξ_j'|, and there are no multipliers.

    ``multipliers`` (n,) are the Λ of mathematics 1.2 that prove it. ``bound`` None promises only that there is
    exactly one equilibrium for every input. A promise about exact arithmetic: ``equilip.certify`` proves what
    holds for the numbers stored.
    """

    bound: float | None
    multipliers: Tensor
    norm: str = "l2"
