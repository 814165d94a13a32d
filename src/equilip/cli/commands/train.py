"""Train a network and write a run directory.

Everything can be said on the command line, or in a TOML file of the same names (--config; the config.toml of
an earlier run repeats it), the command line having the last word.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from equilip.cli.options import Parser, add_data, add_fields, chosen
from equilip.cli.output import Output
from equilip.train import TrainConfig
from equilip.train.toml import build

if TYPE_CHECKING:
    from equilip.train import EpochMetrics


def arguments(parser: Parser) -> None:
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of the options below")
    parser.add_argument("--out", metavar="DIR", help="run directory (default: runs/DATA-MODEL)")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that is in --out")
    add_data(parser, limit=False)
    add_fields(parser, TrainConfig)


def run(options: argparse.Namespace, output: Output) -> int:
    values = {}
    where = "the command line"
    if options.config is not None:
        from equilip.train.runs import read_train_values

        values, where = read_train_values(options.config), options.config
    config = build(TrainConfig, {**values, **chosen(options, TrainConfig)}, where)
    out = options.out or f"runs/{config.data}-{config.model}"

    from equilip.train import train

    title = f"training {config.model} on {config.data}"
    with output.progress(title, config.epochs) as progress:
        history: list[EpochMetrics] = []

        def on_epoch(metrics: EpochMetrics) -> None:
            history.append(metrics)
            progress.step(describe(metrics, config.epochs), brief(metrics))

        path, _ = train(
            config,
            out,
            data_dir=options.data_dir,
            overwrite=options.overwrite,
            progress=output.terminal,
            on_epoch=on_epoch,
        )
    last = history[-1]
    output.line(f"{path}: test error {last.test_error_percent:.2f} % after {last.epoch} epochs")
    output.line(f"next: equilip evaluate {path}")
    output.result({"run": str(path), **asdict(last), "seconds": sum(m.seconds for m in history)})
    return 0


def describe(metrics: EpochMetrics, epochs: int) -> str:
    """One line about an epoch."""
    lost = f", {metrics.unconverged} UNCONVERGED" if metrics.unconverged else ""
    return (
        f"epoch {metrics.epoch}/{epochs}: loss {metrics.loss:.4f}, "
        f"error {metrics.train_error_percent:.2f} % train, {metrics.test_error_percent:.2f} % test, "
        f"{metrics.iterations} iterations, residual {metrics.max_residual:.1e}{lost}, {metrics.seconds:.1f} s"
    )


def brief(metrics: EpochMetrics) -> str:
    """The same in a few words."""
    return f"error {metrics.train_error_percent:.2f} % train, {metrics.test_error_percent:.2f} % test"
