"""metrics.jsonl: one line per epoch, saying what it showed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from equilip.errors import FormatError
from equilip.form import naming, write_whole

NAME = "metrics.jsonl"


@dataclass(frozen=True)
class EpochMetrics:
    """loss and train_error_percent are means over the epoch, while the parameters were moving; the validation_
    and test_ fields are measured at its end, None where nothing is held out.

    certified_by_gamma_percent, certified_by_pairs_percent: for each raw l2 distance asked for, the share of test
        samples that are right and lead every other class by more than the distance times a bound on the slope of
        the difference: √2 γ, γ being the bound that holds by construction, or the pair bounds of mathematics 9.4.
        No rounding is counted: ``equilip certify`` proves what these estimate.
    certified_by_boxes_percent: the same for l-infinity distances, by boxes; for the loss boxes, at its loss_eps.
    train_iterations, iterations: most steps of the solver for any batch of the epoch, and for the test data.
    unconverged: test samples without equilibrium. train_unconverged: training samples that had none when it was their
        turn; they count as wrong, and have no part in the loss.
    max_residual: the largest of the test samples, relative; None if not finite. lr: of the last step. gamma: the bound
        after the epoch, with respect to the standardised input. seconds: wall time; processor_seconds: what of it this
        process computed, summed over its threads. regulariser: the weight of the penalty in this epoch, where one on
        what is found was asked for.
    """

    epoch: int
    loss: float
    train_error_percent: float
    test_error_percent: float
    unconverged: int
    iterations: int
    max_residual: float | None
    lr: float
    seconds: float
    train_iterations: int = 0
    train_unconverged: int = 0
    gamma: float | None = None
    validation_loss: float | None = None
    validation_error_percent: float | None = None
    certified_by_gamma_percent: dict[str, float] = field(default_factory=dict)
    certified_by_pairs_percent: dict[str, float] = field(default_factory=dict)
    certified_by_boxes_percent: dict[str, float] = field(default_factory=dict)
    processor_seconds: float = 0.0
    regulariser: float | None = None


Report = Callable[[EpochMetrics], None]


def append(folder: Path, metrics: EpochMetrics) -> None:
    """Add a line to the file of a run directory."""
    with naming(folder / NAME), (folder / NAME).open("a", encoding="utf-8") as log:
        log.write(_line(metrics))


def rewrite(folder: Path, history: Iterable[EpochMetrics]) -> None:
    """Make the file hold these epochs and nothing else."""
    write_whole(folder / NAME, "".join(_line(metrics) for metrics in history).encode())


def read(run: str | os.PathLike[str]) -> list[EpochMetrics]:
    """Every epoch of a run directory, none where nothing was trained; FormatError for lines of anything else."""
    file = Path(run) / NAME
    if not file.is_file():
        return []
    try:
        return [EpochMetrics(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError) as error:
        raise FormatError(f"{file} does not hold the metrics of a training, or it is damaged: {error}") from error


def _line(metrics: EpochMetrics) -> str:
    return json.dumps(asdict(metrics), allow_nan=False) + "\n"
