"""The bound that needs no certificate: products of the norms of the matrices. What proofs are compared with."""

from __future__ import annotations

import numpy as np
import torch

from equilip.certify.system import HasForm, Indices, System, as_form, from_form
from equilip.form import Form
from equilip.operators import WithProof
from equilip.rounding import Array
from equilip.solve.multipliers import margin
from equilip.solve.substitution import levels


def product_of_norms(model: Form | HasForm, *, raw: bool = False) -> float | None:
    """The l2 bound that follows from the spectral norms of the matrices alone, in floating point and not proved.

    For a feed-forward network the product of its layers' norms (with skips: summed over all paths). For an
    equilibrium network |C Lam^-1/2| |Lam^1/2 U| / m + |D|, where m is the strong monotonicity that the form's
    multipliers (Lam = 1 if it has none) give; None where they give none.
    """
    form = as_form(model)
    if isinstance(form.W, WithProof):
        from equilip.certify.construction import norms_product

        return norms_product(form, raw=raw)
    system = from_form(form, raw=raw)
    feed = system.scaled_feed(system.head)
    direct = 0.0 if feed is None else _norm(feed.mid)
    layers = levels(torch.from_numpy(np.ascontiguousarray(system.W.mid)))
    if layers is not None:
        return direct + _along_paths(system, [layer.numpy() for layer in layers])
    known = np.ones(form.hidden_size) if form.lam is None else form.lam.detach().cpu().double().numpy()
    lam = system.adopt(known)
    m = margin(system.W.mid, lam)
    if not m > 0.0:
        return None
    root = np.sqrt(lam)
    return direct + _norm(system.head.C.mid / root) * _norm(root[:, None] * system.scaled_inputs.mid) / m


def _along_paths(system: System, layers: list[Indices]) -> float:
    """Every layer's bound from those of the layers that it reads, and the output's from all of them."""
    W, U, C = system.W.mid, system.scaled_inputs.mid, system.head.C.mid
    reached: list[float] = []
    for number, layer in enumerate(layers):
        earlier = zip(layers[:number], reached, strict=True)
        reached.append(_norm(U[layer]) + sum(_norm(W[np.ix_(layer, other)]) * value for other, value in earlier))
    return sum(_norm(C[:, layer]) * value for layer, value in zip(layers, reached, strict=True))


def _norm(matrix: Array) -> float:
    return float(np.linalg.norm(matrix, 2)) if matrix.size else 0.0
