"""Where a training stands after an epoch, as one file: parameters, optimiser, counters, metrics, and no pickle.

    checkpoint.safetensors     model.NAME, optimiser.NAME.KEY and, where the best epoch is kept, best.NAME;
                               penalty.NAME for what a penalty remembers

The header (JSON) holds the rest. The file is replaced whole after every epoch and removed when the run is
complete, so a run that has one is unfinished and can be resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from equilip.data import Dataset
from equilip.errors import FormatError
from equilip.form import write_whole
from equilip.train.metrics import EpochMetrics

FORMAT = "equilip.checkpoint/1"
NAME = "checkpoint.safetensors"


@dataclass(frozen=True, eq=False)
class Best:
    """The epoch with the lowest validation loss so far, and its parameters."""

    epoch: int
    loss: float
    parameters: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that the epochs so far have left behind. ``data`` is the digest of the data they saw.

    ``optimiser`` has a mapping from its own names (exp_avg, ...) to tensors for every parameter's name.
    """

    parameters: Mapping[str, Tensor]
    optimiser: Mapping[str, Mapping[str, Tensor]]
    history: tuple[EpochMetrics, ...]
    best: Best | None = None
    data: str = ""
    penalty: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """How many epochs are complete."""
        return len(self.history)


def capture(
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    history: list[EpochMetrics],
    best: Best | None,
    penalty: torch.nn.Module | None = None,
) -> Checkpoint:
    """The present state, sharing its tensors with the model and the optimiser."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return Checkpoint(
        parameters=model.state_dict(),
        optimiser={names[parameter]: dict(state) for parameter, state in optimiser.state.items()},
        history=tuple(history),
        best=best,
        penalty={} if penalty is None else penalty.state_dict(),
    )


def restore(
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer,
    penalty: torch.nn.Module | None = None,
) -> None:
    """Put model, optimiser and penalty where they were; FormatError where the checkpoint is of another network."""
    try:
        model.load_state_dict(checkpoint.parameters)
        if penalty is not None:
            penalty.load_state_dict(checkpoint.penalty)
    except RuntimeError as error:
        raise FormatError(f"{NAME} is of another network: {' '.join(str(error).split())}") from None
    for name, parameter in model.named_parameters():
        state = checkpoint.optimiser.get(name)
        if state is None:
            continue
        for key, value in state.items():
            if value.dim() and value.shape != parameter.shape:
                raise FormatError(f"{NAME}: {key} of {name} has shape {tuple(value.shape)}")
        # Fresh memory, aligned as the optimiser's own is: the arithmetic of the next step must not differ.
        optimiser.state[parameter] = {
            key: value.to(parameter.device if value.dim() or _fused(optimiser) else "cpu", copy=True)
            for key, value in state.items()
        }


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint of a run directory, whole or not at all."""
    tensors = {f"model.{name}": tensor for name, tensor in checkpoint.parameters.items()}
    for name, state in checkpoint.optimiser.items():
        tensors |= {f"optimiser.{name}.{key}": value for key, value in state.items()}
    tensors |= {f"penalty.{name}": tensor for name, tensor in checkpoint.penalty.items()}
    header: dict[str, Any] = {
        "format": FORMAT,
        "data": checkpoint.data,
        "history": [asdict(metrics) for metrics in checkpoint.history],
    }
    if checkpoint.best is not None:
        tensors |= {f"best.{name}": tensor for name, tensor in checkpoint.best.parameters.items()}
        header["best"] = {"epoch": checkpoint.best.epoch, "loss": checkpoint.best.loss}
    own = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    write_whole(folder / NAME, safetensors.torch.save(own, metadata={"equilip": text}))


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint of a run directory, None if there is none; FormatError when it is damaged."""
    file = folder / NAME
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            header = json.loads((opened.metadata() or {})["equilip"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        version = header["format"]
        if version != FORMAT:
            raise FormatError(f"{file} has format {version!r}; this version of equilip reads {FORMAT!r}")
        optimiser: dict[str, dict[str, Tensor]] = {}
        for name, tensor in _below(tensors, "optimiser.").items():
            parameter, key = name.rsplit(".", 1)
            optimiser.setdefault(parameter, {})[key] = tensor
        best = header.get("best")
        return Checkpoint(
            parameters=_below(tensors, "model."),
            optimiser=optimiser,
            history=tuple(EpochMetrics(**values) for values in header["history"]),
            best=None if best is None else Best(best["epoch"], best["loss"], _below(tensors, "best.")),
            data=header["data"],
            penalty=_below(tensors, "penalty."),
        )
    except FormatError:
        raise
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise FormatError(f"{file} is not a checkpoint of equilip, or it is damaged: {error}") from error


def epochs_done(folder: Path) -> int:
    """How many epochs an unfinished run has behind it, 0 without a checkpoint."""
    found = read(folder)
    return 0 if found is None else found.epoch


def remove(folder: Path) -> None:
    """The run is complete."""
    (folder / NAME).unlink(missing_ok=True)


def digest(dataset: Dataset) -> str:
    """What data a training saw: sha256 of its training and test parts."""
    found = hashlib.sha256()
    for tensor in (dataset.train_x, dataset.train_y, dataset.test_x, dataset.test_y):
        found.update(str(tuple(tensor.shape)).encode())
        found.update(tensor.contiguous().numpy().data)
    return found.hexdigest()


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _fused(optimiser: torch.optim.Optimizer) -> bool:
    return bool(optimiser.defaults.get("fused"))
