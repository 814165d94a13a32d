"""From a network of an experiment to a finished run directory, stage by stage.

The run is an ordinary one: every stage calls what the commands call, and leaves what they leave. A stage is done when
its file names the present form, so an interrupted experiment goes on with the epoch or the stage in which it stopped.

    train       model.safetensors, form.safetensors, metrics.jsonl
    evaluate    evaluation.json
    certify     certificate.json, where something can be proved
    attack      attack.json, attack.npz
    step        fast-gradient.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from pathlib import Path

import torch

from equilip import attack, certify, checker, data
from equilip.certify import Bound
from equilip.data import Dataset
from equilip.errors import ConfigError, IllPosedError, ProofError
from equilip.form import Form
from equilip.paper.experiment import Measures, Network
from equilip.paper.fast_gradient import errors
from equilip.solve import Settings
from equilip.train import EpochMetrics, checkpoint, evaluate, load_run, resume, runs, train
from equilip.train.devices import device
from equilip.train.models import Model

#: The file of the fast-gradient curve, without .json.
CURVE = "fast-gradient"


class Stage(Enum):
    """The stages in their order, each with what people read."""

    TRAIN = "trained"
    EVALUATE = "evaluated"
    CERTIFY = "certified"
    ATTACK = "attacked"
    STEP = "stepped"


#: Told of every finished epoch (of how many) and of every finished stage.
Listener = Callable[[str], None]


def check(network: Network, folder: Path) -> None:
    """ConfigError if the folder of the network holds another network than this one."""
    if not (folder / "config.toml").is_file():
        return
    found = runs.load_config(folder).train
    if found is None:
        raise ConfigError(f"{folder} holds an imported network; choose another --out")
    for field in fields(network.config):
        own, other = getattr(network.config, field.name), getattr(found, field.name)
        if own != other:
            raise ConfigError(
                f"{folder} was trained with {field.name} {other!r}, and this experiment asks for {own!r}; "
                "choose another --out, or repeat the command that began it"
            )


def perform(
    network: Network,
    folder: Path,
    measures: Measures,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    said: Listener | None = None,
) -> None:
    """Everything that is still to be done for one network, in ``folder``; it is told to ``said`` as it is done.

    Raises what training, certifying and attacking raise, and ConfigError where the folder holds something else.
    """
    say = said or (lambda text: None)
    check(network, folder)
    if not trained(folder):
        train_run(network, folder, data_dir, say)
    done = finished(network, folder)
    if all(stage in done for stage in Stage):
        return
    model = load_run(folder)[1]
    form = runs.load_form(folder).to(None, device(network.config.device))
    dataset = data.load(network.config.data, data_dir, limit=network.config.limit)
    if Stage.EVALUATE not in done:
        say(evaluate_run(network, folder, form, dataset))
    if Stage.CERTIFY not in done:
        say(_certify(network, folder, form, model))
    if Stage.ATTACK not in done:
        say(_attack(network, folder, form, dataset, measures))
    if Stage.STEP not in done:
        say(_step(network, folder, form, dataset, measures))


def finished(network: Network, folder: Path) -> tuple[Stage, ...]:
    """The stages that are done, judged by what lies in the folder."""
    if not trained(folder):
        return ()
    digest = runs.stored_sha256(folder)
    files = {Stage.EVALUATE: "evaluation", Stage.CERTIFY: "certificate", Stage.ATTACK: "attack", Stage.STEP: CURVE}
    done = [Stage.TRAIN, *(stage for stage, name in files.items() if speaks_of(folder / f"{name}.json", digest))]
    if network.may_fail and Stage.ATTACK in done and Stage.CERTIFY not in done:
        # Nothing could be proved when its turn came.
        done.append(Stage.CERTIFY)
    return tuple(done)


def box_of(dataset: Dataset) -> attack.Box | None:
    """The box of valid inputs: [0, 1] for images."""
    return attack.Box(0.0, 1.0) if dataset.images else None


def trained(folder: Path) -> bool:
    """Whether the training of the run in that folder is finished."""
    return (folder / "model.safetensors").is_file() and not (folder / checkpoint.NAME).is_file()


def speaks_of(file: Path, digest: str) -> bool:
    """Whether a result names this form; a file that cannot be read is written again."""
    try:
        named = json.loads(file.read_bytes())["form"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return digest == (named.get("sha256") if isinstance(named, dict) else named)


def train_run(network: Network, folder: Path, data_dir: str | os.PathLike[str] | None, say: Listener) -> None:
    """Train the network in that folder, or go on with it; every epoch is told."""

    def report(latest: EpochMetrics) -> None:
        lost = f", {latest.train_unconverged} without equilibrium" if latest.train_unconverged else ""
        say(
            f"epoch {latest.epoch}/{network.config.epochs}: error {latest.train_error_percent:.2f} % train, "
            f"{latest.test_error_percent:.2f} % test{lost}, {latest.seconds:.1f} s"
        )

    if (folder / "config.toml").is_file():
        resume(folder, data_dir=data_dir, on_epoch=report)
    else:
        train(network.config, folder, data_dir=data_dir, on_epoch=report)


def _settings(network: Network) -> Settings:
    return Settings(raise_on_failure=False, require_well_posed=not network.may_fail)


def evaluate_run(network: Network, folder: Path, form: Form, dataset: Dataset) -> str:
    """Write evaluation.json: all test samples in float64. What people read of it."""
    found = evaluate(form.to(torch.float64), dataset.test_x, dataset.test_y, _settings(network))
    values = {"data": dataset.name, **found.as_table()}
    runs.write_result(folder, "evaluation", values, runs.stored_sha256(folder))
    lost = f", {found.unconverged} without equilibrium" if found.unconverged else ""
    return f"test error {found.test_error_percent:.2f} %{lost}"


def _certify(network: Network, folder: Path, form: Form, model: Model) -> str:
    try:
        bound = certify.lipschitz(form)
    except (IllPosedError, ProofError):
        if not network.may_fail:
            raise
        return "nothing could be proved"
    certify.check_guarantee(form, model.guarantee(), bound=bound)
    path = folder / "certificate.json"
    bound.save(path)
    verdict = checker.check(path)
    if not verdict.valid:
        raise ProofError(f"{path} is not valid: {verdict.reason} (a fault of equilip: please report it)")
    return f"slope at most {bound.value:.4f}: proved, and checked"


def _attack(network: Network, folder: Path, form: Form, dataset: Dataset, measures: Measures) -> str:
    bound = certify.recall(folder / "certificate.json", form)
    target = _target(network, form, bound)
    x, label = dataset.test_x[: measures.attacked], dataset.test_y[: measures.attacked]
    box, seed = box_of(dataset), network.config.seed
    found = attack.robustness(target, x, label, measures.eps, box=box, seed=seed, bound=bound)
    slope = attack.largest_slope(target, x, starts=measures.starts, rounds=measures.rounds, seed=seed)
    bugs = attack.save_contradictions(folder, found, slope, bound)
    values = attack.record(found, slope, bound, data=dataset.name, box=box, seed=seed, bugs=bugs)
    attack.Outcome.of(found, x, label, dataset.shape).save(folder / "attack.npz")
    runs.write_result(folder, "attack", values, slope.form_sha256)
    if bugs:
        return f"BUG: what was found contradicts what is proved; please report {', '.join(map(str, bugs))}"
    return f"largest slope found {slope.value:.4f}"


def _step(network: Network, folder: Path, form: Form, dataset: Dataset, measures: Measures) -> str:
    standardisation = form.standardisation
    per_unit = 1.0 if standardisation is None else float(standardisation.std.min())
    x, label = dataset.test_x[-measures.stepped :], dataset.test_y[-measures.stepped :]
    target = _target(network, form, certify.recall(folder / "certificate.json", form))
    raw = [size * per_unit for size in measures.sizes]
    found = errors(target, x, label, raw, box_of(dataset))
    values = {"data": dataset.name, "n": len(x), "eps": list(measures.sizes), "eps_raw": raw, "error": list(found)}
    runs.write_result(folder, CURVE, values, runs.stored_sha256(folder))
    return "fast-gradient curve drawn"


def _target(network: Network, form: Form, bound: Bound | None) -> attack.Target:
    multipliers = None if bound is None else bound.multipliers
    # Where something is proved after all, its proof is used.
    required = bound is not None or not network.may_fail
    return attack.Target.of(form, require_well_posed=required, multipliers=multipliers)
