"""What a parametrisation promises in exact arithmetic, held against the numbers that are stored.

A form's W is computed in floating point and rounded, so a promise with little slack may be broken by the very network
that it was made for. That is found out here, when a network is saved and when it is certified, and not by its users.
"""

from __future__ import annotations

import math

import torch

from equilip.certify.bounds import Bound, lipschitz, prove
from equilip.certify.system import MAX_NEURONS, array, as_form
from equilip.chain import Chain, Network
from equilip.errors import IllPosedError, InputError, ProofError
from equilip.form import Form
from equilip.nn.guarantee import Guarantee
from equilip.operators import Contraction, WithProof
from equilip.rounding import up, well_posedness_margin
from equilip.solve.channels import ChannelComparison

#: A promised bound is kept if a bound at most this much above it, relatively, is proved for the stored numbers.
ALLOWANCE = 1e-6
#: How long other multipliers are searched when the parametrisation's own prove nothing.
SECONDS = 20.0


def check_guarantee(form: Network, guarantee: Guarantee | None, *, bound: Bound | None = None) -> None:
    """Return if what ``guarantee`` promises is proved for the stored numbers of ``form``; raise ProofError if not.

    A promised bound is kept if ``bound * (1 + ALLOWANCE)`` is proved: with the parametrisation's own multipliers,
    at any scale, or with others that the semidefinite programme finds. A promise without a bound is kept if every
    input is proved to have exactly one equilibrium. ``guarantee`` None promises nothing and is always kept.

    ``bound``: what :func:`lipschitz` proved for this form already, which is then all that is looked at. Nothing
    can be said above ``MAX_NEURONS`` neurons, where the promise is believed. Of a chain, the product of the layers'
    bounds may be above the promise by 1e-4 for each of them.
    """
    if isinstance(form, Chain):
        from equilip.certify.product import check_product

        check_product(form, guarantee, bound)
        return
    if guarantee is None or (form.hidden_size > MAX_NEURONS and not isinstance(form.W, WithProof | Contraction)):
        return
    if guarantee.norm != "l2":
        raise InputError(f"a promise in the norm {guarantee.norm} cannot be checked, only l2")
    form = as_form(form)
    if bound is not None and bound.form_sha256 != form.sha256:
        raise InputError("the bound is for another form: its sha256 does not match; certify this form first")
    if isinstance(form.W, Contraction):
        if ChannelComparison.of(form.to(torch.float64)) is None:
            raise ProofError(_sentence(form, guarantee, None))
        return
    limit = math.inf if guarantee.bound is None else up(guarantee.bound * (1.0 + ALLOWANCE))
    if bound is None:
        if _kept(form, guarantee, limit):
            return
        try:
            bound = lipschitz(form, seconds=SECONDS)
        except (IllPosedError, ProofError):
            bound = None
    if bound is None or bound.value > limit:
        raise ProofError(_sentence(form, guarantee, bound))


def _kept(form: Form, guarantee: Guarantee, limit: float) -> bool:
    """Whether the parametrisation's own multipliers prove what it promises."""
    lam = array(guarantee.multipliers)
    if guarantee.bound is None and isinstance(form.W, WithProof):
        return True  # any that can be made has its positive scalars
    if guarantee.bound is None:
        return well_posedness_margin(array(form.W), lam) > 0.0
    try:
        prove(form, limit, multipliers=lam)
    except (IllPosedError, ProofError):
        return False
    return True


def _sentence(form: Form, guarantee: Guarantee, bound: Bound | None) -> str:
    dtype = str(form.dtype).removeprefix("torch.")
    if bound is not None:
        found = f"the smallest bound that could be proved for them is {bound.value:.6g}"
    else:
        found = "not even that every input has exactly one equilibrium could be proved for them"
    promised = f"the bound {guarantee.bound:.6g}" if guarantee.bound is not None else "exactly one equilibrium"
    slack = "epsilon" if guarantee.bound is not None else "epsilon (or m)"
    remedy = f"use a larger {slack}" + ("" if dtype == "float64" else f", at least 1e-3 in {dtype}, or float64")
    return (
        f"the network promises {promised}, and its stored {dtype} numbers do not keep it: {found}; "
        f"rounding has used up the slack of its construction: {remedy}"
    )
