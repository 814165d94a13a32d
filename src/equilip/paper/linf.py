"""What is measured of networks in the maximum norm: certified and attacked accuracy over eps, and slopes.

As in :mod:`equilip.paper.stages` each stage calls what the commands call, and is done when its file names the form.

    train, evaluate                  as everywhere
    certify     certificate-linf.json, where something can be proved, and certified-linf.json
    attack      attack-linf.json
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from equilip import attack, certify, checker, data
from equilip.attack.linf import robustness_linf
from equilip.data import Dataset
from equilip.errors import ConfigError, FormatError, IllPosedError, InputError, ProofError
from equilip.form import Form
from equilip.paper.experiment import Experiment, LinfMeasures, Network
from equilip.paper.results import values_of
from equilip.paper.stages import Listener, box_of, check, evaluate_run, speaks_of, train_run, trained
from equilip.paper.tables import NONE, Table, digits_above, digits_below
from equilip.report.plots import Axis, Line, line_chart
from equilip.train import load_run, metrics, runs

CERTIFICATE, CERTIFIED, ATTACKED = "certificate-linf", "certified-linf", "attack-linf"


def perform(
    network: Network,
    folder: Path,
    measures: LinfMeasures,
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
    load_run(folder)
    form = runs.load_form(folder)
    dataset = data.load(network.config.data, data_dir, limit=network.config.limit)
    digest = runs.stored_sha256(folder)
    if not speaks_of(folder / "evaluation.json", digest):
        say(evaluate_run(network, folder, form, dataset))
    if not speaks_of(folder / f"{CERTIFIED}.json", digest):
        say(_certify(folder, form, dataset, measures))
    if not speaks_of(folder / f"{ATTACKED}.json", digest):
        say(_attack(folder, form, dataset, measures, network.config.seed))


def complete(folder: Path) -> bool:
    """Whether nothing is left to be done in that folder."""
    if not trained(folder):
        return False
    digest = runs.stored_sha256(folder)
    return all(speaks_of(folder / f"{name}.json", digest) for name in ("evaluation", CERTIFIED, ATTACKED))


def _limits(dataset: Dataset) -> tuple[float, float] | None:
    return (0.0, 1.0) if dataset.images else None


def _certify(folder: Path, form: Form, dataset: Dataset, measures: LinfMeasures) -> str:
    values: dict[str, Any] = {"data": dataset.name, "n": len(dataset.test_y), "certified": None, "certified_raw": None}
    path = folder / f"{CERTIFICATE}.json"
    try:
        bound = certify.lipschitz_linf(form, seconds=measures.seconds)
    except (IllPosedError, ProofError):
        path.unlink(missing_ok=True)
    else:
        bound.save(path)
        verdict = checker.check(path, folder / "form.safetensors")
        if not verdict.valid:
            raise ProofError(f"{path} is not valid: {verdict.reason} (a fault of equilip: please report it)")
        values |= {"certified": bound.value, "certified_raw": bound.value_raw}
    x, label = dataset.test_x.flatten(1), dataset.test_y
    margins = certify.linf_margins(form, x, label)
    found = [
        certify.certified_linf(form, x, label, eps, limits=_limits(dataset), margins=margins) for eps in measures.eps
    ]
    values["robustness"] = [{"eps": one.eps, "certified_accuracy": one.accuracy} for one in found]
    runs.write_result(folder, CERTIFIED, values, runs.stored_sha256(folder))
    return "certified: " + ", ".join(f"{100 * one.accuracy:.2f} % at {one.eps:g}" for one in found)


def _attack(folder: Path, form: Form, dataset: Dataset, measures: LinfMeasures, seed: int) -> str:
    target = attack.Target.of(form)
    x, label = dataset.test_x[: measures.attacked].flatten(1), dataset.test_y[: measures.attacked]
    found = robustness_linf(target, x, label, measures.eps, box=box_of(dataset), seed=seed)
    slope = attack.largest_slope_linf(target, x, starts=measures.starts, rounds=measures.rounds, seed=seed)
    proved = values_of(folder / f"{CERTIFIED}.json")
    bugs = [f"sample {int(row)} at eps {measures.eps[int(eps)]:g}" for eps, row in found.violations.tolist()]
    for value, bound in ((slope.value, proved["certified"]), (slope.value_raw, proved["certified_raw"])):
        if bound is not None and value > bound:
            bugs.append(f"the slope {value!r} above the bound {bound!r}")
    values = {
        "data": dataset.name,
        "n": len(x),
        "norm": "linf",
        "box": _limits(dataset),
        "seed": seed,
        "robustness": [asdict(row) for row in found.rows],
        "largest_slope": slope.value,
        "largest_slope_raw": slope.value_raw,
        "certified": proved["certified"],
        "certified_raw": proved["certified_raw"],
        "violations": found.violations.tolist(),
        "bugs": bugs,
        "seconds": found.seconds + slope.seconds,
    }
    runs.write_result(folder, ATTACKED, values, found.form_sha256)
    if bugs:
        return f"BUG: what was found contradicts what is proved; please report {', '.join(bugs)}"
    return f"largest slope found {slope.value:.4g}"


@dataclass(frozen=True)
class LinfResult:
    """The numbers of one network; slopes with respect to the standardised input.

    certified: shares of all test samples, at each of ``eps``; attacked: what attacks leave of the samples attacked.
    proved: the ℓ∞ bound, None where nothing is proved. seconds: of training, wall time.
    """

    network: Network
    test_error_percent: float
    n: int
    n_attacked: int
    eps: tuple[float, ...]
    certified: tuple[float, ...]
    attacked: tuple[float, ...]
    largest_slope: float
    proved: float | None
    seconds: float
    bugs: tuple[str, ...]

    def as_table(self) -> dict[str, Any]:
        """The numbers as plain values."""
        values = {name: value for name, value in vars(self).items() if name != "network"}
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {"name": self.network.name, "label": self.network.label, **lists}


def collect(experiment: Experiment, out: Path) -> tuple[LinfResult, ...]:
    """The results of every network. ConfigError where one is not finished, FormatError for a file that is not ours."""
    return tuple(_read(network, out / network.name) for network in experiment.networks)


def _read(network: Network, folder: Path) -> LinfResult:
    if not complete(folder):
        raise ConfigError(f"{folder} is not finished; call again with --resume")
    evaluation, certified, attacked = (values_of(folder / f"{n}.json") for n in ("evaluation", CERTIFIED, ATTACKED))
    try:
        return LinfResult(
            network=network,
            test_error_percent=float(evaluation["test_error_percent"]),
            n=int(certified["n"]),
            n_attacked=int(attacked["n"]),
            eps=tuple(float(row["eps"]) for row in certified["robustness"]),
            certified=tuple(float(row["certified_accuracy"]) for row in certified["robustness"]),
            attacked=tuple(float(row["attacked_accuracy"]) for row in attacked["robustness"]),
            largest_slope=float(attacked["largest_slope"]),
            proved=None if certified["certified"] is None else float(certified["certified"]),
            seconds=sum(epoch.seconds for epoch in metrics.read(folder)),
            bugs=tuple(map(str, attacked["bugs"])),
        )
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise FormatError(
            f"{folder} does not hold the results of an experiment, or they are damaged: {error}"
        ) from error


def tables(results: Sequence[LinfResult]) -> list[tuple[str, Table]]:
    """Each table with what it shows."""
    some = results[0]
    accuracy = Table(
        ("network", "test error", *(f"ε = {eps:g}" for eps in some.eps)),
        tuple(
            (
                result.network.label,
                f"{result.test_error_percent:.2f} %",
                *(
                    f"{100 * proved:.2f} % ({100 * left:.1f} %)"
                    for proved, left in zip(result.certified, result.attacked, strict=True)
                ),
            )
            for result in results
        ),
    )
    slopes = Table(
        ("network", "largest ℓ∞ slope found", "proved", "found / proved"),
        tuple(
            (
                result.network.label,
                digits_below(result.largest_slope),
                NONE if result.proved is None else digits_above(result.proved),
                NONE if result.proved is None else f"{digits_below(100 * result.largest_slope / result.proved)} %",
            )
            for result in results
        ),
    )
    return [
        (
            f"Certified accuracy: the share of {some.n} test images that are classified right whatever every pixel "
            f"changes by, up to ε, within [0, 1]; in brackets what attacks leave of the first {some.n_attacked}.",
            accuracy,
        ),
        (
            "ℓ∞ slopes with respect to the standardised input (pixels, for a network with a gate). What was found is "
            "rounded down, what is proved up; each bound was checked by the stand-alone checker.",
            slopes,
        ),
    ]


def charts(results: Sequence[LinfResult]) -> dict[str, tuple[str, str]]:
    """The figures by the names of their files: what each shows, and its SVG."""
    lines = []
    for colour, result in enumerate(results):
        clean = 100 - result.test_error_percent
        eps = (0.0, *result.eps)
        lines.append(Line(result.network.label, eps, [clean, *(100 * share for share in result.certified)], colour))
    title = "Certified accuracy over the largest change of any pixel"
    axis = Axis("ε, largest change of any pixel (ℓ∞)", (0.0, None))
    return {
        "certified-linf": (title, line_chart(title, axis, Axis("certified accuracy, percent", (0.0, 100.0)), lines))
    }


def verdicts(results: Sequence[LinfResult]) -> list[str]:
    """What is to be said before the tables."""
    found = ["No certified figures were published for these networks: ours stand by themselves."]
    for index, eps in enumerate(results[0].eps):
        best = max(results, key=lambda result: result.certified[index])
        found.append(f"Most certified at ε = {eps:g}: {best.network.label}, {100 * best.certified[index]:.2f} %.")
    return found + [
        f"BUG: {result.network.label}: what was found contradicts a proof: {', '.join(result.bugs)}"
        for result in results
        if result.bugs
    ]
