"""Tables, the front of families that none beats, and the page: they say what was measured."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from compare_results import everything, measured, result

from equilip.compare import page, tables
from equilip.compare.families import EVERY, FAMILIES
from equilip.compare.results import Comparison
from equilip.compare.settings import Settings

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def test_the_front_is_what_nobody_beats() -> None:
    places = {"lben": (0.9, 0.8), "cpl": (0.95, 0.5), "sll": (0.9, 0.7), "aol": (0.97, 0.1), "plain": (0.97, 0.05)}
    chosen = {family.name: family for family in FAMILIES}
    results = tuple(result(chosen[name], measured(clean, (share,))) for name, (clean, share) in places.items())
    found = Comparison(Settings("digits", eps=(0.5,)), results, ())
    assert [one.family.name for one in found.front(0)] == ["aol", "cpl", "lben"]


def test_spreads_and_gaps_in_the_tables() -> None:
    found = everything()
    table = tables.accuracy(found)
    rows = {row[0]: row for row in table.rows}
    assert rows["LBEN"][1] == "90.5 ± 0.5"
    assert rows["LBEN"][-3:] == ("1", "0.9", "90 %")
    assert rows["monDEQ"][-3] == rows["monDEQ"][-1] == "–"
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert [len(row) for row in tables.cost(found).rows] == [len(tables.cost(found).columns)] * 13
    assert tables.sentences(found)[0] == "monotonic is not compared: this data has ten classes."
    assert "monDEQ" in tables.sentences(found)[1]
    assert tables.sentences(everything(("runs/a-bug.npz",)))[-1].startswith("BUG")


def test_what_is_not_equal_is_said() -> None:
    chosen = {family.name: family for family in EVERY}
    slow = result(chosen["lben-conv"], measured(0.9, (0.5,), epochs=1, train_seconds=30.0))
    large = result(chosen["cpl-conv"], measured(0.9, (0.5,), parameters=5_000))
    fair = result(chosen["plain"], measured(0.9, (0.5,), train_seconds=4.2))
    found = Comparison(Settings("digits", eps=(0.5,), parameters=6_000, seconds=4.0), (slow, large, fair), ())
    assert tables.sentences(found) == [
        "LBEN conv took 30 s to train: that is one pass over the data.",
        "CPL conv has 5,000 parameters, as near to 6,000 as its sizes allow.",
    ]


def test_the_page_and_its_companions(tmp_path: Path) -> None:
    account = page.Account(everything(("<b>bug</b>",)), "equilip compare --data digits", NOW)
    path = page.write(account, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "&lt;b&gt;bug" in text
    assert text.count('<svg class="chart"') == 4
    assert all(label in text for label in ("LBEN", "plain + CLIP", "orthogonal (Cayley)"))
    values = json.loads((tmp_path / "comparison.json").read_text())
    assert values["families"][0]["runs"][1]["tightness"] == 0.9
    assert values["families"][1]["runs"][0]["bound"] is None
    assert values["front"][0]["eps"] == 0.1
    assert values["date"] == "2026-11-21T00:00:00+00:00"
    written = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert written.startswith("`equilip compare --data digits`: 21 November 2026, seeds 0, 1")
    assert written.count("| LBEN |") == 2
