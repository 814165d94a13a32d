"""Margins of classified samples, with all that floating point may have done to them counted (mathematics 10.4)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equilip.certify.bounds import lipschitz
from equilip.chain import Network
from equilip.errors import InputError
from equilip.form import Form
from equilip.operators import Dense, Zero
from equilip.rounding import gamma
from equilip.solve import Prover, Settings, equilibrium

#: Covers the few roundings in computing a bound that is itself a sum of non-negative terms.
_GROW = 1.0 + 2.0**-40


@dataclass(frozen=True, eq=False)
class Margins:
    """Proved lower bounds on y_label - y_j at the exact equilibrium of each sample.

    ``lower`` (batch, q) float64; +inf in the label's own column. ``z`` (batch, n) float64: the equilibria as computed,
    ``error`` (batch,): proved l2 distances to the exact ones.
    """

    lower: Tensor
    z: Tensor
    error: Tensor


def inputs_of(form: Network, x: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Raw inputs (batch, p) and labels (batch,) after checking them; InputError names what is wrong."""
    x = x.detach()
    if x.dim() == 1 and form.in_size == x.shape[0]:
        x = x[None]
    x = x.flatten(1) if x.dim() > 2 else x
    if x.dim() != 2 or x.shape[1] != form.in_size:
        raise InputError(f"expected inputs of shape (batch, {form.in_size}), got {tuple(x.shape)}")
    if not x.is_floating_point() or not bool(x.isfinite().all()):
        raise InputError("the inputs must be finite floating-point numbers; found NaN, infinity or integers")
    if label is None:
        return x, None
    label = torch.as_tensor(label).detach().cpu().reshape(-1)
    if label.shape[0] != x.shape[0] or label.is_floating_point() or label.is_complex():
        raise InputError(f"expected {x.shape[0]} integer labels, got {label.dtype} of shape {tuple(label.shape)}")
    if label.numel() and (int(label.min()) < 0 or int(label.max()) >= form.out_size):
        wrong = int(label.min()) if int(label.min()) < 0 else int(label.max())
        raise InputError(f"label {wrong} is out of range: the network has {form.out_size} outputs")
    return x, label.long()


def solve(form: Form, x: Tensor, multipliers: Tensor) -> tuple[Tensor, Tensor]:
    """z (batch, n) in float64 and a proved bound (batch,) on its l2 distance to the exact equilibrium.

    Solved in float64, whatever the form's own number format: the stored numbers are the same. A sample that does not
    converge gets the error bound of where it got to, infinite at worst.
    """
    form = replace(form.to(torch.float64, torch.device("cpu")), lam=multipliers)
    x = x.to("cpu", torch.float64)
    z = equilibrium(form, x, Settings(raise_on_failure=False, require_well_posed=False)).z.detach()
    prover = Prover(form)
    return z, prover.error(x, z) if prover.well_posed else _error(form, x, z)


def _error(form: Form, x: Tensor, z: Tensor) -> Tensor:
    """The same proved distance where multipliers are good for the form's own slopes, but not for all of [0, 1].

    With r = sigma(s) - z, the point sigma(s) is the exact equilibrium of the network whose bias is smaller by W r, so
    it is at most L |W r| away, where L is a proved Lipschitz bound from the bias to the equilibrium.
    """
    n = form.hidden_size
    U, C = (Dense(torch.eye(n, dtype=torch.float64)) for _ in range(2))
    nothing = Zero((n, n), torch.float64, torch.device("cpu"))
    from_bias = replace(form, U=U, C=C, D=nothing, c=torch.zeros_like(form.b), standardisation=None)
    speed = lipschitz(from_bias, method="scale").value
    image, doubt = _image(form, x, z)
    r, W = image - z, form.W.dense()
    doubt = doubt + torch.finfo(torch.float64).eps * r.abs()
    unit = 1.0 + gamma(n + 8)
    moved = (r @ W.mT).norm(dim=1) + ((unit - 1.0) * r.abs() @ W.abs().mT + doubt @ W.abs().mT * unit).norm(dim=1)
    bound = (r.norm(dim=1) + doubt.norm(dim=1) + speed * moved) * unit * _GROW
    return torch.where(bound.isfinite(), bound, torch.inf)


def _image(form: Form, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """sigma(W z + U xi + b) as computed, and how far each entry may be from its exact value: (batch, n) twice."""
    s, doubt = arguments(form, x, z)
    image = form.activation.value(s)
    return image, doubt + (form.activation.rounding + 1.0) * torch.finfo(torch.float64).eps * image.abs() + 1e-300


def arguments(form: Form, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """s = W z + U xi + b of a float64 form as computed, and a bound on the rounding of each entry: (batch, n) twice."""
    s = form.W.plus(z, form.bias(form.standardise(x)))
    size = z.abs() @ form.W.dense().abs().mT + _magnitude(form, x) @ form.U.dense().abs().mT + form.b.abs()
    return s, gamma(form.hidden_size + form.in_size + 8) * size * _GROW


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs as computed in float64, and what is proved about them.

    ``y`` (batch, q); ``rounding`` (batch, q): how far each may be from C z + D xi + c for the ``z`` (batch, n) that was
    computed; ``error`` (batch,): proved l2 distances of z to the exact equilibria. ``form`` is the form in float64.
    """

    form: Form
    y: Tensor
    rounding: Tensor
    z: Tensor
    error: Tensor


def outputs(form: Form, x: Tensor, multipliers: Tensor) -> Outputs:
    """The outputs for raw inputs ``x`` (batch, p), with the rounding in them and the error of the solve."""
    form = form.to(torch.float64, torch.device("cpu"))
    x = x.to("cpu", torch.float64)
    z, error = solve(form, x, multipliers)
    y = form.output(z, form.standardise(x))
    # Every entry of y is a sum of n + p + 1 products; standardising adds three roundings.
    unit = gamma(form.hidden_size + form.in_size + 8)
    size = z.abs() @ form.C.dense().abs().mT + form.c.abs()
    if not isinstance(form.D, Zero):
        size = size + _magnitude(form, x) @ form.D.dense().abs().mT
    return Outputs(form, y, unit * size * _GROW, z, error)


def margins(form: Form, x: Tensor, label: Tensor, multipliers: Tensor) -> Margins:
    """Proved margins of ``label`` (batch,) over every other class, for raw inputs ``x`` (batch, p)."""
    found = outputs(form, x, multipliers)
    y, rounding, error, C = found.y, found.rounding, found.error, found.form.C.dense()
    own = y.gather(1, label[:, None])
    # |c (z - z*)| <= |c| |z - z*| for the row c of each difference; the row's own rounding is in _GROW.
    distances = torch.cdist(C, C, compute_mode="donot_use_mm_for_euclid_dist") * (1.0 + gamma(C.shape[1] + 4))
    doubt = rounding + rounding.gather(1, label[:, None]) + distances[label] * error[:, None]
    lower = own - y - doubt * _GROW
    lower = lower - torch.finfo(torch.float64).eps * (own.abs() + y.abs() + doubt)
    lower[torch.arange(len(label)), label] = torch.inf
    return Margins(torch.where(lower.isnan(), -torch.inf, lower), found.z, error)


def _magnitude(form: Form, x: Tensor) -> Tensor:
    """What |xi| and its rounding error are bounded by: (|x| + |mean|) / std."""
    standardisation = form.standardisation
    if standardisation is None:
        return x.abs()
    return (x.abs() + standardisation.mean.abs()) / standardisation.std
