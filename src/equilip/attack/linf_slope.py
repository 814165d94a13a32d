"""The largest ℓ∞ slope found: from below what :func:`equilip.certify.lipschitz_linf` bounds from above.

The ℓ∞ slope at a point is the largest sum of absolute values in a row of the Jacobian, and it is attained along the
signs of that row. Rows are gradients, so no Jacobian is formed and convolutional networks are searched like any other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.attack.jacobian import Linearised
from equilip.attack.patterns import Extremes, realise
from equilip.attack.slope import LargestSlope, starting_points
from equilip.attack.target import FormTarget, Target
from equilip.certify.system import HasForm
from equilip.chain import Network
from equilip.errors import InputError
from equilip.rounding import gamma

#: Up to this many neurons patterns of slopes are searched: each takes an inverse.
LARGEST = 400
#: Times that every neuron of a pattern may change its slope.
_FLIPS = 8
#: Directions that each point tries in a round.
_TRIES = 4
#: Distances at which the steepest direction of a point is tried.
_DISTANCES = tuple(10.0**k for k in range(1, -8, -1))
_FINALISTS = 8
_UP = 1.0 + 2.0**-40


@dataclass(frozen=True, eq=False)
class _Units:
    """What one unit of the input is: ``unit`` (p,), 1 for raw inputs, std for standardised ones."""

    target: FormTarget
    unit: Tensor

    @classmethod
    def of(cls, target: FormTarget, *, raw: bool) -> _Units:
        standardisation = target.exact.standardisation
        if raw or standardisation is None:
            return cls(target, torch.ones(target.in_size, dtype=torch.float64))
        return cls(target, standardisation.std)

    def steepness(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The ℓ∞ slopes (batch,) at raw points (batch, p), as computed, and unit steps (batch, p) that attain them."""
        fast, q = self.target.fast, self.target.out_size
        rows = torch.eye(q, dtype=fast.dtype, device=fast.device)[:, None].expand(q, len(x), q)
        _, gradients = self.target.gradients(x.to(fast.device, fast.dtype), lambda y: rows)
        gradients = gradients.to("cpu", torch.float64) * self.unit
        sizes, row = gradients.abs().sum(2).nan_to_num(nan=0.0, posinf=0.0).max(0)
        return sizes, gradients[row, torch.arange(len(x))].sign() * self.unit

    def slopes(self, first: Tensor, second: Tensor) -> Tensor:
        """Lower bounds (batch,) of the slopes between raw points (batch, p); 0 where nothing is proved."""
        one, other = self.target.judge(first), self.target.judge(second)
        C = self.target.exact.C.dense()
        gain = torch.linalg.vector_norm(C, dim=1) * (1 + gamma(C.shape[1] + 4))
        doubt = gain * (one.error + other.error)[:, None] + one.rounding + other.rounding
        rise = ((one.y - other.y).abs() - doubt * _UP).amax(1)
        found = rise / (((first - second).abs() / self.unit).amax(1) * _UP)
        usable = one.converged & other.converged & (found > 0) & found.isfinite()
        return torch.where(usable, found * (1 - 2.0**-40), 0.0)

    def largest(self, first: Tensor, second: Tensor) -> tuple[float, Tensor]:
        """The largest slope of these pairs, and the pair (2, p)."""
        found = self.slopes(first, second)
        best = int(found.argmax())
        return float(found[best]), torch.stack([first[best], second[best]])


