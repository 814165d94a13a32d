"""Local search over the neurons' slopes for the Jacobian of largest norm.

A piecewise linear network has one Jacobian for every pattern of slopes that occurs. Changing the slope of one
neuron changes the Jacobian by a matrix of rank one, so the gain of every such change is known at once, and carrying it
out costs n² operations. Patterns are then turned into points where they occur; where U has full row rank, which is
usual when there are more inputs than neurons, every pattern occurs somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from equilip.activations import Activation
from equilip.attack.jacobian import Linearised

#: Preactivations among which the steepest and the flattest point of an activation are looked for, kinks last.
_GRID = (0.5, -0.5, 0.0, 40.0, -40.0)

#: A change is carried out if it raises the squared norm by this factor at least.
_GAIN = 1 + 1e-9

#: Changes after which the inverses are computed afresh, because updates collect rounding errors.
_REFRESH = 64


@dataclass(frozen=True, eq=False)
class Extremes:
    """For each neuron a preactivation where its slope is large and one where it is small, and these slopes: (n,)."""

    steep: Tensor
    flat: Tensor
    high: Tensor
    low: Tensor

    @classmethod
    def of(cls, sigma: Activation, size: int) -> Extremes:
        points = torch.tensor(_GRID, dtype=torch.float64)[:, None].expand(-1, size)
        slopes = sigma.slope(points)
        best, worst = slopes.argmax(dim=0, keepdim=True), slopes.argmin(dim=0, keepdim=True)
        pick = [t.gather(0, index)[0] for index in (best, worst) for t in (points, slopes)]
        return cls(pick[0], pick[2], pick[1], pick[3])


@dataclass(eq=False)
class State:
    """Patterns and what follows from them: K = (I - W j)⁻¹, H = K W, P = K U Uᵀ Kᵀ, each (batch, n, n)."""

    linear: Linearised
    slopes: Tensor
    K: Tensor
    H: Tensor
    P: Tensor

    @classmethod
    def of(cls, linear: Linearised, slopes: Tensor) -> State:
        K = linear.inverse(slopes)
        return cls(linear, slopes, K, K @ linear.W, K @ linear.input_gram @ K.mT)

    def squared_norms(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """‖J‖² (batch,), and a lower bound of it (batch, n) after the slope of one neuron is moved to its target.

        Moving neuron i by d adds c a bᵀ to J, where c = d / (1 - d H_ii), a is column i of C (I - j W)⁻¹ and b is row
        i of K U. The bound is ‖(J + c a bᵀ)(J + c a bᵀ)ᵀ w‖, w the eigenvector of J Jᵀ for its largest eigenvalue.
        """
        C, S, linear = self.linear.C, self.slopes[:, None, :], self.linear
        CS = C * S
        CSK = CS @ self.K
        CSP = CS @ self.P
        cross = CSK @ linear.cross_gram.mT
        gram = CSP @ CS.mT + cross + cross.mT + linear.through_gram
        values, vectors = torch.linalg.eigh(gram)
        top, w = values[:, -1], vectors[:, :, -1]
        a = C + CS @ self.H
        u = CSP + linear.cross_gram @ self.K.mT
        d = target - self.slopes
        c = (d / (1 - d * self.H.diagonal(dim1=1, dim2=2)))[:, None, :]
        beta = self.P.diagonal(dim1=1, dim2=2)[:, None, :]
        wa, wu = w[:, None, :] @ a, w[:, None, :] @ u
        changed = (top[:, None] * w)[:, :, None] + c * (u * wa + a * wu) + c.square() * beta * wa * a
        return top, torch.linalg.vector_norm(changed, dim=1)

    def move(self, rows: Tensor, neuron: Tensor, to: Tensor) -> None:
        """Give one neuron of each of these rows another slope (in place)."""
        d = to - self.slopes[rows, neuron]
        K, H, P = self.K[rows], self.H[rows], self.P[rows]
        every = torch.arange(len(rows))
        c = (d / (1 - d * H[every, neuron, neuron]))[:, None, None]
        h = H[every, :, neuron][:, :, None]
        p = P[every, neuron, :][:, None, :]
        own = p[every, 0, neuron][:, None, None]
        self.K[rows] = K + c * h * K[every, neuron, :][:, None, :]
        self.H[rows] = H + c * h * H[every, neuron, :][:, None, :]
        self.P[rows] = P + c * (h * p + p.mT * h.mT) + c.square() * own * h * h.mT
        self.slopes[rows, neuron] = to


def climb(linear: Linearised, slopes: Tensor, extremes: Extremes, limit: int) -> tuple[Tensor, Tensor]:
    """Change one neuron at a time, always the one that gains most, while anything is gained: slopes, ‖J‖.

    slopes: (batch, n), each entry high or low.
    """
    state = State.of(linear, slopes.clone())
    norms = torch.zeros(len(slopes), dtype=slopes.dtype)
    for number in range(limit):
        if number % _REFRESH == _REFRESH - 1:
            state = State.of(linear, state.slopes)
        target = torch.where(state.slopes == extremes.high, extremes.low, extremes.high)
        norms, proposals = state.squared_norms(target)
        value, neuron = proposals.max(dim=1)
        rows = (value > norms * _GAIN).nonzero().flatten()
        if not len(rows):
            break
        state.move(rows, neuron[rows], target[rows, neuron[rows]])
    return state.slopes, norms.clamp(min=0.0).sqrt()


def search(
    linear: Linearised, starts: Tensor, extremes: Extremes, rounds: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Climb from every start, then again and again after changing a tenth of the neurons at random; the best of each.

    starts: (batch, n) slopes. Returns slopes (batch, n) and the norms of the Jacobians (batch,).
    """
    high = starts > 0.5 * (extremes.high + extremes.low)
    best, norms = climb(linear, torch.where(high, extremes.high, extremes.low), extremes, 8 * starts.shape[1])
    for _ in range(rounds):
        kick = torch.rand(best.shape, generator=generator, dtype=best.dtype) < 0.1
        other = torch.where(best == extremes.high, extremes.low, extremes.high)
        slopes, found = climb(linear, torch.where(kick, other, best), extremes, 8 * starts.shape[1])
        better = found > norms
        best = torch.where(better[:, None], slopes, best)
        norms = torch.where(better, found, norms)
    return best, norms


def realise(linear: Linearised, slopes: Tensor, extremes: Extremes) -> Tensor:
    """Standardised inputs (batch, p) where the neurons have these slopes, as nearly as there are any.

    The preactivations s are chosen, z = σ(s), and U ξ = s - W z - b is solved in the least-squares sense.
    """
    form = linear.form
    s = torch.where(slopes == extremes.high, extremes.steep, extremes.flat)
    goal = s - form.W.apply(form.activation.value(s)) - form.b
    return torch.linalg.lstsq(form.U.dense(), goal.mT, driver="gelsd").solution.mT
