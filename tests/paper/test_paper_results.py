"""What is said of results: targets met and missed, rounding that holds, a page that loads nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from equilip.paper import EXPERIMENTS
from equilip.paper.charts import charts
from equilip.paper.page import Account, html, markdown
from equilip.paper.results import Result
from equilip.paper.tables import fast_gradient, overview, verdicts
from equilip.report.plots import standalone

EXPERIMENT = EXPERIMENTS["lben-mnist"]()
NETWORKS = {network.name: network for network in EXPERIMENT.networks}


def result(name: str = "lben-1", **changes: object) -> Result:
    network = NETWORKS[name]
    gamma = network.config.gamma
    base = Result(
        network=network,
        test_error_percent=2.5,
        unconverged=0,
        train_unconverged=0,
        largest_slope=0.91239,
        gamma=gamma,
        proved=0.95001,
        eps=EXPERIMENT.measures.sizes,
        fast_gradient_error=tuple(0.02 * k for k in range(40)),
        seconds=70.0,
        bugs=(),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


ALL = [result(name) for name in NETWORKS]
ACCOUNT = Account(EXPERIMENT, ALL, "equilip reproduce lben-mnist", datetime(2026, 11, 21, tzinfo=UTC))


@pytest.mark.parametrize(("error", "kept"), [(2.36, True), (2.66, True), (2.67, False), (0.0, True)])
def test_an_error_is_reproduced_up_to_three_tenths_of_a_point(error: float, kept: bool) -> None:
    assert result(test_error_percent=error).error_reproduced is kept
    assert result("plain", test_error_percent=error).error_reproduced is None
    # Trained with other settings than the published one: beside it, but never a reproduction of it.
    assert result("lmt-0.02", test_error_percent=error).error_reproduced is None


@pytest.mark.parametrize(("slope", "proved", "kept"), [(0.87, 1.0, True), (0.86, 1.0, False), (0.86, None, False)])
def test_a_bound_is_reproduced_if_it_is_as_tight(slope: float, proved: float | None, kept: bool) -> None:
    assert result(largest_slope=slope, proved=proved).tightness_reproduced is kept
    assert result("lben-0.3", largest_slope=slope, proved=proved).tightness_reproduced is None
    assert result("monotone", largest_slope=slope, proved=proved).tightness_reproduced is None


def test_what_was_missed_is_named_with_its_size() -> None:
    found = verdicts(
        [result(test_error_percent=2.86), result("lben-5", test_error_percent=2.0, largest_slope=2.0, proved=4.0)]
    )
    assert "1 of 2 test errors" in found[0]
    assert "LBEN, γ = 1 (by 0.50 points)" in found[0]
    assert "1 of 2 bounds" in found[1]
    assert "LBEN, γ = 5 (50.0 %)" in found[1]
    lost = verdicts([result("unconstrained", unconverged=3, train_unconverged=7, proved=None)])
    assert any("3 test samples" in sentence and "7 training samples" in sentence for sentence in lost)
    assert any(sentence.startswith("BUG") for sentence in verdicts([result(bugs=("attack-bug.npz",))]))
    assert not any("BUG" in sentence for sentence in verdicts(ALL))
    assert verdicts(ALL)[0].startswith("3 of 7 ")
    assert any("Not compared" in sentence and "margin 0.02, feed" in sentence for sentence in verdicts(ALL))


def test_a_shortened_run_is_held_against_nothing() -> None:
    for options in ({"quick": True}, {"limit": 50}):
        networks = {network.name: network for network in EXPERIMENTS["lben-mnist"](**options).networks}
        short = [result(name, network=networks[name]) for name in ("lben-1", "lben", "plain", "lmt-0.02")]
        (sentence,) = verdicts(short)
        assert sentence.startswith("Not compared, as ours were trained for less long, or on fewer samples: LBEN, γ = 1")
        assert all(own.error_reproduced is None and own.tightness_reproduced is None for own in short)
        # They still stand beside each other.
        assert "2.36 %" in overview(short).markdown()


def test_numbers_are_rounded_so_that_they_hold() -> None:
    (row,) = overview([result()]).rows
    assert row == ("LBEN, γ = 1", "2.50 %", "2.36 %", "0.9123", "0.8648", "0.9501", "96.04 %", "91.23 %", "86.5 %")
    (row,) = overview([result("plain", proved=None)]).rows
    assert row[2] == row[4] == row[5] == row[6] == row[7] == row[8] == "–"


def test_the_second_table_takes_sizes_that_were_measured() -> None:
    table = fast_gradient(ALL)
    assert table.columns == ("network", "ε = 0.7787", "ε = 1.5474", "ε = 3.0849", "ε = 6.1597")
    rows = dict(zip(NETWORKS, table.rows, strict=True))
    assert rows["lben-1"][1] == "4.0 % (2.1 %)"
    assert rows["plain"][1] == "4.0 %"


def test_markdown_is_a_table_with_its_circumstances() -> None:
    text = markdown(ACCOUNT)
    assert "`equilip reproduce lben-mnist`: 21 November 2026, seed 0" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        lines = table.splitlines()
        assert len(lines) == 2 + len(ALL)
        assert len({line.count("|") for line in lines}) == 1
    assert "compare with nothing" not in text
    assert "compare with nothing" in markdown(replace(ACCOUNT, experiment=EXPERIMENTS["lben-mnist"](quick=True)))


def test_the_page_loads_nothing_and_escapes_what_it_shows() -> None:
    bad = replace(NETWORKS["plain"], label="<script>alert(1)</script>&")
    page = html(replace(ACCOUNT, results=[*ALL, result("plain", network=bad)]))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not re.findall(r"(?:src|href)\s*=|url\(|@import", page)
    assert page.count("<svg") == 3
    assert page.count("<tr>") == 2 * (1 + len(ALL) + 1)
    for network in EXPERIMENT.networks:
        assert network.label in page


def test_every_figure_shows_what_was_published_too() -> None:
    found = charts(ALL)
    assert set(found) == {"error-and-slope", "fast-gradient-bounded", "fast-gradient-others"}
    assert found["fast-gradient-bounded"][1].count("dashed") >= 4
    assert "published" in found["error-and-slope"][1]
    for _, svg in found.values():
        assert standalone(svg).startswith("<svg xmlns=")
    assert set(charts([result("plain")])) == {"error-and-slope", "fast-gradient-others"}
