"""Certified radii: how far an input can move, in raw units, without the class being able to change."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from equilip.certify import chained
from equilip.certify.bounds import Bound
from equilip.certify.local import Localiser, grow
from equilip.certify.margins import inputs_of, margins
from equilip.certify.pairs import RowBounds, own_bound, rows
from equilip.certify.product import own_product, product_rows
from equilip.certify.system import HasForm, array, as_form
from equilip.chain import Chain
from equilip.errors import InputError
from equilip.form import Form


def radius(
    model: Form | HasForm | Chain,
    x: Tensor,
    label: Tensor,
    *,
    bound: Bound | None = None,
    pairs: RowBounds | None = None,
    local: bool = False,
) -> Tensor:
    """For every sample, a proved l2 radius in raw input units within which the class is ``label``.

    ``x`` (batch, p), raw; ``label`` (batch,) integers. Returns (batch,) float64: for every x' with |x' - x| < radius,
    the exact output of the network at x' has its largest entry at ``label``. It is the smallest, over the other
    classes, of margin over pair bound, with the solver's error and all rounding subtracted from the margin, and is
    rounded down; 0 where nothing is certified, as for every sample that is classified otherwise.

    ``bound`` and ``pairs`` are this network's, from :func:`lipschitz` and :func:`rows`; computed where absent, so
    pass them when asking more than once. Raises InputError for unusable inputs and labels and for bounds of another
    network, and what :func:`lipschitz` raises.

    ``local`` enlarges each radius by bounds that hold inside the sample's own ball only: a few tenths of a second per
    sample, where the global bounds take microseconds. There are none of chains.
    """
    if isinstance(model, Chain):
        return _of_chain(model, x, label, bound, pairs, local)
    form = as_form(model)
    x, checked = inputs_of(form, x, label)
    assert checked is not None
    if form.out_size < 2:
        raise InputError("a radius is about classes, and this network has a single output")
    bound = own_bound(form, bound)
    if pairs is None:
        pairs = rows(form, bound)
    if pairs.form_sha256 != bound.form_sha256:
        raise InputError("the pair bounds are for another form: their sha256 does not match; compute them anew")
    lower = margins(form, x, checked, torch.from_numpy(bound.multipliers)).lower
    found = radii(lower, torch.from_numpy(pairs.pairs_raw)[checked], checked)
    return enlarge(form, x, checked, lower, found, bound) if local else found


def _of_chain(
    chain: Chain, x: Tensor, label: Tensor, bound: Bound | None, pairs: RowBounds | None, local: bool
) -> Tensor:
    """The radii of a chain, from the product of its layers' bounds."""
    x, checked = inputs_of(chain, x, label)
    assert checked is not None
    if local or chain.out_size < 2:
        raise InputError(
            "local bounds are for networks with one form"
            if local
            else "a radius is about classes, and this network has a single output"
        )
    own = own_product(chain, bound)
    if pairs is None:
        pairs = product_rows(chain, own)
    if pairs.form_sha256 != own.form_sha256:
        raise InputError("the pair bounds are for another network: their sha256 does not match; compute them anew")
    lower = chained.margins(chain, x, checked, own)
    return radii(lower, torch.from_numpy(pairs.pairs_raw)[checked], checked)


def enlarge(form: Form, x: Tensor, label: Tensor, lower: Tensor, found: Tensor, bound: Bound) -> Tensor:
    """The radii ``found``, enlarged by local bounds where these certify more: (batch,)."""
    localiser = Localiser(form, bound)
    s, doubt = localiser.arguments(x)
    grown = [
        grow(localiser, s[i], doubt[i], int(label[i]), array(lower[i]), float(found[i])) for i in range(len(label))
    ]
    return torch.tensor(grown, dtype=torch.float64)


def radii(lower: Tensor, slopes: Tensor, label: Tensor) -> Tensor:
    """min over the other classes of lower / slopes, rounded down, at least 0: (batch,)."""
    slopes = slopes.clone()
    slopes[torch.arange(len(label)), label] = 1.0
    ratio = lower / slopes
    smallest = ratio.amin(dim=1).clamp(min=0.0)
    return torch.from_numpy(np.nextafter(smallest.numpy(), 0.0))
