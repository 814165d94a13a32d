"""Run directories: what a training or an import leaves behind, and how it is read back.

    config.toml         what was done, with versions         model.safetensors   the parameters
    form.safetensors    the realised (W, U, b, C, D, c)       metrics.jsonl       one line per epoch

While it is trained there is also checkpoint.safetensors, where an interrupted training continues. Every file is
written under a temporary name and renamed. model.safetensors names the sha256 of the form, so files of different
runs cannot be mixed unnoticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

import equilip
from equilip import chain, nn
from equilip.certify import check_guarantee, monotone
from equilip.chain import Chain, Network
from equilip.errors import ConfigError, FormatError, InputError
from equilip.form import Form, Standardisation, write_whole
from equilip.train import toml
from equilip.train.config import TrainConfig
from equilip.train.models import Model, ModelConfig, build, network

FORMAT = "equilip.run/1"
MODEL_FORMAT = "equilip.model/1"

#: Everything that any command writes into a run directory, and nothing else is ever removed from one.
ARTEFACTS = (
    "config.toml",
    "model.safetensors",
    "form.safetensors",
    "metrics.jsonl",
    "checkpoint.safetensors",
    "evaluation.json",
    "certificate.json",
    "attack.json",
    "attack.npz",
    "attack-bug.npz",
    "attack-bug-slope.npz",
    "fast-gradient.json",
    "report.html",
)


@dataclass(frozen=True)
class ImportConfig:
    """Where an imported network came from: the file's name and sha256, its kind, and what the user said."""

    file: str
    sha256: str
    kind: str
    data: str | None = None
    gamma: float | None = None
    epsilon: float | None = None


@dataclass(frozen=True)
class RunConfig:
    """config.toml: the network's shape, and either the training or the import that made it."""

    model: ModelConfig
    train: TrainConfig | None = None
    imported: ImportConfig | None = None
    versions: Mapping[str, str] = field(default_factory=lambda: versions())

    @property
    def data(self) -> str | None:
        """The data set that the network is for, where known."""
        origin = self.train or self.imported
        return None if origin is None else origin.data

    def to_toml(self) -> str:
        tables: dict[str, Any] = {"format": FORMAT, "model": asdict(self.model)}
        if self.train is not None:
            tables["train"] = self.train.as_table()
        if self.imported is not None:
            tables["import"] = asdict(self.imported)
        return toml.write({**tables, "versions": self.versions})


