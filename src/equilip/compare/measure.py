"""One network of a comparison: trained, certified, attacked, timed. All of it lands in its run directory.

The run is an ordinary one, which evaluate, certify, attack and report understand. comparison.json has what they do not
measure: times, memory, and certified accuracy on all test samples.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from equilip import attack, certify, checker, data, nn
from equilip.certify import Bound
from equilip.chain import Network
from equilip.compare.settings import Settings
from equilip.data import Dataset
from equilip.errors import FormatError, IllPosedError, ProofError
from equilip.form import Form
from equilip.operators import Contraction
from equilip.paper import experiment
from equilip.paper.stages import box_of, check
from equilip.solve import Settings as SolverSettings
from equilip.train import TrainConfig, checkpoint, evaluate, load_run, metrics, resume, runs, train
from equilip.train.batches import order
from equilip.train.evaluation import rows_at_a_time
from equilip.train.losses import loss as loss_of
from equilip.train.models import Model
from equilip.train.penalties import penalty as penalty_of
from equilip.train.slopes import slopes

NAME = "comparison"
#: Searches of the largest slope that run side by side, and how often each is disturbed.
_STARTS, _ROUNDS = 16, 3
#: Samples whose classification is timed at once, and how often.
_TIMED, _TIMES = 500, 3


@dataclass(frozen=True)
class Measured:
    """The numbers of one network; accuracies are shares, slopes are with respect to the raw input.

    clean: accuracy on all test samples. certified: on all of them, for each eps of the comparison; zeros where nothing
    is proved. attacked: for each eps, on the first samples. bound: proved, None where nothing is; declared: by
    construction. slope: the largest found. train_seconds: of the processor; infer_microseconds: of the processor, for a
    sample; certify_seconds: wall. memory: bytes that torch had allocated at the peak of one training step, beside the
    parameters and the data; infer_memory: the same for classifying a batch.
    bugs: files that say what contradicted a proof.
    """

    parameters: int
    epochs: int
    clean: float
    certified: tuple[float, ...]
    attacked: tuple[float, ...]
    bound: float | None
    declared: float | None
    slope: float
    train_seconds: float
    infer_microseconds: float
    certify_seconds: float
    memory: int
    infer_memory: int
    bugs: tuple[str, ...]

    @property
    def tightness(self) -> float | None:
        """The largest slope found as a share of the proved bound."""
        return None if self.bound is None else self.slope / self.bound


def finished(folder: Path) -> bool:
    """Whether all that is measured of a run is there, for the form that is there."""
    try:
        return json.loads((folder / f"{NAME}.json").read_bytes())["form"] == runs.stored_sha256(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read(folder: Path) -> Measured:
    """What was measured; FormatError where the file is another."""
    file = folder / f"{NAME}.json"
    try:
        values = json.loads(file.read_bytes())
        for name in ("format", "form"):
            values.pop(name)
        for name in ("certified", "attacked", "bugs"):
            values[name] = tuple(values[name])
        return Measured(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{file} holds no results of a comparison, or it is damaged: {error}; remove it") from error


def carry_out(
    settings: Settings,
    out: Path,
    data_dir: str | os.PathLike[str] | None,
    task: tuple[str, TrainConfig],
    say: Callable[[str], None],
) -> None:
    """Train what the task (its folder's name and configuration) says, measure it, and write it down.

    Raises what training and certifying raise; a network of which nothing can be proved is no error.
    """
    name, config = task
    folder = out / name
    check(experiment.Network(name, name, config), folder)
    if not (folder / "config.toml").is_file():
        train(config, folder, data_dir=data_dir)
    elif (folder / checkpoint.NAME).is_file() or not (folder / "model.safetensors").is_file():
        resume(folder, data_dir=data_dir)
    model, form = load_run(folder)[1], runs.load_network(folder)
    dataset = data.load(config.data, data_dir, limit=config.limit)
    found = _measure(settings, folder, config, model, form, dataset)
    runs.write_result(folder, NAME, asdict(found), form.sha256)
    proved = "nothing proved" if found.bound is None else f"slope at most {found.bound:.3g}"
    say(f"{100 * found.clean:.2f} % correct, {proved}, {found.train_seconds:.1f} s")


def _measure(
    settings: Settings, folder: Path, config: TrainConfig, model: Model, form: Network, dataset: Dataset
) -> Measured:
    evaluated = evaluate(form.to(torch.float64), dataset.test_x, dataset.test_y, SolverSettings(raise_on_failure=False))
    runs.write_result(folder, "evaluation", {"data": dataset.name, **evaluated.as_table()}, form.sha256)
    start = time.perf_counter()
    bound = _certify(settings, folder, model, form)
    x, label = dataset.test_x, dataset.test_y
    radius = torch.zeros(len(x), dtype=torch.float64)
    if bound is not None:
        pairs = certify.rows(form, bound)
        parts = zip(*(every.split(rows_at_a_time(form.hidden_size)) for every in (x, label)), strict=True)
        radius = torch.cat([certify.radius(form, *part, bound=bound, pairs=pairs) for part in parts])
    seconds = time.perf_counter() - start
    n = min(settings.attacked, len(x))
    target = attack.Target.of(form, multipliers=None if bound is None else bound.multipliers, bound=bound)
    some, own, box = x[:n], label[:n], box_of(dataset)
    found = attack.robustness(
        target, some, own, settings.eps, box=box, seed=config.seed, bound=bound, radius=radius[:n]
    )
    slope = attack.largest_slope(target, some, starts=_STARTS, rounds=_ROUNDS, seed=config.seed)
    bugs = attack.save_contradictions(folder, found, slope, bound)
    values = attack.record(found, slope, bound, data=dataset.name, box=box, seed=config.seed, bugs=bugs)
    runs.write_result(folder, "attack", values, form.sha256)
    attack.Outcome.of(found, some, own, dataset.shape).save(folder / "attack.npz")
    guarantee = model.guarantee()
    declared = None if guarantee is None or guarantee.bound is None else certify.raw_bound(form, guarantee.bound)
    epochs = metrics.read(folder)
    infer = _timed(model, x)
    return Measured(
        parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        epochs=len(epochs),
        clean=1 - evaluated.test_error_percent / 100,
        certified=tuple(float((radius > eps).double().mean()) for eps in settings.eps),
        attacked=tuple(row.attacked_accuracy for row in sorted(found.rows, key=lambda row: row.eps)),
        bound=None if bound is None else bound.value_raw,
        declared=declared,
        slope=slope.value_raw,
        train_seconds=sum(epoch.processor_seconds for epoch in epochs),
        infer_microseconds=infer,
        certify_seconds=seconds,
        memory=_training_memory(config, model, dataset),
        infer_memory=_memory(lambda: _classify(model, x[:_TIMED])),
        bugs=tuple(str(file) for file in bugs),
    )


def _prove(settings: Settings, form: Network) -> Bound | None:
    if isinstance(form, Form) and isinstance(form.W, Contraction):
        return None  # what is known of these is in the maximum norm
    try:
        return certify.lipschitz(form, seconds=settings.search)
    except (IllPosedError, ProofError):
        return None


def _certify(settings: Settings, folder: Path, model: Model, form: Network) -> Bound | None:
    """The bound with its certificate written and checked; None where nothing is provable."""
    bound = _prove(settings, form)
    if bound is None:
        return None
    path = folder / "certificate.json"
    if isinstance(model, nn.MonotonicWrapper):
        certify.write_certificate(bound, path, monotone=certify.monotone(model))
    else:
        bound.save(path)
    verdict = checker.check(path)
    if not verdict.valid:
        raise ProofError(f"{path} is not valid: {verdict.reason} (a fault of equilip: please report it)")
    return bound


def _classify(model: Model, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def _timed(model: Model, x: Tensor) -> float:
    """Microseconds of the processor for a sample, in the network's own number format; the best of some rounds."""
    _classify(model, x[:_TIMED])
    best = float("inf")
    for _ in range(_TIMES):
        start = time.process_time()
        for part in x[: 4 * _TIMED].split(_TIMED):
            _classify(model, part)
        best = min(best, time.process_time() - start)
    return 1e6 * best / min(4 * _TIMED, len(x))


def _training_memory(config: TrainConfig, model: Model, dataset: Dataset) -> int:
    """The memory of one training step of the first batch; the network is left in eval mode."""
    rows = order(config.seed, 0, len(dataset.train_y))[: config.batch]
    x, label = dataset.train_x[rows], dataset.train_y[rows]
    loss, known, penalty = loss_of(config), slopes(model), penalty_of(config, dataset.in_features)

    def step() -> None:
        value = loss(model(x), label, known)
        if penalty is not None:
            value = value + penalty(model, x, torch.Generator().manual_seed(0))
        value.backward()

    model.train()
    step()  # what is made once is not counted
    model.zero_grad(set_to_none=True)
    peak = _memory(step)
    model.zero_grad(set_to_none=True)
    model.eval()
    return peak


def _memory(work: Callable[[], object]) -> int:
    """The bytes that torch has allocated at the peak of ``work``, over what it had before."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it greets on standard error otherwise
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    assert seen.profiler is not None
    assert seen.profiler.kineto_results is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
