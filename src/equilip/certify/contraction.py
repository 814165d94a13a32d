"""The ℓ∞ bounds that a contraction gives by formula, in floating point, not proved: what proofs are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from equilip.certify.system import HasForm, array, as_form
from equilip.form import Form
from equilip.operators import Contraction
from equilip.rounding import Array
from equilip.solve.comparison import Comparison


@dataclass(frozen=True)
class ContractionBounds:
    """Bounds on |dy|∞ / |dx|∞, loosest first (linf.md 2): ``paper`` >= ``by_row`` >= the comparison matrix's own.

    measure: max_i w_ii + Σ |w_ij| η_j / η_i, below 1, for the weights that were used.
    """

    measure: float
    paper: float
    by_row: float


def contraction_bounds(
    model: Form | HasForm, *, weights: Array | None = None, raw: bool = False
) -> ContractionBounds | None:
    """The formulas of the literature for weights η (n,), and None where W does not contract in their norm.

    Without ``weights`` those of the comparison matrix are taken, whose measure is below 1 whenever any is. With
    μ₊ = max(μ, 0): paper is |η⁻¹U|∞ |Cη|∞ / (1 - μ₊) + |D|∞, and by_row is max_i |U_i|₁ / (η_i (1 - μ_i)) |Cη|∞ + |D|∞.
    Slopes are taken to be up to 1, whatever the activation's are. Convolutional networks have a weight per channel,
    and standardised units.
    """
    form = as_form(model)
    if isinstance(form.W, Contraction):
        from equilip.certify.channels import contraction_bounds_of_images

        return contraction_bounds_of_images(form)
    W, C = array(form.W), np.abs(array(form.C))
    if weights is None:
        comparison = Comparison.make(W, np.ones(form.hidden_size))
        if comparison is None:
            return None
        weights = comparison.weight
    size = np.abs(W)
    np.fill_diagonal(size, np.diagonal(W))
    measures = (size @ weights) / weights
    measure = float(measures.max(initial=-np.inf))
    if not measure < 1.0:
        return None
    s = np.ones(form.in_size)
    if raw and form.standardisation is not None:
        s = 1.0 / array(form.standardisation.std)
    inputs = np.abs(array(form.U)) @ s / weights
    outputs = float((C @ weights).max(initial=0.0))
    direct = float((np.abs(array(form.D)) @ s).max(initial=0.0))
    return ContractionBounds(
        measure,
        float(inputs.max(initial=0.0)) * outputs / (1.0 - max(measure, 0.0)) + direct,
        float((inputs / (1.0 - measures)).max(initial=0.0)) * outputs + direct,
    )