def largest_slope_linf(
    model: Network | HasForm | Target,
    x: Tensor | None = None,
    *,
    starts: int = 32,
    rounds: int = 8,
    seed: int = 0,
) -> LargestSlope:
    """Search the largest |y - y'|∞ / |ξ - ξ'|∞ of a network, anywhere in its input space.

    x: (batch, p) raw inputs from which to start, such as data; random ones where absent. starts: how many searches run
    side by side. rounds: how often each tries to get to steeper points. Raises what attacks raise.
    """
    if starts < 1 or rounds < 0:
        raise InputError(f"at least one start and no negative number of rounds, got {starts} and {rounds}")
    begin = time.monotonic()
    target = FormTarget.narrow(model)
    generator = torch.Generator().manual_seed(seed)
    points = starting_points(target, x, starts, generator)
    value, pair = _search(target, points, rounds, generator, raw=False)
    value_raw, pair_raw = value, pair
    standardisation = target.exact.standardisation
    if standardisation is not None:
        if bool((standardisation.std == standardisation.std[0]).all()):
            value_raw = float(_Units.of(target, raw=True).slopes(pair[:1], pair[1:]))
        else:
            value_raw, pair_raw = _search(target, points, rounds, generator, raw=True)
    seconds = time.monotonic() - begin
    return LargestSlope(value, value_raw, pair, pair_raw, seconds, target.sha256, "linf")


def _search(
    target: FormTarget, points: Tensor, rounds: int, generator: torch.Generator, *, raw: bool
) -> tuple[float, Tensor]:
    units = _Units.of(target, raw=raw)
    # Where a W may be singular for some slopes, patterns promise anything and mean nothing.
    if target.proved and 0 < target.exact.hidden_size <= LARGEST:
        points = torch.cat([points, _pattern_points(Linearised.of(target.exact, raw=raw), len(points), generator)])
    sizes, steps = units.steepness(points)
    spread = float(((points - points.mean(0)) / units.unit).abs().mean().clamp(1e-6, 1e6))
    for _ in range(rounds):
        length = 10.0 ** (4 * torch.rand(_TRIES, len(points), 1, generator=generator, dtype=torch.float64) - 3) * spread
        noise = torch.randn(_TRIES, *points.shape, generator=generator, dtype=torch.float64).sign() * units.unit
        # Along the steepest direction, both ways, and at random.
        along = torch.stack([steps, -steps, noise[2], noise[3]])
        proposals = points + length * along
        found, directions = units.steepness(proposals.flatten(0, 1))
        best, index = found.reshape(_TRIES, -1).max(0)
        every = torch.arange(len(points))
        better = (best > sizes)[:, None]
        points = torch.where(better, proposals[index, every], points)
        steps = torch.where(better, directions.reshape(proposals.shape)[index, every], steps)
        sizes = torch.maximum(sizes, best)
    top = sizes.topk(min(_FINALISTS, len(sizes))).indices
    distances = torch.tensor(_DISTANCES, dtype=torch.float64)
    moves = torch.cat([distances, -distances])[:, None, None] * steps[top]
    others = (points[top] + moves).flatten(0, 1)
    return units.largest(points[top].expand_as(moves).flatten(0, 1), others)


def _pattern_points(linear: Linearised, count: int, generator: torch.Generator) -> Tensor:
    """Raw points (count, p) where patterns of slopes occur, or nearly, whose Jacobians have a large row.

    For a row c and a direction s, c J s changes by G_i h_i times the change of neuron i's slope, with
    G = c (I - j W)⁻¹ and h = (I - W j)⁻¹ U s: every neuron takes the slope that this asks for, and again.
    """
    form = linear.form
    extremes = Extremes.of(form.activation, form.hidden_size)
    chance = torch.rand(count, form.hidden_size, generator=generator, dtype=torch.float64)
    slopes = torch.where(chance < torch.rand(count, 1, generator=generator), extremes.high, extremes.low)
    best, sizes = slopes, torch.zeros(count, dtype=torch.float64)
    for _ in range(_FLIPS):
        K = linear.inverse(slopes)
        CS = linear.C * slopes[:, None, :]
        J = CS @ (K @ linear.U) + linear.D
        size, row = J.abs().sum(2).max(1)
        best = torch.where((size > sizes)[:, None], slopes, best)
        sizes = torch.maximum(size, sizes)
        every = torch.arange(count)
        G = (linear.C + CS @ K @ linear.W)[every, row]
        h = (K @ (linear.U @ J[every, row].sign().mT).mT[:, :, None])[:, :, 0]
        slopes = torch.where(G * h > 0, extremes.high, extremes.low)
    xi = realise(linear, best, extremes)
    standardisation = form.standardisation
    return xi if standardisation is None else xi * standardisation.std + standardisation.mean
