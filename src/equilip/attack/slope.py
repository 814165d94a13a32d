"""The largest slope found: an estimate from below of what :mod:`equilip.certify` bounds from above."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equilip.attack.jacobian import Linearised, slopes_at
from equilip.attack.ledger import save_arrays
from equilip.attack.pairs import ascend
from equilip.attack.patterns import Extremes, realise, search
from equilip.attack.target import ChainTarget, FormTarget, Target
from equilip.attack.wander import wander
from equilip.certify.bounds import Bound
from equilip.certify.linf import LinfBound
from equilip.certify.margins import inputs_of
from equilip.certify.system import HasForm
from equilip.chain import Network
from equilip.errors import InputError

#: Up to this many neurons patterns of slopes are searched, and numbers that their matrices may take.
LARGEST = 2048
WORKSPACE = 20_000_000

#: Distances at which the steepest direction of a point is tried: large ones suffer less from rounding, small ones less
#: from the network's curvature and kinks.
_DISTANCES = tuple(10.0**k for k in range(1, -8, -1))

#: Points whose Jacobians are the largest, tried in float64.
_FINALISTS = 8

#: The share of the steepest pattern's norm below which the patterns are taken not to occur.
_NEARLY = 0.999

#: Rounds a computed distance up.
_UP = 1.0 + 2.0**-40


@dataclass(frozen=True, eq=False)
class LargestSlope:
    """The largest ‖y - y'‖ / ‖ξ - ξ'‖ found, ``value``, and ‖y - y'‖ / ‖x - x'‖, ``value_raw``: lower estimates.

    In l2, or both norms the largest entry where ``norm`` is "linf".

    ξ is the standardised input and x the raw one. ``pair`` and ``pair_raw`` (2, p) are the raw inputs that attain them.
    Both were solved in float64, and what the solver's proved error and rounding leave open has been subtracted: the
    network's smallest Lipschitz bound is at least this large.
    """

    value: float
    value_raw: float
    pair: Tensor
    pair_raw: Tensor
    seconds: float
    form_sha256: str
    norm: str = "l2"

    def contradicts(self, bound: Bound | LinfBound) -> bool:
        """Whether a slope found is above a proved bound of the same form and norm: then one of the two is wrong."""
        return self.value > bound.value or self.value_raw > bound.value_raw

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the slopes and the pairs that attain them to a .npz file: all of it, or nothing."""
        save_arrays(
            path,
            value=np.array(self.value),
            value_raw=np.array(self.value_raw),
            pair=self.pair.numpy(),
            pair_raw=self.pair_raw.numpy(),
            form_sha256=np.array(self.form_sha256),
        )


def largest_slope(
    model: Network | HasForm | Target,
    x: Tensor | None = None,
    *,
    starts: int = 32,
    rounds: int = 8,
    seed: int = 0,
) -> LargestSlope:
    """Search the largest slope of a network, anywhere in its input space.

    x: (batch, p) raw inputs from which to start, such as data; random ones where absent. starts: how many searches run
    side by side. rounds: how often each is disturbed and goes on. Pairs of inputs climb by gradient, and the Jacobian's
    spectral norm is climbed over the patterns of the neurons' slopes. Raises what attacks raise.
    """
    if starts < 1 or rounds < 0:
        raise InputError(f"at least one start and no negative number of rounds, got {starts} and {rounds}")
    begin = time.monotonic()
    target = Target.of(model)
    generator = torch.Generator().manual_seed(seed)
    points = starting_points(target, x, starts, generator)
    best = _search(target, points, rounds, generator, raw=False)
    standardisation = target.exact.standardisation
    best_raw = best
    if standardisation is not None:
        std = standardisation.std
        if bool((std == std[0]).all()):
            first, second = best[1]
            best_raw = _largest(target, first[None], second[None], raw=True)
        else:
            best_raw = _search(target, points, rounds, generator, raw=True)
    return LargestSlope(
        best[0], best_raw[0], best[1], best_raw[1], seconds=time.monotonic() - begin, form_sha256=target.sha256
    )


def slopes(target: Target, first: Tensor, second: Tensor, *, raw: bool) -> Tensor:
    """Lower bounds (batch,) of the slopes between raw inputs (batch, p) and (batch, p); 0 where nothing converged."""
    first, second = first.double(), second.double()
    one, other = target.judge(first), target.judge(second)
    gain = target.gain
    doubt = gain * (one.error + other.error) + torch.linalg.vector_norm(one.rounding + other.rounding, dim=1)
    rise = torch.linalg.vector_norm(one.y - other.y, dim=1) - doubt * _UP
    apart = first - second
    standardisation = target.exact.standardisation
    if not raw and standardisation is not None:
        apart = apart / standardisation.std
    found = rise / (torch.linalg.vector_norm(apart, dim=1) * _UP)
    usable = one.converged & other.converged & (found > 0) & found.isfinite()
    return torch.where(usable, found * (1 - 2.0**-40), 0.0)


def starting_points(target: Target, x: Tensor | None, starts: int, generator: torch.Generator) -> Tensor:
    """Where to start: (starts, p) float64, raw."""
    if x is not None:
        x, _ = inputs_of(target.original, x, None)
        if len(x):
            chosen = torch.randint(len(x), (starts,), generator=generator)
            return x.cpu()[chosen].double()
    standardisation = target.exact.standardisation
    xi = torch.randn(starts, target.in_size, generator=generator, dtype=torch.float64)
    return xi if standardisation is None else xi * standardisation.std + standardisation.mean


