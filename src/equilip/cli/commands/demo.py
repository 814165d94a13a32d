"""The whole story on the bundled digits, in under a minute: train, certify, attack, verify, report.

An LBEN whose slope cannot exceed gamma = 1, and a plain network of the same size beside it. Needs no network and no
options. Leaves two runs, lben and plain, and a page that compares them.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from equilip.cli.commands.attack import report_bugs
from equilip.cli.commands.report import values
from equilip.cli.commands.train import brief, describe
from equilip.cli.options import Parser, add_data
from equilip.cli.output import Output
from equilip.train.config import TrainConfig

if TYPE_CHECKING:
    from equilip.data import Dataset
    from equilip.report import Findings

EPOCHS = 10
WIDTH = 60
#: The raw l2 distances at which accuracies are measured, and the one that the table shows.
EPS = (0.1, 0.2, 0.5, 1.0)
SHOWN = 0.5
#: How many test images are attacked, and how many searches for the largest slope run side by side.
ATTACKED = 100
STARTS = 16


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "--out", default="runs/demo", metavar="DIR", help="folder of both runs and the report (default: runs/demo)"
    )
    add_data(parser)


def run(options: argparse.Namespace, output: Output) -> int:
    start = time.perf_counter()
    from equilip import data, report

    folder = Path(options.out)
    dataset = data.load("digits", limit=options.limit)
    lben = TrainConfig(
        model="lben",
        gamma=1.0,
        epsilon=0.1,
        width=WIDTH,
        epochs=EPOCHS,
        batch=64,
        lr=1e-2,
        step_epochs=4,
        limit=options.limit,
        seed=options.seed,
        device=options.device,
    )
    bounded = "An equilibrium network for handwritten digits whose slope cannot exceed gamma = 1, whatever it learns"
    unbounded = "A plain network with as many neurons, trained in the same way"
    networks = (
        ("lben", bounded, lben),
        ("plain", unbounded, replace(lben, model="feedforward", gamma=None)),
    )
    for name, what, config in networks:
        output.line(f"{what}:")
        measure(folder / name, config, dataset, output)
    found = report.gather([folder / name for name, _, _ in networks])
    page = folder / "report.html"
    report.write(found, page)
    show(found, output)
    wrong = [notice.text for each in found for notice in each.notices if notice.serious]
    for text in wrong:
        output.line(f"WRONG: {text} (a fault of equilip: please report it)")
    seconds = time.perf_counter() - start
    output.line(f"done in {seconds:.0f} s. Open {page} in a browser, and try next:")
    output.line(f"  equilip verify {folder / 'lben' / 'certificate.json'}")
    output.line("  equilip train --data digits --model lben --width 60 --gamma 0.3 --out runs/tighter")
    output.line("  equilip certify runs/tighter")
    output.line("  equilip attack runs/tighter")
    output.line(f"  equilip report {folder / 'lben'} runs/tighter")
    output.line("  equilip train --data mnist --model lben --width 80 --gamma 1.0 --out runs/mnist")
    output.result(
        {
            "report": str(page),
            "data": "digits",
            "eps": SHOWN,
            "runs": [
                {
                    **values(each),
                    "certified_accuracy": each.certified_accuracy(SHOWN),
                    "attacked_accuracy": each.attacked_accuracy(SHOWN),
                }
                for each in found
            ],
            "total_seconds": seconds,
        }
    )
    return 1 if wrong else 0


def measure(folder: Path, config: TrainConfig, dataset: Dataset, output: Output) -> None:
    """Make a run, and leave in it what the commands evaluate, certify and attack would."""
    import torch

    from equilip import attack, certify
    from equilip.train import evaluate, load_form, runs, train

    with output.progress("training", config.epochs) as progress:
        train(
            config,
            folder,
            overwrite=True,
            on_epoch=lambda metrics: progress.step(describe(metrics, config.epochs), brief(metrics)),
        )
    form, digest = load_form(folder), runs.stored_sha256(folder)
    measured = evaluate(form.to(torch.float64), dataset.test_x, dataset.test_y)
    runs.write_result(folder, "evaluation", {"data": "digits", **measured.as_table()}, digest)
    bound = certify.lipschitz(form)
    bound.save(folder / "certificate.json")
    output.line("  certified; attacking")
    x, label, box = dataset.test_x[:ATTACKED], dataset.test_y[:ATTACKED], attack.Box(0.0, 1.0)
    target = attack.Target.of(form, multipliers=bound.multipliers)
    found = attack.robustness(target, x, label, EPS, box=box, seed=config.seed, bound=bound)
    slope = attack.largest_slope(target, x, starts=STARTS, seed=config.seed)
    bugs = report_bugs(folder, found, slope, bound, output)
    attack.Outcome.of(found, x, label, dataset.shape).save(folder / "attack.npz")
    record = attack.record(found, slope, bound, data="digits", box=box, seed=config.seed, bugs=bugs)
    runs.write_result(folder, "attack", record, digest)


def show(found: tuple[Findings, ...], output: Output) -> None:
    """Both networks side by side."""
    from equilip.report.numbers import above, below, percent, percent_below

    def row(name: str, cells: list[str]) -> tuple[str, ...]:
        return (name, *cells)

    def slope(each: Findings) -> str:
        return "-" if each.attacked is None else below(each.attacked.largest_slope)

    def verdict(each: Findings) -> str:
        return "-" if each.check is None else "VALID" if each.check.verdict.valid else "INVALID"

    def share(value: float | None) -> str:
        return "-" if value is None else percent(100.0 * value, 1)

    def median(each: Findings) -> str:
        size = None if each.attacked is None else each.attacked.median_perturbation
        return "-" if size is None else above(size, 3)

    output.table(
        "digits: a network with a bound, and one without",
        ("", "LBEN, gamma = 1", "plain network"),
        [
            row("test error", [percent(each.test_error_percent or 0.0) for each in found]),
            row("largest slope, by construction", ["none" if e.declared is None else above(e.declared) for e in found]),
            row("largest slope, proved", ["-" if each.proved is None else above(each.proved) for each in found]),
            row("largest slope, found", [slope(each) for each in found]),
            row(
                "found / proved",
                ["-" if e.tightness_percent is None else percent_below(e.tightness_percent) for e in found],
            ),
            row("certificate, by the stand-alone checker", [verdict(each) for each in found]),
            row(
                f"images that no change of l2 size {SHOWN:g} can turn",
                [share(e.certified_accuracy(SHOWN)) for e in found],
            ),
            row("images that no attack of that size turned", [share(e.attacked_accuracy(SHOWN)) for e in found]),
            row("median of the smallest changes that turn an image", [median(each) for each in found]),
        ],
    )
