"""From findings to one self-contained HTML page: no scripts, and nothing is loaded from anywhere."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

import equilip
from equilip.errors import ConfigError, InputError
from equilip.form import write_whole
from equilip.report import figures
from equilip.report.findings import Findings
from equilip.report.numbers import above, below, error_bound, percent, percent_below, ranges
from equilip.report.pictures import difference, picture
from equilip.report.plots import STYLE

#: Sizes of the perturbation that a comparison shows unless told otherwise, at most.
_SIZES = 3
#: The share that some run has to certify at a size for it to be shown unasked.
_TELLING = 0.01


@dataclass(frozen=True)
class Example:
    """One sample: how far it can certainly move, and how far it had to. ``certified`` and ``found`` are shares of the
    gauge, in percent; pictures are None where the data are no images."""

    label: int
    predicted: int | None
    radius: float
    size: float | None
    certified: float
    found: float
    picture: str | None
    perturbed: str | None
    difference: str | None


def write(runs: Sequence[Findings], path: str | os.PathLike[str], eps: Sequence[float] = ()) -> None:
    """Write the page of :func:`render` to ``path``: all of it, or nothing. ConfigError where that cannot be."""
    content = render(runs, eps).encode()
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(path), content)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}; choose another --out") from error


def render(runs: Sequence[Findings], eps: Sequence[float] = (), now: datetime | None = None) -> str:
    """The page as HTML. ``eps``: the raw l2 sizes at which accuracies are tabulated, chosen from those of the attacks
    where none are given. ``now``: the time that the page names. InputError without any run."""
    if not runs:
        raise InputError("a report needs at least one run")
    sizes = tuple(sorted(set(eps))) or telling(runs)
    source = resources.files("equilip.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: source.joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "above": above,
        "below": below,
        "error_bound": error_bound,
        "percent": percent,
        "percent_below": percent_below,
        "ranges": ranges,
        "share": lambda share: percent(100.0 * share),
        "svg": lambda chart: Markup(chart or ""),  # charts escape their own text
    }
    return environment.get_template("page.html").render(
        runs=runs,
        several=len(runs) > 1,
        sizes=sizes,
        best=[best(runs, size) for size in sizes],
        unlike=unlike(runs),
        figures=figures,
        facts=facts,
        examples=examples,
        quote=lambda run: shlex.quote(str(run.path)),
        style=Markup(STYLE + source.joinpath("page.css").read_text(encoding="utf-8")),
        version=equilip.__version__,
        now=(now or datetime.now(UTC)).strftime("%-d %B %Y, %H:%M UTC"),
    )


def telling(runs: Sequence[Findings]) -> tuple[float, ...]:
    """A few of the sizes that all attacks looked at, up to the largest at which anything is certified."""
    tables = [{row.eps for row in run.attacked.rows} for run in runs if run.attacked is not None]
    common = sorted(set.intersection(*tables)) if tables else []
    some = [size for size in common if any((run.certified_accuracy(size) or 0.0) >= _TELLING for run in runs)]
    some = some or common
    if len(some) <= _SIZES:
        return tuple(some)
    return tuple(some[round(step * (len(some) - 1) / (_SIZES - 1))] for step in range(_SIZES))


def best(runs: Sequence[Findings], size: float) -> Findings | None:
    """The run that certifies most at this size; None where none certifies anything."""
    known = [(share, run) for run in runs if run.certifies and (share := run.certified_accuracy(size))]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def unlike(runs: Sequence[Findings]) -> bool:
    """Whether the runs were attacked on different samples, so that their accuracies are no comparison."""
    return len({(run.attacked.data, run.attacked.n) for run in runs if run.attacked is not None}) > 1


def facts(run: Findings) -> list[tuple[str, str]]:
    """What was trained, or imported."""
    model, train, imported = run.config.model, run.config.train, run.config.imported
    hidden = " + ".join(str(width) for width in model.hidden)
    shape = f"{model.in_features} inputs, {hidden} neurons, {model.out_features} outputs"
    rows = [("network", f"{model.kind}, {shape}"), ("activation", model.activation)]
    if imported is not None:
        rows = [("network", f"{imported.kind}, {shape}"), ("imported from", imported.file)]
        rows += [("sha256 of that file", imported.sha256), ("data", run.config.data or "not named")]
        rows += [("γ, stated when it was imported", f"{imported.gamma:g}")] if imported.gamma is not None else []
    if train is not None:
        rows += [("γ", "none" if model.gamma is None else f"{model.gamma:g}" + (", trained" * model.learn_gamma))]
        rows += [("margin ε of well-posedness", f"{model.epsilon:g}")] if model.kind == "lben" else []
        rows += [("data", train.data + ("" if train.limit is None else f", the first {train.limit} samples"))]
        loss = train.loss + (f" at {train.loss_eps:g}" if train.loss_eps else "")
        rows += [("loss", loss + (f", temperature {train.temperature:g}" if train.temperature != 1 else ""))]
        done, seconds = len(run.history), sum(each.seconds for each in run.history)
        rows += [("epochs", f"{done} of {train.epochs}, batches of {train.batch}, {seconds:.0f} s")]
        rows += [("learning rate", f"{train.lr:g}, {train.schedule}"), ("seed", str(train.seed))]
        rows += [("number format, device", f"{train.dtype}, {train.device}")]
    versions = ", ".join(f"{name} {version}" for name, version in run.config.versions.items())
    return [*rows, ("made with", versions or "not named")]


def examples(run: Findings) -> list[Example]:
    """The samples to look at."""
    outcome = run.outcome
    if outcome is None:
        return []
    sizes = outcome.size[outcome.index]
    finite = sizes[sizes.isfinite()]
    longest = max(float(outcome.radius[outcome.index].max()), float(finite.max()) if len(finite) else 0.0) or 1.0
    found = []
    for row, number in enumerate(outcome.index.tolist()):
        x, adversarial, size = outcome.x[row], outcome.adversarial[row], float(sizes[row])
        broken = bool(sizes[row].isfinite())
        radius = float(outcome.radius[number])
        found.append(
            Example(
                label=int(outcome.label[number]),
                predicted=int(outcome.predicted[row]) if broken else None,
                radius=radius,
                size=size if broken else None,
                certified=100.0 * radius / longest,
                found=100.0 * size / longest if broken else 100.0,
                picture=picture(x, outcome.shape),
                perturbed=picture(adversarial, outcome.shape) if broken else None,
                difference=difference(x, adversarial, outcome.shape) if broken else None,
            )
        )
    return found