def _search(
    target: Target, points: Tensor, rounds: int, generator: torch.Generator, *, raw: bool
) -> tuple[float, Tensor]:
    first, second = ascend(target, points, raw=raw, generator=generator)
    found = [_largest(target, first, second, raw=raw)]
    # Where a W may be singular for some slopes, patterns promise anything and mean nothing.
    if isinstance(target, ChainTarget):
        candidates = torch.cat([first, second, 0.5 * (first + second), points])
        found.append(_along(target, *_steepest_of_chain(target, candidates, raw=raw), raw=raw))
    elif not isinstance(target, FormTarget):
        return found[0]
    elif target.proved and 0 < target.exact.hidden_size <= LARGEST:
        linear = Linearised.of(target.exact, raw=raw)
        along = torch.cat([first, second, 0.5 * (first + second), points])
        realised, promised = _pattern_points(target, linear, along, rounds, generator)
        candidates = torch.cat([along, realised])
        norms, directions = _steepest(target, linear, candidates)
        if float(norms.max()) < _NEARLY * promised:
            starts = candidates[norms.topk(len(points)).indices]
            candidates = torch.cat([candidates, wander(target, linear, starts, generator)])
            norms, directions = _steepest(target, linear, candidates)
        top = norms.topk(min(_FINALISTS, len(norms))).indices
        found.append(_along(target, candidates[top], directions[top], raw=raw))
    elif target.exact.hidden_size == 0:
        linear = Linearised.of(target.exact, raw=raw)
        _, directions = linear.steepest(torch.ones(1, 0, dtype=torch.float64))
        found.append(_along(target, points[:1], directions, raw=raw))
    return max(found, key=lambda each: each[0])


def _steepest_of_chain(target: ChainTarget, x: Tensor, *, raw: bool) -> tuple[Tensor, Tensor]:
    """The points whose Jacobians are the largest, (finalists, p), and their steepest unit directions, likewise."""
    x = x.to(target.fast.device, target.fast.dtype)
    rows = torch.eye(target.out_size, dtype=x.dtype, device=x.device)
    _, gradients = target.gradients(x, lambda y: rows[:, None, :].expand(-1, len(y), -1))
    J = gradients.movedim(0, 1).to("cpu", torch.float64)
    if not raw and target.exact.standardisation is not None:
        J = J * target.exact.standardisation.std
    squares, vectors = torch.linalg.eigh(J @ J.mT)
    top = squares[:, -1].topk(min(_FINALISTS, len(J))).indices
    directions = (J.mT @ vectors[:, :, -1:])[top, :, 0]
    size = torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp(min=torch.finfo(J.dtype).tiny)
    return x[top.to(x.device)].to("cpu", torch.float64), directions / size


def _steepest(target: FormTarget, linear: Linearised, x: Tensor) -> tuple[Tensor, Tensor]:
    """The Jacobians' norms (batch,) at raw inputs, 0 where there is none, and the steepest directions (batch, p)."""
    norms, directions = linear.steepest(slopes_at(target, x))
    return norms.nan_to_num(nan=0.0, posinf=0.0), directions


def _pattern_points(
    target: FormTarget, linear: Linearised, points: Tensor, rounds: int, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Points where patterns of slopes occur, or nearly, whose Jacobians are large: (starts, p), raw; and how large."""
    form = target.exact
    n = form.hidden_size
    extremes = Extremes.of(form.activation, n)
    count = max(2, min(len(points) // 4, WORKSPACE // (3 * n * n)))
    known = slopes_at(target, points)
    known = known[linear.steepest(known)[0].nan_to_num(nan=0.0).argsort(descending=True)][: count // 2]
    chance = (torch.rand(count - len(known), n, generator=generator, dtype=torch.float64) < 0.5).to(known.dtype)
    random = torch.where(chance > 0, extremes.high, extremes.low)
    patterns, norms = search(linear, torch.cat([known, random]), extremes, rounds, generator)
    xi = realise(linear, patterns, extremes)
    standardisation = form.standardisation
    x = xi if standardisation is None else xi * standardisation.std + standardisation.mean
    return x, float(norms.max())


def _along(target: Target, x: Tensor, direction: Tensor, *, raw: bool) -> tuple[float, Tensor]:
    """The largest slope from points (batch, p) along their directions, at all distances and both ways."""
    standardisation = target.exact.standardisation
    move = direction if raw or standardisation is None else direction * standardisation.std
    distances = torch.tensor(_DISTANCES, dtype=torch.float64)
    steps = torch.cat([distances, -distances])[:, None, None] * move
    other = (x + steps).flatten(0, 1)
    return _largest(target, x.expand_as(steps).flatten(0, 1), other, raw=raw)


def _largest(target: Target, first: Tensor, second: Tensor, *, raw: bool) -> tuple[float, Tensor]:
    """The largest slope of these pairs, and the pair (2, p)."""
    found = slopes(target, first, second, raw=raw)
    best = int(found.argmax())
    return float(found[best]), torch.stack([first[best], second[best]])
