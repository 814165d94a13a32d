"""Finding multipliers Λ that prove a W well-posed, when no parametrisation hands them over."""

from __future__ import annotations

import torch
from torch import Tensor

from equilip.operators import Operator
from equilip.solve.averaged import comparison_solution
from equilip.solve.metric import Metric, measure


def find_metric(W: Operator, lam: Tensor | None) -> Metric | None:
    """A metric with μ > 0: from the multipliers at hand, else from those that can be found; None if none is.

    Tried in turn: ``lam``; Λ = 1; the multipliers of a W that contracts in a weighted ℓ∞ norm
    (mathematics 3.5).
    """
    candidates = [] if lam is None else [lam]
    candidates.append(torch.ones_like(W.dense()[:, 0]))
    for candidate in candidates:
        metric = measure(W, candidate)
        if metric.mu > 0:
            return metric
    x, y = comparison_solution(W), comparison_solution(W.transpose())
    if x is None or y is None:
        return None
    metric = measure(W, (y / x).to(candidates[0].dtype))
    return metric if metric.mu > 0 else None
