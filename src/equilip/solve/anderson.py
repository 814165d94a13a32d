"""Anderson acceleration of another iteration, guarded.

Each sample mixes its own last few states so that the mixed fixed-point residual is least. The mixture is
only a proposal: a sample whose fixed-point residual does not shrink under it goes back to the plain step and
starts a new memory, and after three such refusals it is accelerated no more. So every sample takes at most
three steps more than the plain iteration would, keeps its guarantee of convergence, and a singular least-squares
problem is a refusal like any other, never an exception.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from equilip.errors import InputError
from equilip.operators import Operator
from equilip.solve.iteration import Equation, Prepared, Run, Solver
from equilip.solve.metric import Metric
from equilip.solve.peaceman_rachford import PeacemanRachford

REFUSALS = 3


@dataclass(frozen=True, eq=False)
class AndersonState:
    """The current point, the plain image to fall back to, and the memory of (image, image - point) pairs."""

    point: Tensor  # (batch, n), where the map is applied next
    plain: Tensor  # (batch, n), the last plain image
    least: Tensor  # (batch,), fixed-point residual at the last accepted point
    mixed: Tensor  # (batch,) bool, whether the current point is a proposal of the acceleration
    refusals: Tensor  # (batch,)
    length: Tensor  # (batch,), how many memories of the sample are valid
    images: tuple[Tensor, ...]
    changes: tuple[Tensor, ...]


class AndersonRun(Run[AndersonState]):
    """Accelerates a run whose state is one tensor (batch, n)."""

    # Accelerated residuals stand still and jump where plain ones shrink steadily.
    patience = 10

    def __init__(self, base: Run[Tensor], memory: int) -> None:
        self.base = base
        self.memory = memory
        self.equation = base.equation

    def start(self, z: Tensor | None) -> AndersonState:
        point = self.base.start(z)
        count = point.new_zeros(point.shape[0])
        return AndersonState(point, point, torch.full_like(count, torch.inf), count > 0, count, count, (), ())

    def step(self, state: AndersonState) -> AndersonState:
        image = self.base.step(state.point)
        change = image - state.point
        size = change.norm(dim=-1)
        accepted = (size <= state.least) | ~state.mixed
        # A refused proposal: go on from the plain image, with an empty memory.
        point = torch.where(accepted[:, None], image, state.plain)
        length = torch.where(accepted, state.length + 1, torch.zeros_like(size)).clamp(max=self.memory)
        refusals = state.refusals + (~accepted).to(size.dtype)
        images = (*state.images, image)[-self.memory :]
        changes = (*state.changes, change)[-self.memory :]
        proposal = mix(images, changes, length)
        use = accepted & (length >= 2) & (refusals < REFUSALS) & proposal.isfinite().all(dim=-1)
        return AndersonState(
            torch.where(use[:, None], proposal, point),
            point,
            torch.where(accepted, size, torch.full_like(size, torch.inf)),
            use,
            refusals,
            length,
            images,
            changes,
        )

    def read(self, state: AndersonState) -> Tensor:
        return self.base.read(state.plain)

    def narrow(self, rows: Tensor) -> AndersonRun:
        return AndersonRun(self.base.narrow(rows), self.memory)

    def select(self, state: AndersonState, rows: Tensor) -> AndersonState:
        return AndersonState(
            state.point[rows],
            state.plain[rows],
            state.least[rows],
            state.mixed[rows],
            state.refusals[rows],
            state.length[rows],
            tuple(t[rows] for t in state.images),
            tuple(t[rows] for t in state.changes),
        )


def mix(images: tuple[Tensor, ...], changes: tuple[Tensor, ...], length: Tensor) -> Tensor:
    """Σ a_k images_k with Σ a_k = 1 and ‖Σ a_k changes_k‖ least, over each sample's last ``length`` memories."""
    F = torch.stack(changes, dim=1)  # (batch, m, n)
    m = F.shape[1]
    age = torch.arange(m, 0, -1, device=F.device)
    valid = age <= length[:, None]
    F = torch.where(valid[:, :, None], F, 0.0)
    gram = F @ F.mT
    scale = gram.diagonal(dim1=1, dim2=2).amax(dim=1).clamp(min=torch.finfo(F.dtype).tiny)
    gram = gram / scale[:, None, None]
    ridge = 10 * torch.finfo(F.dtype).eps
    eye = torch.eye(m, dtype=F.dtype, device=F.device)
    gram = gram + ridge * eye + torch.diag_embed((~valid).to(F.dtype))
    a, info = torch.linalg.solve_ex(gram, valid.to(F.dtype))
    a = torch.where(valid & (info == 0)[:, None], a, torch.nan)
    a = torch.where(valid, a / a.nansum(dim=1, keepdim=True), 0.0)
    return torch.einsum("bm,bmn->bn", a, torch.stack(images, dim=1))


@dataclass(frozen=True, eq=False)
class PreparedAnderson(Prepared):
    """What the accelerated method prepares."""

    base: Prepared
    memory: int
    rate: float

    def run(self, equation: Equation, tolerance: float) -> AndersonRun:
        return AndersonRun(self.base.run(equation, tolerance), self.memory)

    def transpose(self) -> PreparedAnderson:
        return replace(self, base=self.base.transpose())


@dataclass(frozen=True)
class Anderson(Solver):
    """Accelerate ``base`` (a splitting or the averaged iteration) with the last ``memory`` states."""

    unrolls = False

    base: Solver = field(default_factory=PeacemanRachford)
    memory: int = 5

    def __post_init__(self) -> None:
        if self.memory < 2:
            raise InputError(f"Anderson acceleration needs a memory of at least 2 states, got {self.memory}")
        if isinstance(self.base, Anderson):
            raise InputError("Anderson acceleration cannot accelerate itself")

    def prepare(self, W: Operator, metric: Metric | None) -> PreparedAnderson:
        base = self.base.prepare(W, metric)
        return PreparedAnderson(base, self.memory, base.rate)
