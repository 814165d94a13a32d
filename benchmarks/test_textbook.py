"""The baseline is right: it finds the same equilibrium and the same gradient as equilip, when asked to be accurate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import textbook
from benchmarks.table import Report, Target
from equilip import nn
from equilip.solve import Settings


def twins(n: int, gamma: float, tolerance: float) -> tuple[nn.LBEN, textbook.TextbookLBEN]:
    generator = torch.Generator().manual_seed(n)
    settings = Settings(tolerance=1e-12)
    ours = nn.LBEN(20, n, 5, gamma, settings=settings, dtype=torch.float64, generator=generator)
    return ours, textbook.TextbookLBEN(ours, alpha=0.3, tolerance=tolerance)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 5.0])
def test_same_equilibrium_and_same_gradients(gamma: float) -> None:
    ours, theirs = twins(30, gamma, 1e-14)
    x = torch.randn(16, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, expected = theirs(x), ours(x)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-10)
    y.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(parameter.grad, ours.get_parameter(name).grad, rtol=1e-8, atol=1e-9)


def test_adjoint_solves_its_equation() -> None:
    ours, _ = twins(30, 1.0, 1e-14)
    with torch.no_grad():
        W = ours.form().W.dense()
    generator = torch.Generator().manual_seed(1)
    bias, g = (torch.randn(16, 30, dtype=W.dtype, generator=generator) for _ in range(2))
    V = textbook.inverse(W, 0.3)
    z = textbook.equilibrium(V, bias, 0.3, tolerance=1e-14).point
    y = textbook.adjoint(V, z, g, 0.3, tolerance=1e-14).point
    torch.testing.assert_close(y, (z > 0) * (y @ W + g))


def test_halving_stops_before_iterations_grow() -> None:
    counts = {1.0: 40, 0.5: 20, 0.25: 20, 0.125: 21}
    assert textbook.halve(counts.__getitem__) == 0.25


def test_a_negative_tolerance_runs_all_iterations() -> None:
    V = textbook.inverse(torch.zeros(3, 3), 1.0)
    assert textbook.equilibrium(V, torch.ones(2, 3), 1.0, tolerance=-1, max_iterations=17).iterations == 17


def test_targets_compare_the_right_way_round() -> None:
    assert Target("", 2.0, at_most=2.4).met
    assert not Target("", 2.5, at_most=2.4).met
    assert Target("", 18.0, at_least=18).met
    assert not Target("", 17.9, at_least=18).met


def test_a_report_is_written_whole(tmp_path: Path) -> None:
    report = Report()
    report.table("A", "note").add(solver="ours", its=3, ms=0.123456)
    report.targets.append(Target("speed", 2.0, at_most=2.4))
    for path in report.write(tmp_path):
        text = path.read_text(encoding="utf-8")
        assert "speed" in text
        assert "0.123" in text
