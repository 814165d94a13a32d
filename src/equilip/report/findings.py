"""Everything that is known about a run, from its directory: what is there, what is missing, what was refused."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from equilip.attack.outcome import Outcome
from equilip.certify import raw_bound
from equilip.errors import ConfigError, FormatError
from equilip.report import results
from equilip.report.results import Attacked, Check, Evaluated, OtherFormError
from equilip.train import EpochMetrics, load_run, metrics, runs
from equilip.train.runs import RunConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Notice:
    """Something that readers must know. command: what to type about it, if anything. serious: whether something is
    wrong, and not just missing."""

    text: str
    command: str = ""
    serious: bool = False


@dataclass(frozen=True, eq=False)
class LinfFindings:
    """What is known of a run in the maximum norm; fields are None where there is no such thing."""

    attacked: Attacked | None
    check: Check | None

    @property
    def proved(self) -> float | None:
        """The bound that the checker proved anew, for standardised inputs."""
        return None if self.check is None else self.check.bound("standardised", "linf")

    @property
    def proved_raw(self) -> float | None:
        return None if self.check is None else self.check.bound("raw", "linf")

    @property
    def tightness_percent(self) -> float | None:
        """The largest slope found over the proved bound, raw or standardised, whichever is closer."""
        return _tightness(self.attacked, self.proved, self.proved_raw)


@dataclass(frozen=True, eq=False)
class Findings:
    """A run. Fields are None where the run has no such thing that could be used; ``notices`` say why.

    declared, declared_raw: what the parametrisation promises. form_sha256: of the run's form, None while it is trained.
    """

    path: Path
    name: str
    config: RunConfig
    form_sha256: str | None
    declared: float | None
    declared_raw: float | None
    history: tuple[EpochMetrics, ...]
    evaluated: Evaluated | None
    attacked: Attacked | None
    outcome: Outcome | None
    check: Check | None
    linf: LinfFindings | None
    notices: tuple[Notice, ...]

    @property
    def proved(self) -> float | None:
        """The bound that the checker proved anew, for standardised inputs."""
        return None if self.check is None else self.check.bound("standardised")

    @property
    def proved_raw(self) -> float | None:
        return None if self.check is None else self.check.bound("raw")

    @property
    def tightness_percent(self) -> float | None:
        """The largest slope found over the proved bound, raw or standardised, whichever is closer."""
        return _tightness(self.attacked, self.proved, self.proved_raw)

    @property
    def test_error_percent(self) -> float | None:
        """Of the whole evaluation; else of the last epoch of the training."""
        if self.evaluated is not None:
            return self.evaluated.test_error_percent
        return self.history[-1].test_error_percent if self.history else None

    @property
    def certifies(self) -> bool:
        """Whether the attack had certified radii to compare with."""
        return self.attacked is not None and self.attacked.certified is not None

    def certified_accuracy(self, eps: float) -> float | None:
        """The share of attacked samples certified at eps; None where it was not measured there."""
        if self.outcome is not None:
            return self.outcome.certified_accuracy(eps)
        rows = () if self.attacked is None else self.attacked.rows
        return next((row.certified_accuracy for row in rows if row.eps == eps), None)

    def attacked_accuracy(self, eps: float) -> float | None:
        """The share that stands against everything found at eps; None where it was not measured there."""
        if self.outcome is not None:
            return self.outcome.attacked_accuracy(eps)
        rows = () if self.attacked is None else self.attacked.rows
        return next((row.attacked_accuracy for row in rows if row.eps == eps), None)

    def command(self, name: str) -> str:
        """What to type for that command to work on this run."""
        return f"equilip {name} {shlex.quote(str(self.path))}"

    @property
    def verify(self) -> str:
        """What to type to check the certificate oneself."""
        return f"equilip verify {shlex.quote(str(self.path / 'certificate.json'))}"


def _tightness(attacked: Attacked | None, proved: float | None, proved_raw: float | None) -> float | None:
    if attacked is None:
        return None
    found = ((attacked.largest_slope, proved), (attacked.largest_slope_raw, proved_raw))
    return max((100.0 * slope / bound for slope, bound in found if bound), default=None)


def gather(paths: Sequence[str | os.PathLike[str]]) -> tuple[Findings, ...]:
    """What is known about several runs, each with a name of its own. Errors as in :func:`look`."""
    folders = [Path(path) for path in paths]
    names = [folder.resolve().name for folder in folders]
    unique = len(set(names)) == len(names)
    return tuple(look(folder, name if unique else str(folder)) for folder, name in zip(folders, names, strict=True))


def look(path: str | os.PathLike[str], name: str | None = None) -> Findings:
    """What is known about a run; its certificate is checked anew. ConfigError when it is no run directory.

    Whatever else is missing, damaged or speaks of another form becomes a notice.
    """
    reader = _Reader(Path(path))
    config = runs.load_config(reader.path)
    declared, declared_raw, digest = reader.network()
    history = reader.use(lambda: tuple(metrics.read(reader.path))) or ()
    if digest is None:
        found, outcome, check, evaluated, linf = None, None, None, None, None
    else:
        check = reader.certificate()
        evaluated = reader.wanted("evaluate", lambda: results.evaluated(reader.path, digest), "No evaluation yet")
        found = reader.wanted("attack", lambda: results.attacked(reader.path, digest), "No attack yet")
        outcome = None if found is None else reader.use(lambda: results.outcome(reader.path, digest), "attack")
        reader.contradictions(found, check)
        linf = reader.linf(digest)
    return Findings(
        path=reader.path,
        name=name or reader.path.resolve().name,
        config=config,
        form_sha256=digest,
        declared=declared,
        declared_raw=declared_raw,
        history=history,
        evaluated=evaluated,
        attacked=found,
        outcome=outcome,
        check=check,
        linf=linf,
        notices=tuple(reader.notices),
    )


@dataclass
class _Reader:
    """Reads one thing after the other and writes down what goes wrong."""

    path: Path
    notices: list[Notice] = field(default_factory=list)

    def command(self, name: str) -> str:
        return f"equilip {name} {shlex.quote(str(self.path))}"

    def use(self, read: Callable[[], T | None], again: str = "", options: str = "") -> T | None:
        """What ``read`` gives; None with a notice when it cannot be used, and the command that makes it again."""
        try:
            return read()
        except FormatError as error:
            command = f"{self.command(again)}{options}" if again else ""
            self.notices.append(Notice(str(error), command, serious=not isinstance(error, OtherFormError)))
            return None

    def wanted(self, command: str, read: Callable[[], T | None], missing: str) -> T | None:
        """The same for what every run should have."""
        before = len(self.notices)
        found = self.use(read, command)
        if found is None and len(self.notices) == before:
            self.notices.append(Notice(missing, self.command(command)))
        return found

    def network(self) -> tuple[float | None, float | None, str | None]:
        """What is declared, in both units, and the form's sha256."""
        if not (self.path / "form.safetensors").is_file():
            text = "The training has not finished: there is no network to speak of yet"
            self.notices.append(Notice(text, f"equilip train --resume {shlex.quote(str(self.path))}"))
            return None, None, None
        try:
            _, model = load_run(self.path)
            guarantee = model.guarantee()
            declared = None if guarantee is None else guarantee.bound
            raw = None if declared is None else raw_bound(runs.load_network(self.path), declared)
            return declared, raw, runs.stored_sha256(self.path)
        except (FormatError, ConfigError) as error:
            self.notices.append(Notice(str(error), serious=True))
            return None, None, None

    def certificate(self) -> Check | None:
        check = results.recheck(self.path)
        if check is None:
            self.notices.append(
                Notice("No certificate yet: nothing is proved about this network", self.command("certify"))
            )
        elif not check.verdict.valid:
            text = f"certificate.json proves nothing about this network: {check.verdict.reason}"
            self.notices.append(Notice(text, self.command("certify"), serious=True))
        return check

    def linf(self, digest: str) -> LinfFindings | None:
        """What there is in the maximum norm; None where nothing is, which nobody has to have."""
        check = results.recheck(self.path, "certificate-linf")
        if check is not None and not check.verdict.valid:
            text = f"certificate-linf.json proves nothing about this network: {check.verdict.reason}"
            self.notices.append(Notice(text, f"{self.command('certify')} --norm linf", serious=True))
        found = self.use(lambda: results.attacked(self.path, digest, "attack-linf"), "attack", " --norm linf")
        if check is None and found is None:
            return None
        self.contradictions(found, check, "linf")
        return LinfFindings(found, check)

    def contradictions(self, found: Attacked | None, check: Check | None, norm: str = "l2") -> None:
        """Slopes above what is proved, and what the attack itself reported."""
        if found is None:
            return
        for file in found.bugs:
            text = f"The attack found something that contradicts a proof: {file}"
            self.notices.append(Notice(f"{text}. This is a bug of equilip; please report it", serious=True))
        for units, slope in (("standardised", found.largest_slope), ("raw", found.largest_slope_raw)):
            bound = None if check is None else check.bound(units, norm)
            if bound is not None and slope > bound:
                text = (
                    f"The largest slope found, {slope!r} ({units}), is above the proved bound {bound!r}; one is wrong"
                )
                self.notices.append(Notice(text, self.command("attack"), serious=True))