def versions() -> dict[str, str]:
    """What the numbers of a run may depend on."""
    return {
        "equilip": equilip.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def prepare(out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """An empty run directory at ``out``. One that holds anything is refused, unless ``overwrite``, which
    removes the artefacts of an earlier run and nothing else. ConfigError when it cannot be written."""
    path = Path(out)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        remove_temporaries(path)
        if any(path.iterdir()):
            if not overwrite:
                raise ConfigError(
                    f"{path} is not empty; choose another --out, or say --overwrite to replace the run in it"
                )
            for name in ARTEFACTS:
                (path / name).unlink(missing_ok=True)
        write_whole(path / "metrics.jsonl", b"")
        (path / "metrics.jsonl").unlink()
    except OSError as error:
        for folder in made:
            if folder.is_dir():
                folder.rmdir()
        raise ConfigError(f"cannot write to {path}: {error.strerror or error}; choose another --out") from error
    return path


def discard(path: Path) -> None:
    """Take back what was written into a run directory: every artefact, and the directory if it is empty then."""
    for name in ARTEFACTS:
        (path / name).unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()


def remove_temporaries(path: Path) -> None:
    """Remove what a process that was killed while it wrote an artefact has left under a temporary name."""
    for name in ARTEFACTS:
        for file in path.glob(f".{name}.*"):
            file.unlink(missing_ok=True)


def write_config(path: Path, config: RunConfig) -> None:
    """config.toml of the run directory."""
    write_whole(path / "config.toml", config.to_toml().encode())


def realise(model: Model) -> Network:
    """The form or chain of a model, held against what it promises. ProofError when its numbers do not keep that."""
    with torch.no_grad():
        form = network(model).detach()
    check_guarantee(form, model.guarantee())
    if isinstance(model, nn.MonotonicWrapper) and isinstance(form, Form):
        monotone(form, model.directions, bound=model.slope)
    return form


def write_model(path: Path, model: Model) -> str:
    """form.safetensors and model.safetensors; returns the form's sha256.

    Nothing is proved here: whether the numbers keep what the model promises is for :func:`realise` to say.
    """
    with torch.no_grad():
        form = network(model).detach()
    digest = form.save(path / "form.safetensors")
    header = json.dumps({"format": MODEL_FORMAT, "form": digest}, sort_keys=True, separators=(",", ":"))
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path / "model.safetensors", safetensors.torch.save(state, metadata={"equilip": header}))
    return digest


def write_result(path: str | os.PathLike[str], name: str, values: Mapping[str, Any], form_sha256: str) -> None:
    """NAME.json in a run directory, which names the form it speaks of."""
    content = {"format": f"equilip.{name}/1", "form": form_sha256, **values}
    write_whole(Path(path) / f"{name}.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def read_train_values(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The keys of a training configuration: a TOML file of them, or the config.toml of an earlier run."""
    tables = toml.read(path)
    if "format" not in tables:
        return tables
    _check_version(tables, Path(path))
    if "train" not in tables:
        raise ConfigError(f"{path} describes an imported network, not a training that could be repeated")
    return dict(tables["train"])


def load_config(path: str | os.PathLike[str]) -> RunConfig:
    """config.toml of a run directory. ConfigError when there is none, or it is of another version."""
    folder = Path(path)
    file = folder / "config.toml"
    if not folder.is_dir():
        what = "is a file; name the folder that it is in" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder} is not a run directory: it {what}")
    if not file.is_file():
        raise ConfigError(f"{folder} is not a run directory: it has no config.toml; `equilip train --out` makes one")
    tables = toml.read(file)
    _check_version(tables, file)
    for name in tables:
        if name not in ("format", "model", "train", "import", "versions"):
            raise ConfigError(f"{file}: unknown table {name!r}")

    def table(name: str, kind: type[toml.C]) -> toml.C | None:
        values = tables.get(name)
        if values is None:
            return None
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: {name} is {values!r}; expected a table")
        return toml.build(kind, values, f"{file}: [{name}]")

    if not isinstance(tables.get("versions", {}), dict):
        raise ConfigError(f"{file}: versions is {tables['versions']!r}; expected a table")
    model = table("model", ModelConfig)
    if model is None:
        raise ConfigError(f"{file} has no table [model]")
    return RunConfig(
        model=model,
        train=table("train", TrainConfig),
        imported=table("import", ImportConfig),
        versions=tables.get("versions", {}),
    )


def load_form(path: str | os.PathLike[str]) -> Form:
    """The form of a run, checked against the model beside it. ConfigError when the run is unfinished,
    FormatError when its files do not belong together, InputError where the network is a chain of layers."""
    found = load_network(path)
    if isinstance(found, Chain):
        raise InputError(
            f"{path} holds a chain of layers, because its {found.hidden_size} neurons are too many for one form: it "
            "can be evaluated, and certified, attacked and reported in l2; train a smaller one for anything else"
        )
    return found


def load_network(path: str | os.PathLike[str]) -> Network:
    """The form or the chain of a run, with the same checks and the same errors."""
    folder = Path(path)
    load_config(folder)
    return _load_form(folder)[0]


def load_run(path: str | os.PathLike[str]) -> tuple[RunConfig, Model]:
    """What a run directory holds: its configuration and its network, in eval mode on the CPU.

    ConfigError when it is no run directory, unfinished, or of another version; FormatError when a file is
    damaged, or when the model, the form and the configuration do not belong together.
    """
    folder = Path(path)
    config = load_config(folder)
    form, state = _load_form(folder)
    shape = config.model
    # A gate is a neuron for every input.
    neurons = sum(shape.hidden) + (shape.in_features if shape.gate else 0)
    found = (form.in_size, neurons, form.out_size)
    if found != (shape.in_features, form.hidden_size, shape.out_features):
        raise FormatError(
            f"{folder}: config.toml describes {shape.in_features} inputs, {neurons} neurons and "
            f"{shape.out_features} outputs, the form has {form.in_size}, {form.hidden_size} and {form.out_size}"
        )
    like = torch.zeros(form.in_size)
    placeholder = Standardisation(like, like + 1) if shape.standardised else None
    model = build(shape, standardisation=placeholder, form=None if isinstance(form, Chain) else form)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise FormatError(f"{folder / 'model.safetensors'} does not fit config.toml: {detail}") from None
    return config, model.eval()


def _load_form(folder: Path) -> tuple[Network, dict[str, torch.Tensor]]:
    for name in ("form.safetensors", "model.safetensors"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"{folder} has no {name}: the training did not finish; "
                f"continue it with `equilip train --resume {folder}`"
            )
    file = folder / "model.safetensors"
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            header = json.loads((opened.metadata() or {})["equilip"])
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        version, named = header["format"], header["form"]
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise FormatError(f"{file} is not a model of equilip, or it is damaged: {error}") from error
    if version != MODEL_FORMAT:
        raise FormatError(f"{file} has format {version!r}; this version of equilip reads {MODEL_FORMAT!r}")
    form = chain.load(folder / "form.safetensors")
    digest = hashlib.sha256((folder / "form.safetensors").read_bytes()).hexdigest()
    if digest != named:
        raise FormatError(
            f"{folder}: form.safetensors is not the form of model.safetensors "
            f"(sha256 {digest[:12]}..., expected {str(named)[:12]}...)"
        )
    return form, state


def _check_version(tables: Mapping[str, Any], file: Path) -> None:
    version = tables.get("format")
    if version != FORMAT:
        raise ConfigError(
            f"{file} is of format {version!r}; this version of equilip reads {FORMAT!r}: use the version of "
            "equilip that wrote it, or train again"
        )


def stored_sha256(path: str | os.PathLike[str]) -> str:
    """The sha256 of form.safetensors in a run directory, which every result about the run names."""
    return hashlib.sha256((Path(path) / "form.safetensors").read_bytes()).hexdigest()
