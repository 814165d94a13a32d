"""What the outputs can become when the input moves: proved intervals, for regression."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equilip.certify.bounds import Bound
from equilip.certify.margins import inputs_of, outputs
from equilip.certify.pairs import RowBounds, own_bound, rows
from equilip.certify.system import HasForm, as_form
from equilip.errors import InputError
from equilip.form import Form
from equilip.rounding import gamma


def interval(
    model: Form | HasForm,
    x: Tensor,
    eps: float,
    *,
    bound: Bound | None = None,
    pairs: RowBounds | None = None,
) -> tuple[Tensor, Tensor]:
    """For every sample and output, proved limits for all raw inputs within the l2 distance ``eps``.

    ``x`` (batch, p), raw. Returns lower and upper (batch, q) float64: for every x' with |x' - x| <= eps the exact
    output of the network at x' lies between them, entry by entry. Each output has a slope bound of its own; the
    solver's error and all rounding are included. With ``eps`` 0 it says how far the computed output can be trusted.

    ``bound`` and ``pairs`` are this network's, from :func:`lipschitz` and :func:`rows`; computed where absent. Raises
    InputError for unusable inputs, a negative ``eps`` and bounds of another network, and what :func:`lipschitz` raises.
    """
    if not (math.isfinite(eps) and eps >= 0.0):
        raise InputError(f"eps is a distance in raw units, at least 0, got {eps}")
    form = as_form(model)
    x, _ = inputs_of(form, x, None)
    bound = own_bound(form, bound)
    if pairs is None:
        pairs = rows(form, bound)
    if pairs.form_sha256 != bound.form_sha256:
        raise InputError("the bounds of the rows are for another form: their sha256 does not match; compute them anew")
    found = outputs(form, x, torch.from_numpy(bound.multipliers))
    C = found.form.C.dense()
    # |c (z - z*)| <= |c| |z - z*| for every row c.
    reach = torch.from_numpy(pairs.outputs_raw) * eps + found.error[:, None] * C.norm(dim=1) + found.rounding
    reach = reach * (1.0 + gamma(C.shape[1] + 8))
    infinity = torch.tensor(torch.inf, dtype=torch.float64)
    return torch.nextafter(found.y - reach, -infinity), torch.nextafter(found.y + reach, infinity)
