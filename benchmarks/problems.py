"""What is solved and trained on: MNIST in memory, and published networks where they lie beside the repository."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePath

import pytest
import torch
from torch import Tensor

from equilip import data, interop, nn
from equilip.data import Dataset
from equilip.errors import DataError
from equilip.form import Form

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@dataclass(frozen=True)
class Checkpoint:
    """One published file, and the least that its solve should gain on the textbook iteration."""

    name: str
    file: str
    kind: str
    gamma: float | None = None
    target: float | None = None

    def __str__(self) -> str:
        return PurePath(self.file).stem


CHECKPOINTS = (
    Checkpoint("LBEN γ=0.2", "lben/mnist_fc_lip0.2_w80.params", "lben-fc", 0.2, target=55),
    Checkpoint("LBEN γ=0.5", "lben/mnist_fc_lip0.5_w80.params", "lben-fc", 0.5),
    Checkpoint("LBEN γ=1", "lben/mnist_fc_lip1.0_w80.params", "lben-fc", 1.0, target=18),
    Checkpoint("LBEN γ=5", "lben/mnist_fc_lip5.0_w80.params", "lben-fc", 5.0),
    Checkpoint("LBEN no γ", "lben/mnist_ode_w80.params", "lben-ode-fc"),
    Checkpoint("monDEQ w80", "lben/mnist_mon_w80.params", "mondeq-fc"),
    Checkpoint("monDEQ w87", "mondeq/mnist_fc_model_trained.pt", "mondeq-fc"),
)


@cache
def mnist() -> Dataset:
    """MNIST, from beside the repository or downloaded; the benchmark is skipped where neither works."""
    try:
        return data.load("mnist", SHARED / "data") if (SHARED / "data").is_dir() else data.load("mnist")
    except DataError as error:
        pytest.skip(f"needs MNIST: {error}")


def held_out(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The first ``count`` test images, standardised, (count, 784)."""
    return data.standardisation("mnist").to(dtype, None).apply(mnist().test_x[:count].to(dtype))


def training_batches(size: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """One epoch of standardised batches and labels, shuffled and cut beforehand."""
    order = torch.randperm(len(mnist().train_x), generator=torch.Generator().manual_seed(seed))
    x = data.standardisation("mnist").apply(mnist().train_x)[order]
    return list(zip(x.split(size), mnist().train_y[order].split(size), strict=True))[: len(order) // size]


@cache
def published(checkpoint: Checkpoint) -> Form:
    """The form of a checkpoint in float64, for standardised inputs; skipped where the file is not there."""
    path = SHARED / "reference" / checkpoint.file
    if not path.is_file():
        pytest.skip(f"needs the published checkpoint {path}")
    network = interop.load(path, checkpoint.kind, gamma=checkpoint.gamma)
    with torch.no_grad():
        return replace(network.form().detach(), standardisation=None)


@cache
def trained(n: int) -> Form:
    """The form of an LBEN with γ = 1 after 200 steps on MNIST, float64: there is no published one of this size."""
    network = nn.LBEN(784, n, 10, gamma=1.0, generator=torch.Generator().manual_seed(0))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    for x, labels in training_batches(128, seed=0)[:200]:
        loss = torch.nn.functional.cross_entropy(network(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return network.form().detach().to(torch.float64)


def worst_residual(form: Form, z: Tensor, bias: Tensor) -> float:
    """The largest ‖z - σ(W z + bias)‖ / ‖z‖ of a batch, in float64 whatever z is."""
    form, z, bias = form.to(torch.float64), z.double(), bias.double()
    return float(((form.step(z, bias) - z).norm(dim=1) / z.norm(dim=1)).nan_to_num(nan=torch.inf).amax())
