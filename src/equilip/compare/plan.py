"""How wide each family's networks are, and how many epochs they train: equal parameters, equal processor time.

A family's epochs follow from a short training of its first seed, whose processor time for an epoch is measured; every
seed then trains as many. What was planned is kept in plan/NAME.json, so that a comparison goes on as it began.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from equilip import data
from equilip.compare.families import Family
from equilip.compare.settings import Settings
from equilip.data import Dataset
from equilip.errors import ConfigError, FormatError
from equilip.form import write_whole
from equilip.train import TrainConfig, fit
from equilip.train.models import build, describe

FORMAT = "equilip.comparison-plan/1"

#: The share of a training's time that its pilot takes.
_PILOT = 0.25
#: Batches that the first look at a family's speed takes.
_LOOK = 8
_WIDEST = 2**14
#: Pixels across the hidden images of convolutional stacks, at most: larger ones leave few parameters for the kernels.
_ACROSS = 7


@dataclass(frozen=True)
class Plan:
    """Of one family: neurons of each hidden layer, parameters, epochs, and the processor's seconds that the pilot's
    epochs took on average."""

    width: int
    parameters: int
    epochs: int
    seconds_per_epoch: float


def absent(family: Family, settings: Settings, dataset: Dataset) -> str | None:
    """Why a family has no place in this comparison; None where it has."""
    if family.images:
        if not dataset.images:
            return f"it takes images, and {dataset.name} holds tables"
        try:
            parameters(config(family, settings, dataset, 0, 1, 1), dataset)
        except ConfigError as error:
            return str(error)
    if family.kind != "monotonic":
        return None
    if not (settings.increasing or settings.decreasing):
        return "no inputs to be monotonic in were named: say --increasing or --decreasing"
    return None


def config(family: Family, settings: Settings, dataset: Dataset, seed: int, width: int, epochs: int) -> TrainConfig:
    """The training of one network."""
    changes = dict(family.changes)
    if family.bounded or family.kind == "monotonic":
        # A slope of 1 per unit of raw input, wherever the standardisation divides by the least.
        changes["gamma"] = 1.0 if dataset.standardisation is None else float(dataset.standardisation.std.min())
    if family.bounded or family.margin:
        changes |= {"loss": "lipschitz-margin", "loss_eps": settings.loss_eps, "temperature": settings.temperature}
    if family.images:
        changes |= _sizes(family, dataset)
    if family.kind == "monotonic":
        changes |= {"increasing": settings.increasing, "decreasing": settings.decreasing}
    return TrainConfig(
        data=settings.data,
        limit=settings.limit,
        width=width,
        epochs=epochs,
        batch=settings.batch,
        schedule="one-cycle",
        seed=seed,
        **{"lr": settings.lr, **changes},
    )


def _sizes(family: Family, dataset: Dataset) -> dict[str, int]:
    """What a convolutional family makes of the size of the images.

    Stacks turn blocks of pixels into channels, and read every pixel of their last images; equilibrium networks keep the
    image, and read means over blocks.
    """
    _, height, width = dataset.shape
    whole = [size for size in range(1, min(height, width) + 1) if not (height % size or width % size)]
    if family.kind == "equilibrium":
        return {"pool": 2 if 2 in whole else 1}
    return {"patch": min(size for size in whole if size == whole[-1] or min(height, width) // size <= _ACROSS)}


def parameters(of: TrainConfig, dataset: Dataset) -> int:
    """How many numbers a training of this configuration trains."""
    with torch.random.fork_rng(devices=[]):
        model = build(describe(of, dataset), standardisation=dataset.standardisation)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def width(family: Family, settings: Settings, dataset: Dataset) -> int:
    """The width with the number of parameters nearest to the one asked for, among those that can be certified."""

    def count(neurons: int) -> float:
        try:
            return parameters(config(family, settings, dataset, 0, neurons, 1), dataset)
        except ConfigError:
            return math.inf  # more neurons than certificates are checked for

    low, high = 1, 2
    while high < _WIDEST and count(high) < settings.parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < settings.parameters else (low, middle)
    return min((low, high), key=lambda neurons: abs(count(neurons) - settings.parameters))


def make(
    settings: Settings, out: Path, data_dir: str | os.PathLike[str] | None, family: Family, say: Callable[[str], None]
) -> None:
    """Plan a family's networks by a pilot, and write plan/NAME.json."""
    dataset = data.load(settings.data, data_dir, limit=settings.limit)
    neurons = width(family, settings, dataset)

    def cost(epochs: int, share: float = 1.0) -> float:
        """Seconds that an epoch takes, as told by this share of the data."""
        some = _share(dataset, share, settings.batch)
        of = config(family, settings, some, settings.seed, neurons, epochs)
        generator = torch.Generator().manual_seed(of.seed)
        model = build(describe(of, some), standardisation=some.standardisation, generator=generator)
        spent = sum(epoch.processor_seconds for epoch in fit(model, some, of)) / epochs
        return spent * len(dataset.train_y) / len(some.train_y)

    look = min(1.0, _LOOK * settings.batch / len(dataset.train_y))
    each = cost(1, look)
    share = min(1.0, max(look, _PILOT * settings.seconds / each))
    if share > look:
        each = cost(1, share)
    pilot = round(_PILOT * settings.seconds / each)
    if pilot > 1:
        # The first epoch of a process is a slow one, and later ones may need more steps of the solver.
        each = cost(pilot)
    of = config(family, settings, dataset, settings.seed, neurons, 1)
    found = Plan(neurons, parameters(of, dataset), max(1, round(settings.seconds / each)), each)
    (out / "plan").mkdir(exist_ok=True)
    write_whole(out / "plan" / f"{family.name}.json", json.dumps({"format": FORMAT, **asdict(found)}).encode())
    say(f"{found.parameters} parameters ({found.width} wide), {found.epochs} epochs, about {each:.2g} s each")


def _share(dataset: Dataset, share: float, batch: int) -> Dataset:
    """The first samples of each part of the data; a batch of the training data at least."""
    if share >= 1.0:
        return dataset
    train = max(batch, math.ceil(share * len(dataset.train_y)))
    test = max(1, math.ceil(share * len(dataset.test_y)))
    return replace(
        dataset,
        train_x=dataset.train_x[:train],
        train_y=dataset.train_y[:train],
        test_x=dataset.test_x[:test],
        test_y=dataset.test_y[:test],
    )


def read(out: Path, family: Family) -> Plan | None:
    """What was planned for a family, None where nothing was; FormatError where the file is another."""
    file = out / "plan" / f"{family.name}.json"
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_bytes())
        version = values.pop("format")
        found = Plan(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{file} is no plan of a comparison, or it is damaged: {error}; remove it") from error
    if version != FORMAT:
        raise FormatError(f"{file} has format {version!r}; this version of equilip reads {FORMAT!r}: remove it")
    return found
