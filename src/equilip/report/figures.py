"""Which curves the report draws of its findings; units and samples as in :mod:`equilip.report.findings`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from equilip.report.findings import Findings
from equilip.report.plots import Axis, Band, Line, Points, line_chart, scatter

_STEPS = 60
_EPS = "ε, ℓ2 size of the perturbation, raw units"
_LINF = "ε, largest change of any input (ℓ∞), raw units"


def robustness(runs: Sequence[Findings]) -> str | None:
    """Certified and attacked accuracy over eps, shaded between for a single run; None where no run was attacked."""
    attacked = [(colour, run) for colour, run in enumerate(runs) if run.attacked is not None]
    if not attacked:
        return None
    end = max(_end(run) for _, run in attacked)
    lines, bands = [], []
    for colour, run in attacked:
        eps = _grid(run, end)
        # Without perturbation an attack leaves the clean accuracy; what is certified then was perhaps not measured.
        above = [_clean(run) if e == 0 else _percent(run.attacked_accuracy(e)) for e in eps]
        name = "" if len(runs) == 1 else f"{run.name}: "
        lines.append(Line(f"{name}attacked", eps, above, colour, dashed=True))
        if run.certifies:
            below = [_percent(run.certified_accuracy(e)) for e in eps]
            lines.append(Line(f"{name}certified", eps, below, colour))
            if len(runs) == 1:
                bands.append(Band("not known", eps, below, above, colour))
    title = "Certified and attacked accuracy over the size of the perturbation"
    return line_chart(title, Axis(_EPS, limits=(0.0, None)), Axis("accuracy, %", limits=(0.0, 100.0)), lines, bands)


def robustness_linf(runs: Sequence[Findings]) -> str | None:
    """The same in the maximum norm, at the sizes that were attacked; None where no run was attacked in it."""
    lines, bands = [], []
    for colour, run in enumerate(runs):
        found = None if run.linf is None else run.linf.attacked
        if found is None:
            continue
        eps = [0.0, *(row.eps for row in found.rows)]
        above = [100.0 * share for share in (found.clean_accuracy, *(row.attacked_accuracy for row in found.rows))]
        # What is certified without perturbation was not measured.
        below = [math.nan, *(100.0 * row.certified_accuracy for row in found.rows)]
        name = "" if len(runs) == 1 else f"{run.name}: "
        lines += [
            Line(f"{name}attacked", eps, above, colour, dashed=True),
            Line(f"{name}certified", eps, below, colour),
        ]
        if len(runs) == 1:
            bands.append(Band("not known", eps, below, above, colour))
    if not lines:
        return None
    title = "Certified and attacked accuracy over the largest change of any input"
    return line_chart(title, Axis(_LINF, limits=(0.0, None)), Axis("accuracy, %", limits=(0.0, 100.0)), lines, bands)


def _end(run: Findings) -> float:
    """Up to where a run's accuracies are interesting."""
    if run.outcome is not None:
        found = run.outcome.size[run.outcome.size.isfinite()]
        if len(found) and float(found.max()) > 0:
            return float(found.quantile(0.98))
    assert run.attacked is not None
    return run.attacked.rows[-1].eps


def _grid(run: Findings, end: float) -> list[float]:
    """The eps at which the accuracies of a run are known and drawn."""
    if run.outcome is not None:
        return [end * step / _STEPS for step in range(_STEPS + 1)]
    assert run.attacked is not None
    return [0.0, *(row.eps for row in run.attacked.rows)]


def _percent(share: float | None) -> float:
    """In percent; NaN where nothing was measured."""
    return math.nan if share is None else 100.0 * share


def _clean(run: Findings) -> float:
    """The accuracy without perturbation on the samples that were attacked, in percent."""
    assert run.attacked is not None
    return 100.0 * run.attacked.clean_accuracy


def errors(run: Findings) -> str:
    """Training, validation and test error over the epochs."""
    lines = [
        Line("training", _epochs(run), [each.train_error_percent for each in run.history], 0),
        Line("test", _epochs(run), [each.test_error_percent for each in run.history], 1),
    ]
    held = [(each.epoch, each.validation_error_percent) for each in run.history]
    held = [(epoch, error) for epoch, error in held if error is not None]
    if held:
        lines.append(Line("validation", [epoch for epoch, _ in held], [error or 0.0 for _, error in held], 2))
    return line_chart("Errors over the epochs", Axis("epoch"), Axis("error, %", limits=(0.0, None)), lines)


