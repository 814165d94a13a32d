"""Boxes: what the outputs can be while the input runs over a box, proved (linf.md 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from equilip.activations import Activation, slope_bounds
from equilip.certify.margins import inputs_of
from equilip.certify.system import HasForm, array, as_form
from equilip.errors import IllPosedError, InputError
from equilip.form import Form
from equilip.operators import Contraction, Conv2d, Dense, Operator, Zero
from equilip.rounding import UNDERFLOW, gamma
from equilip.solve.channel_embedding import ChannelEmbedding
from equilip.solve.channels import ChannelComparison
from equilip.solve.comparison import Comparison
from equilip.solve.embedded import Boxed, Embedding
from equilip.solve.substitution import pick

#: Rows handled together.
CHUNK = 1024
#: Steps of the iteration that proposes a box, and the relative change at which it stops; the proof is of any proposal.
LIMIT = 1000
SETTLED = 1e-13
#: The same for images, whose steps cost more: what is left makes boxes wider by about as much.
SETTLED_IMAGES = 1e-8

_GROW = 1.0 + 2.0**-40


@dataclass(frozen=True, eq=False)
class Reachable:
    """For every sample, proved limits for all inputs of its box: of the outputs, and of the neurons.

    lower, upper: (batch, q) float64 and z_lower, z_upper: (batch, n) float64. Every input x' of the box has
    lower <= y(x') <= upper entry by entry, y the exact output of the stored numbers.
    """

    lower: Tensor
    upper: Tensor
    z_lower: Tensor
    z_upper: Tensor
    _reader: _Reader
    _xi: tuple[Tensor, Tensor]

    def leads(self, label: Tensor) -> Tensor:
        """Proved lower bounds (batch, q) of y_label - y_j over the box; +inf in the label's own column.

        The difference of the two rows of C is formed first, which is never worse than the difference of two intervals.
        """
        q = self.lower.shape[1]
        label = torch.as_tensor(label).reshape(-1).long()
        if label.shape[0] != len(self.lower) or (label.numel() and not 0 <= int(label.min()) <= int(label.max()) < q):
            raise InputError(f"expected {len(self.lower)} labels from 0 to {q - 1}")
        found = self._reader.leads(self.z_lower, self.z_upper, self._xi, label)
        found[torch.arange(len(label)), label] = torch.inf
        return found


def reachable(model: Form | HasForm, lower: Tensor, upper: Tensor, *, limit: int = LIMIT) -> Reachable:
    """What ``model`` can give for inputs with lower <= x <= upper: (batch, p) each, raw units.

    ``limit``: the most steps of the iteration. Sound whatever it is: what an unfinished iteration leaves makes the box
    wider, never wrong.

    Raises InputError for boxes that are empty, of the wrong shape or not finite, and IllPosedError where the comparison
    matrix proves nothing about W: contracting networks (nn.NEMON) and networks without cycles always can be boxed.
    """
    form = as_form(model).to(torch.float64, torch.device("cpu"))
    lower, _ = inputs_of(form, lower, None)
    upper, _ = inputs_of(form, upper, None)
    lower, upper = lower.to("cpu", torch.float64), upper.to("cpu", torch.float64)
    if lower.shape != upper.shape or not bool((lower <= upper).all()):
        raise InputError(f"a box needs lower <= upper, of one shape; got {tuple(lower.shape)} and {tuple(upper.shape)}")
    if limit < 0:
        raise InputError(f"limit is a number of steps, at least 0, got {limit}")
    boxer = ImageBoxer(form) if isinstance(form.W, Contraction) else Boxer(form)
    parts = [boxer.neurons(a, b, limit) for a, b in zip(lower.split(CHUNK), upper.split(CHUNK), strict=True)]
    if not parts:
        parts = [boxer.neurons(lower, upper, limit)]
    z_lower, z_upper, xi_lower, xi_upper = (torch.cat(part) for part in zip(*parts, strict=True))
    reader = _Reader(form)
    y_lower, y_upper = reader.outputs(z_lower, z_upper, (xi_lower, xi_upper))
    return Reachable(y_lower, y_upper, z_lower, z_upper, reader, (xi_lower, xi_upper))


class Boxer:
    """Boxes of neurons for boxes of inputs, for one form in float64."""

    def __init__(self, form: Form) -> None:
        W, n = form.W.dense(), form.hidden_size
        # Neurons that read no other neuron are settled by the input alone: those of a first layer.
        first = ~(W != 0).any(dim=1)
        self.first, self.rest = first.nonzero().flatten(), (~first).nonzero().flatten()
        slope = slope_bounds(form.activation, n)[1]
        comparison = Comparison.make(array(W[self.rest][:, self.rest]), array(slope[self.rest]))
        if comparison is None:
            raise IllPosedError(
                "the comparison matrix of this W proves nothing, so boxes cannot be sent through it; train a network "
                "that contracts in a weighted maximum norm (nn.NEMON), or use certified radii"
            )
        self.form = form
        self.sigma_first = pick(form.activation, self.first, n)
        self.sigma = pick(form.activation, self.rest, n)
        own = W[self.rest][:, self.rest]
        self.into = Signed.of(W[self.rest][:, self.first])
        self.inputs = Signed.of(form.U.dense())
        self.embedding = Embedding(own, self.sigma)
        diagonal = torch.diag_embed(own.diagonal())
        self.own = Signed.of(own - diagonal, diagonal)
        self.comparison = comparison

    def neurons(self, lower: Tensor, upper: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Proved limits of the neurons (batch, n), and of the standardised inputs (batch, p)."""
        xi_lower, xi_upper = standardised(self.form, lower, upper)
        low, high = biases(self.form, self.inputs, xi_lower, xi_upper)
        eps = torch.finfo(torch.float64).eps
        z_lower, z_upper = torch.empty_like(low), torch.empty_like(high)
        ends = _least(self.sigma_first, low[:, self.first]), _most(self.sigma_first, high[:, self.first])
        z_lower[:, self.first], z_upper[:, self.first] = ends
        if len(self.rest):
            pushed = self.into.limits(*ends)
            low, high = low[:, self.rest] + pushed[0], high[:, self.rest] + pushed[1]
            low, high = low - eps * (low.abs() + pushed[0].abs()), high + eps * (high.abs() + pushed[1].abs())
            z_lower[:, self.rest], z_upper[:, self.rest] = self._cyclic(low, high, limit)
        return *usable(z_lower, z_upper), xi_lower, xi_upper

    def _cyclic(self, low: Tensor, high: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """Proved limits of the neurons that read others, for limits of their biases."""
        found = self.embedding.solve(0.5 * (low + high), 0.5 * (high - low), low[:0], tolerance=SETTLED, limit=limit)
        return enclosed(found, self.own, self.sigma, self._missed, low, high)

    def _missed(self, outside: Tensor) -> Tensor:
        return torch.from_numpy(self.comparison.bound(array(outside) * self.comparison.misses))


class ImageBoxer:
    """The same for a form whose W is a convolution that contracts (linf.md 6)."""

    def __init__(self, form: Form) -> None:
        assert isinstance(form.W, Contraction)
        assert isinstance(form.U, Conv2d)
        comparison = ChannelComparison.of(form)
        if comparison is None:
            raise IllPosedError(
                "the comparison matrix of this W proves nothing, so boxes cannot be sent through it: rounding has used "
                "up the slack of its construction; lower m"
            )
        self.form, self.comparison = form, comparison
        self.inputs = Signed.of_kernel(form.U)
        self.own = Signed.of_kernel(form.W.without_centre(), form.W.centre)
        self.embedding = ChannelEmbedding(form.W, form.activation)

    def neurons(self, lower: Tensor, upper: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Proved limits of the neurons (batch, n), and of the standardised inputs (batch, p)."""
        xi_lower, xi_upper = standardised(self.form, lower, upper)
        low, high = biases(self.form, self.inputs, xi_lower, xi_upper)
        found = self.embedding.solve(
            0.5 * (low + high), 0.5 * (high - low), low[:0], tolerance=SETTLED_IMAGES, limit=limit
        )
        ends = enclosed(found, self.own, self.form.activation, self.comparison.missed, low, high)
        return *usable(*ends), xi_lower, xi_upper


def standardised(form: Form, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Proved limits of ξ for limits of raw inputs, (batch, p) each."""
    if form.standardisation is None:
        return lower, upper
    ends = []
    for x, sign in ((lower, -1.0), (upper, 1.0)):
        xi = form.standardise(x)
        ends.append(xi + sign * (4 * torch.finfo(torch.float64).eps * xi.abs() + UNDERFLOW))
    return ends[0], ends[1]


def biases(form: Form, inputs: Signed, xi_lower: Tensor, xi_upper: Tensor) -> tuple[Tensor, Tensor]:
    """Proved limits of U ξ + b, (batch, n) each; ``inputs`` is U."""
    low, high = (end + form.b for end in inputs.limits(xi_lower, xi_upper))
    eps = torch.finfo(torch.float64).eps
    return low - eps * (low.abs() + form.b.abs()), high + eps * (high.abs() + form.b.abs())


def enclosed(
    found: Boxed, own: Signed, sigma: Activation, missed: Callable[[Tensor], Tensor], low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor]:
    """A box around the proposal ``found`` that is proved to hold every equilibrium, for limits of the biases.

    ``own`` is W, ``missed`` makes of what the equation is missed by how far neurons may be off.
    """
    # Any proposal will do.
    l = (found.centre - found.radius.abs()).nan_to_num()  # noqa: E741
    h = (found.centre + found.radius.abs()).nan_to_num()
    s_low, s_high = own.limits(l, h)
    eps = torch.finfo(torch.float64).eps
    s_low, s_high = s_low + low, s_high + high
    below = l - _least(sigma, s_low - eps * (s_low.abs() + low.abs()))
    above = _most(sigma, s_high + eps * (s_high.abs() + high.abs())) - h
    outside = torch.maximum(below, above).nan_to_num(nan=torch.inf, posinf=torch.inf)
    # The rounding of the two differences: both terms are of the size of l, h and what is outside.
    outside = torch.where(outside > 0, outside + 2 * eps * (l.abs() + h.abs() + outside), 0.0)
    # (I - uM) g >= max(1, 1 - u w_ii) outside gives g >= outside + max(uMg, 0): [l - g, h + g] maps into itself.
    grown = missed(outside) * _GROW + 4 * eps * (l.abs() + h.abs()) + 1e-300
    return l - grown, h + grown


def usable(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The same limits; infinite where they are not numbers."""
    bad = lower.isnan() | upper.isnan()
    return lower.masked_fill(bad, -torch.inf), upper.masked_fill(bad, torch.inf)


class Signed:
    """A linear map split by signs, to be applied to boxes; what is kept acts on its own end whatever its sign."""

    def __init__(self, up: Operator, down: Operator, size: Operator, terms: int) -> None:
        """``terms``: the most products that an entry of the result is a sum of."""
        self.up, self.down, self.size = up, down, size
        self.unit, self.tiny = gamma(2 * terms + 8) * _GROW, UNDERFLOW * 2 * (2 * terms + 8)

    @classmethod
    def of(cls, matrix: Tensor, kept: Tensor | None = None) -> Signed:
        """A matrix (k, n), and one that is kept."""
        up, down = matrix.clamp(min=0), matrix.clamp(max=0)
        if kept is not None:
            up = up + kept
        return cls(Dense(up), Dense(down), Dense(up.abs() - down), matrix.shape[1])

    @classmethod
    def of_kernel(cls, map: Conv2d, kept: Tensor | None = None) -> Signed:
        """A convolution, and the centre taps (c,) of one that is kept, where the map has zeros."""
        up, down = map.kernel.clamp(min=0), map.kernel.clamp(max=0)
        if kept is not None:
            middle = up.shape[2] // 2
            up[:, :, middle, middle] += torch.diag(kept)
        first, second, size = (map.rebuild((kernel,)) for kernel in (up, down, up.abs() - down))
        return cls(first, second, size, map.kernel[0].numel())

    def limits(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest values over a box (batch, n), rounded outwards: (batch, k) each."""
        doubt = self.unit * self.size.apply(torch.maximum(lower.abs(), upper.abs())) + self.tiny
        low = self.up.apply(lower) + self.down.apply(upper)
        high = self.up.apply(upper) + self.down.apply(lower)
        return low - doubt * _GROW, high + doubt * _GROW


def _least(sigma: Activation, s: Tensor) -> Tensor:
    """A lower bound of σ(s)."""
    value = sigma.value(s)
    return value - (sigma.rounding + 1) * torch.finfo(s.dtype).eps * value.abs() - _tiny(sigma)


def _most(sigma: Activation, s: Tensor) -> Tensor:
    """An upper bound of σ(s)."""
    value = sigma.value(s)
    return value + (sigma.rounding + 1) * torch.finfo(s.dtype).eps * value.abs() + _tiny(sigma)


def _tiny(sigma: Activation) -> float:
    """What underflow may do to a value that is not exact."""
    return 1e-300 if sigma.rounding else 0.0


class _Reader:
    """Rows of C and D applied to boxes, rounded outwards."""

    def __init__(self, form: Form) -> None:
        self.C, self.c = form.C.dense(), form.c
        self.D = None if isinstance(form.D, Zero) else form.D.dense()

    def outputs(self, z_lower: Tensor, z_upper: Tensor, xi: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        low, high = Signed.of(self._joined(self.C, self.D)).limits(*self._ends(z_lower, z_upper, xi))
        eps = 2 * torch.finfo(torch.float64).eps
        low, high = low + self.c, high + self.c
        low, high = low - eps * (low.abs() + self.c.abs()), high + eps * (high.abs() + self.c.abs())
        return torch.where(low.isnan(), -torch.inf, low), torch.where(high.isnan(), torch.inf, high)

    @cached_property
    def _differences(self) -> Signed:
        """C_i - C_j and D_i - D_j for all i, j, each with one rounding, which the room in a sum's error pays for."""
        q = self.C.shape[0]
        joined = self._joined(self.C, self.D)
        return Signed.of((joined[:, None] - joined[None, :]).reshape(q * q, -1))

    def leads(self, z_lower: Tensor, z_upper: Tensor, xi: tuple[Tensor, Tensor], label: Tensor) -> Tensor:
        q = self.C.shape[0]
        found = [z_lower.new_zeros(0, q)]
        for rows in torch.arange(len(label)).split(CHUNK):
            ends = self._ends(z_lower[rows], z_upper[rows], (xi[0][rows], xi[1][rows]))
            least = self._differences.limits(*ends)[0].reshape(-1, q, q)[torch.arange(len(rows)), label[rows]]
            offset = self.c[label[rows]][:, None] - self.c
            size = least.abs() + self.c[label[rows]].abs()[:, None] + self.c.abs()
            found.append(least + offset - 4 * torch.finfo(torch.float64).eps * size)
        return torch.cat(found).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def _joined(self, C: Tensor, D: Tensor | None) -> Tensor:
        return C if D is None else torch.cat([C, D], 1)

    def _ends(self, z_lower: Tensor, z_upper: Tensor, xi: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if self.D is None:
            return z_lower, z_upper
        return torch.cat([z_lower, xi[0]], 1), torch.cat([z_upper, xi[1]], 1)
