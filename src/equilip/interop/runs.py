"""A published checkpoint as a run directory."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path

from equilip import nn
from equilip.interop.kinds import KINDS
from equilip.interop.published import Imported, guess_data, load
from equilip.train import convolutions, runs
from equilip.train.devices import dtype as dtype_of
from equilip.train.models import ModelConfig


def import_run(
    file: str | os.PathLike[str],
    kind: str,
    *,
    out: str | os.PathLike[str] | None = None,
    gamma: float | None = None,
    epsilon: float | None = None,
    data_name: str | None = None,
    dtype: str = "float64",
    overwrite: bool = False,
) -> tuple[Path, runs.RunConfig, str]:
    """Read the checkpoint (see :func:`equilip.interop.load`) and write it as a run.

    Returns the directory (``runs/NAME`` unless ``out`` says otherwise), what stands in its config.toml, and
    the sha256 of its form. Raises ProofError, and writes nothing, when the numbers do not keep what the kind promises.
    """
    model = load(file, kind, gamma=gamma, epsilon=epsilon, data_name=data_name, dtype=dtype_of(dtype))
    source = Path(file)
    form = runs.realise(model)
    margin = KINDS[kind].margin if epsilon is None else epsilon
    shape = ModelConfig(
        kind=_kind(model),
        in_features=form.in_size,
        hidden=(form.hidden_size,),
        out_features=form.out_size,
        dtype=dtype,
        standardised=form.standardisation is not None,
        gamma=gamma,
        epsilon=1.0 if margin is None else margin,
        m=1.0 if margin is None else margin,
        **(asdict(convolutions.of(model)) if isinstance(model, nn.LBENConv) else {}),
    )
    config = runs.RunConfig(
        model=shape,
        imported=runs.ImportConfig(
            file=source.name,
            sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
            kind=kind,
            data=data_name or guess_data(form.in_size),
            gamma=gamma,
            epsilon=margin,
        ),
    )
    path = runs.prepare(out or Path("runs") / source.stem, overwrite=overwrite)
    try:
        runs.write_config(path, config)
        digest = runs.write_model(path, model)
    except BaseException:
        # Half an import is nothing that could be continued.
        runs.discard(path)
        raise
    return path, config, digest


def _kind(model: Imported) -> str:
    match model:
        case nn.LBENConv():
            return "lben-conv"
        case nn.LBEN():
            return "lben"
        case nn.MonotoneNetwork():
            return "monotone"
        case nn.FeedForward():
            return "feedforward"
    return "explicit"
