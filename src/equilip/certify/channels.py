"""ℓ∞ slopes of convolutional contracting networks, by the comparison matrix of their channels (linf.md 6).

One weight for each channel bounds how far every pixel of it moves; averages over blocks of pixels move no further. So
sums of absolute values of the kernels are all that a proof needs, whatever the size of the images.
"""

from __future__ import annotations

import time

import numpy as np

from equilip.certify.bounds import slopes_of
from equilip.certify.contraction import ContractionBounds
from equilip.certify.linf import NOTHING, LinfBound, LinfProof
from equilip.certify.system import array
from equilip.contracting import parts
from equilip.errors import ProofError
from equilip.form import Form
from equilip.operators import Conv2d
from equilip.rounding import Array, upper_sum
from equilip.solve.channels import ChannelComparison, input_sums


def by_channels(form: Form) -> LinfBound:
    """The bound of :func:`equilip.certify.lipschitz_linf` for such a form. ProofError where rounding is in the way."""
    start = time.monotonic()
    parts(form)  # InputError where the input layer or the output map is of another kind
    proofs = []
    for raw in (False, True):
        weight = moved(form, raw=raw)
        bounds = upper_sum(np.nextafter(reads(form) * weight, np.inf), axis=1)
        value = max(float(bounds.max(initial=0.0)), NOTHING)
        proofs.append(LinfProof(value, weight, (None,) * form.out_size))
    return LinfBound(
        value=proofs[0].value,
        value_raw=proofs[1].value,
        proof=proofs[0],
        proof_raw=proofs[1],
        by_comparison=proofs[0].value,
        by_trace=np.inf,
        slopes=slopes_of(form),
        converged=True,
        seconds=time.monotonic() - start,
        form_sha256=form.sha256,
    )


def pairs_by_channels(form: Form) -> Array:
    """Proved bounds (q, q) on |d(y_i - y_j)| / |dx|∞ in raw units. ProofError as above."""
    C = parts(form).C.detach().cpu().double().numpy()
    apart = np.abs(C[:, None] - C[None, :])
    sums = _by_channel(np.nextafter(apart, np.inf).reshape(-1, C.shape[1]), form)
    found = upper_sum(np.nextafter(sums * moved(form, raw=True), np.inf), axis=1).reshape(len(C), len(C))
    np.fill_diagonal(found, 0.0)
    return np.asarray(found)


def moved(form: Form, *, raw: bool) -> Array:
    """w (channels,) > 0 with w - u M w >= u |U| s: how far neurons move at most where inputs move by 1."""
    comparison = ChannelComparison.of(form)
    if comparison is None:
        raise ProofError(
            "no l-infinity bound could be proved for the stored numbers: rounding has used up the slack of the "
            "network's construction; use a smaller m, or float64"
        )
    assert isinstance(form.U, Conv2d)
    s = np.ones(form.U.shape[0])
    if raw and form.standardisation is not None:
        s = np.nextafter(1.0 / array(form.standardisation.std), np.inf).reshape(len(s), -1).max(axis=1)
    pushed = upper_sum(np.nextafter(input_sums(form.U) * s, np.inf), axis=1)
    pushed = np.nextafter(pushed * comparison.slope, np.inf)
    w = comparison.comparison.bound(pushed[None])[0]
    # As for dense networks: strict where no input arrives, and a little more for the checker's exact inequalities.
    weight = comparison.comparison.weight
    w = w + 2.0**-50 * float((w[w > 0] / weight[w > 0]).min(initial=1.0)) * weight
    w = w * (1.0 + 2.0**-40)
    if not np.isfinite(w).all():
        raise ProofError("no l-infinity bound could be proved for the stored numbers: they are too large")
    return np.asarray(w)


def reads(form: Form) -> Array:
    """(q, channels): how much an output can read of each channel where all its pixels are 1, rounded up."""
    return _by_channel(np.abs(parts(form).C.detach().cpu().double().numpy()), form)


def _by_channel(sizes: Array, form: Form) -> Array:
    """Sums of non-negative numbers (k, channels times anything) over each channel, rounded up: (k, channels)."""
    channels = parts(form).hidden[0]
    return np.asarray(upper_sum(sizes.reshape(len(sizes), channels, -1), axis=2))


def contraction_bounds_of_images(form: Form) -> ContractionBounds | None:
    """The formulas of the literature, as :func:`equilip.certify.contraction_bounds`, with a weight for each channel."""
    comparison = ChannelComparison.of(form, 1.0)
    if comparison is None:
        return None
    assert isinstance(form.U, Conv2d)
    own, weights = comparison.comparison, comparison.comparison.weight
    measures = own.W @ weights / weights
    measure = float(measures.max())
    if not measure < 1.0:
        return None
    inputs = input_sums(form.U).sum(1) / weights
    outputs = float((reads(form) @ weights).max(initial=0.0))
    paper = float(inputs.max()) * outputs / (1.0 - max(measure, 0.0))
    return ContractionBounds(measure, paper, float((inputs / (1.0 - measures)).max()) * outputs)
