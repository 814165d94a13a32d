"""Train a network and write a run directory, or continue one that was interrupted.

Everything can be said on the command line, or in a TOML file of the same names (--config; the config.toml of
an earlier run repeats it), the command line having the last word. --resume takes everything from the run itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from equilip.cli.options import Parser, add_data, add_fields, chosen, flag
from equilip.cli.output import Output
from equilip.errors import ConfigError
from equilip.train import TrainConfig
from equilip.train.toml import build

if TYPE_CHECKING:
    from equilip.train import EpochMetrics
    from equilip.train.metrics import Report

    Work = Callable[[Report], Path]


def arguments(parser: Parser) -> None:
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of the options below")
    parser.add_argument("--out", metavar="DIR", help="run directory (default: runs/DATA-MODEL)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in --out")
    parser.add_argument("--resume", metavar="RUN", help="continue this run from its last completed epoch")
    parser.add_argument("--tensorboard", metavar="DIR", help="write the metrics for TensorBoard too")
    add_data(parser, limit=False)
    add_fields(parser, TrainConfig)


def run(options: argparse.Namespace, output: Output) -> int:
    return _resume(options, output) if options.resume is not None else _start(options, output)


def _start(options: argparse.Namespace, output: Output) -> int:
    values = {}
    where = "the command line"
    if options.config is not None:
        from equilip.train.runs import read_train_values

        values, where = read_train_values(options.config), options.config
    config = build(TrainConfig, {**values, **chosen(options, TrainConfig)}, where)
    out = options.out or f"runs/{default_name(config)}"

    from equilip.train import train

    def work(report: Report) -> Path:
        path, _ = train(
            config,
            out,
            data_dir=options.data_dir,
            overwrite=options.overwrite,
            progress=output.terminal,
            on_epoch=report,
        )
        return path

    return _watch(options, output, config, out, config.epochs, work)


def _resume(options: argparse.Namespace, output: Output) -> int:
    surplus = [flag(name) for name in chosen(options, TrainConfig)]
    surplus += [flag(name) for name in ("config", "out", "overwrite") if getattr(options, name)]
    if surplus:
        raise ConfigError(f"--resume continues {options.resume} as it was started; leave out {', '.join(surplus)}")

    from equilip.train import checkpoint, resume, runs

    path = Path(options.resume)
    found = runs.load_config(path)
    done = checkpoint.epochs_done(path)
    if found.train is None:
        raise ConfigError(f"{path} holds an imported network: there is no training to continue")
    for name, now in runs.versions().items():
        before = found.versions.get(name, now)
        if before != now:
            output.line(f"started with {name} {before}, continued with {now}: the last bits may differ")

    def work(report: Report) -> Path:
        return resume(path, data_dir=options.data_dir, progress=output.terminal, on_epoch=report)[0]

    return _watch(options, output, found.train, options.resume, found.train.epochs - done, work)


def default_name(config: TrainConfig) -> str:
    """A folder's name for what is trained: data and model."""
    data = Path(config.data.removeprefix("npz:")).stem if config.data.startswith("npz:") else config.data
    return f"{data}-{config.model}"


def _watch(options: argparse.Namespace, output: Output, config: TrainConfig, out: str, epochs: int, work: Work) -> int:
    """Do the work, which leaves its run in ``out``, with its epochs shown as they come; then say how it ended."""
    from equilip.train import metrics

    board = None
    if options.tensorboard is not None:
        from equilip.train.tensorboard import Board

        board = Board(options.tensorboard)
    with output.progress(f"training {config.model} on {config.data}", epochs) as progress:

        def report(latest: EpochMetrics) -> None:
            progress.step(describe(latest, config.epochs), brief(latest))
            if board is not None:
                board.write(latest)

        try:
            path = work(report)
        except (KeyboardInterrupt, OSError):
            if Path(out, "config.toml").is_file():
                output.line(f"stopped; continue with: equilip train --resume {out}")
            raise
    if board is not None:
        board.close()
    history = metrics.read(path)
    last = history[-1]
    output.line(f"{path}: test error {last.test_error_percent:.2f} % after {last.epoch} epochs{_kept(config, history)}")
    output.line(f"next: equilip evaluate {path}")
    output.result({"run": str(path), **asdict(last), "seconds": sum(m.seconds for m in history)})
    return 0


def _kept(config: TrainConfig, history: list[EpochMetrics]) -> str:
    """Which epoch's network is kept, where that need not be the last."""
    watched = [m for m in history if m.validation_loss is not None]
    if config.patience is None or not watched:
        return ""
    best = min(watched, key=lambda m: m.validation_loss or 0.0)
    return f"; kept is epoch {best.epoch} with {best.test_error_percent:.2f} %, the best on the validation data"


def describe(metrics: EpochMetrics, epochs: int) -> str:
    """One line about an epoch."""
    held = metrics.validation_error_percent
    errors = [f"{metrics.train_error_percent:.2f} % train"]
    errors += [f"{held:.2f} % validation"] if held is not None else []
    errors += [f"{metrics.test_error_percent:.2f} % test"]
    certified = [f"{share:.2f} % certified at {eps}" for eps, share in metrics.certified_by_pairs_percent.items()]
    residual = "not finite" if metrics.max_residual is None else f"{metrics.max_residual:.1e}"
    lost = f", {metrics.unconverged} UNCONVERGED" if metrics.unconverged else ""
    return ", ".join(
        [
            f"epoch {metrics.epoch}/{epochs}: loss {metrics.loss:.4f}",
            f"error {', '.join(errors)}",
            *certified,
            f"{metrics.iterations} iterations",
            f"residual {residual}{lost}",
            f"{metrics.seconds:.1f} s",
        ]
    )


def brief(metrics: EpochMetrics) -> str:
    """The same in a few words."""
    certified = "".join(f", {share:.1f} % at {eps}" for eps, share in metrics.certified_by_pairs_percent.items())
    return f"error {metrics.train_error_percent:.2f} % train, {metrics.test_error_percent:.2f} % test{certified}"