def losses(run: Findings) -> str:
    """What was minimised, over the epochs."""
    lines = [Line("training", _epochs(run), [each.loss for each in run.history], 0)]
    held = [(each.epoch, each.validation_loss) for each in run.history if each.validation_loss is not None]
    if held:
        lines.append(Line("validation", [epoch for epoch, _ in held], [loss or 0.0 for _, loss in held], 2))
    log = all(value > 0 for line in lines for value in line.y)
    return line_chart("Loss over the epochs", Axis("epoch"), Axis("loss", log=log), lines)


def certified(run: Findings) -> str | None:
    """The certified accuracy that the training reported, over the epochs; None where it was not asked to."""
    names = list(run.history[-1].certified_by_pairs_percent)
    if not names:
        return None
    lines = []
    for colour, eps in enumerate(names):
        known = [each for each in run.history if eps in each.certified_by_pairs_percent]
        shares = [each.certified_by_pairs_percent[eps] for each in known]
        lines.append(Line(f"ε = {eps}", [each.epoch for each in known], shares, colour))
    axis = Axis("certified, %", limits=(0.0, 100.0))
    return line_chart("Certified accuracy over the epochs", Axis("epoch"), axis, lines)


def iterations(run: Findings) -> str | None:
    """Steps of the solver over the epochs; None for a network that needs no solver."""
    if not any(each.iterations or each.train_iterations for each in run.history):
        return None
    lines = [
        Line("training batches, most", _epochs(run), [each.train_iterations for each in run.history], 0),
        Line("test data", _epochs(run), [each.iterations for each in run.history], 1),
    ]
    return line_chart("Solver steps over the epochs", Axis("epoch"), Axis("solver steps", limits=(0.0, None)), lines)


def bounds(run: Findings) -> str | None:
    """The bound over the epochs, where it was trained too."""
    known = [(each.epoch, each.gamma) for each in run.history if each.gamma is not None]
    if not run.config.model.learn_gamma or not known:
        return None
    line = Line("γ", [epoch for epoch, _ in known], [gamma or 0.0 for _, gamma in known])
    return line_chart("Bound over the epochs", Axis("epoch"), Axis("γ, declared bound", limits=(0.0, None)), [line])


def _epochs(run: Findings) -> list[int]:
    return [each.epoch for each in run.history]


def test_errors(runs: Sequence[Findings]) -> str | None:
    """The test error of several runs over their epochs."""
    trained = [(colour, run) for colour, run in enumerate(runs) if run.history]
    if not trained:
        return None
    lines = [
        Line(run.name, _epochs(run), [each.test_error_percent for each in run.history], colour)
        for colour, run in trained
    ]
    return line_chart("Test errors over the epochs", Axis("epoch"), Axis("test error, %", limits=(0.0, None)), lines)


def trade_off(runs: Sequence[Findings], eps: Sequence[float]) -> str | None:
    """Clean over certified accuracy: a point for every run and eps, each eps a colour, joined by declared bound."""
    groups = []
    for colour, size in enumerate(eps):
        named = False
        for bounded in (True, False):
            some = sorted((run for run in runs if (run.declared is not None) == bounded), key=_declared)
            known = [(run, run.certified_accuracy(size)) for run in some if run.certifies]
            points = [(run, share) for run, share in known if share is not None]
            if points:
                groups.append(
                    Points(
                        "" if named else f"ε = {size:g}",
                        [100 * share for _, share in points],
                        [_clean(run) for run, _ in points],
                        [run.name for run, _ in points],
                        colour,
                        joined=bounded,
                    )
                )
                named = True
    if not groups:
        return None
    title = "Accuracy without perturbation against certified accuracy"
    return scatter(title, Axis("certified accuracy at ε, %", limits=(0.0, None)), Axis("clean accuracy, %"), groups)


def over_bound(runs: Sequence[Findings], eps: Sequence[float]) -> str | None:
    """Clean and certified accuracy over the declared bound; None for fewer than two runs that declare one."""
    bounded = sorted((run for run in runs if run.declared is not None and run.certifies), key=_declared)
    if len({_declared(run) for run in bounded}) < 2:
        return None
    x = [_declared(run) for run in bounded]
    lines = [Line("clean", x, [_clean(run) for run in bounded], 7)]
    for colour, size in enumerate(eps):
        values = [_percent(run.certified_accuracy(size)) for run in bounded]
        lines.append(Line(f"certified at ε = {size:g}", x, values, colour))
    title = "Clean and certified accuracy over the declared bound"
    return line_chart(title, Axis("γ, declared bound", log=True), Axis("accuracy, %", limits=(0.0, 100.0)), lines)


def _declared(run: Findings) -> float:
    return run.declared or 0.0
