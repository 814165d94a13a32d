"""Train a bounded network on the bundled digits and show what it is worth, in under a minute.

Needs no network and no options.
"""

from __future__ import annotations

import argparse
import time

from equilip.cli.commands.certify import five_digits
from equilip.cli.commands.evaluate import rows
from equilip.cli.commands.train import brief, describe
from equilip.cli.options import Parser, add_data
from equilip.cli.output import Output

EPOCHS = 20
#: The raw l2 distance at which the certified accuracy is shown.
EPS = 0.2


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "--out", default="runs/demo", metavar="DIR", help="run directory, replaced (default: runs/demo)"
    )
    add_data(parser)


def run(options: argparse.Namespace, output: Output) -> int:
    start = time.perf_counter()
    import torch

    from equilip import certify, checker, data
    from equilip.errors import ProofError
    from equilip.train import TrainConfig, evaluate, load_form, runs, train

    config = TrainConfig(
        data="digits",
        model="lben",
        gamma=1.0,
        epsilon=0.1,
        width=60,
        epochs=EPOCHS,
        batch=64,
        lr=1e-2,
        schedule="step",
        step_epochs=8,
        limit=options.limit,
        seed=options.seed,
        device=options.device,
    )
    output.line(
        "An equilibrium network for handwritten digits whose slope cannot exceed gamma = 1, whatever it learns."
    )
    with output.progress("training", config.epochs) as progress:
        path, _ = train(
            config,
            options.out,
            overwrite=True,
            on_epoch=lambda metrics: progress.step(describe(metrics, config.epochs), brief(metrics)),
        )
    form = load_form(path)
    dataset = data.load("digits", limit=options.limit)
    found = evaluate(form.to(torch.float64), dataset.test_x, dataset.test_y)
    values = {"data": "digits", **found.as_table()}
    runs.write_result(path, "evaluation", values, runs.stored_sha256(path))
    bound = certify.lipschitz(form)
    certificate = path / "certificate.json"
    bound.save(certificate)
    checked = time.perf_counter()
    verdict = checker.check(certificate)
    if not verdict.valid:
        raise ProofError(f"{certificate} is not valid: {verdict.reason} (a fault of equilip: please report it)")
    checked = time.perf_counter() - checked
    certified = float((certify.radius(form, dataset.test_x, dataset.test_y, bound=bound) > EPS).double().mean())
    seconds = time.perf_counter() - start
    output.facts(
        f"{path}: an LBEN with gamma = 1 on digits",
        [
            *rows(found),
            ("largest slope, by construction", "1"),
            (
                "largest slope, proved",
                f"{five_digits(bound.value)} ({five_digits(bound.value_raw)} per unit of raw pixels)",
            ),
            ("certificate, checked without trusting equilip", f"VALID ({checked:.1f} s, exact integers)"),
            (f"test images that no change of l2 size {EPS:g} can turn", f"{100 * certified:.1f} %"),
        ],
    )
    output.line(f"done in {seconds:.0f} s; try next:")
    output.line(f"  equilip verify {certificate}")
    output.line(f"  equilip certify {path} --eps 0.1 0.2 0.5")
    output.line("  equilip train --data digits --model lben --gamma 0.3 --out runs/tighter")
    output.line("  equilip train --data mnist --model lben --width 80 --gamma 1.0 --out runs/mnist")
    slopes = {"declared": config.gamma, "certified": bound.value, "certified_raw": bound.value_raw}
    proof = {"certificate": str(certificate), "verified": verdict.valid, "eps": EPS, "certified_accuracy": certified}
    output.result({"run": str(path), **values, **slopes, **proof, "total_seconds": seconds})
    return 0
