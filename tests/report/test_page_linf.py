"""What the page says of a run in the maximum norm."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from equilip.report import figures, gather, look, render
from equilip.report.numbers import above, below, percent_below


def test_curves_and_slopes_are_shown(boxed: Path, complete: Path) -> None:
    found = look(boxed)
    assert found.notices == ()
    assert found.linf is not None
    assert found.linf.proved is not None
    assert found.linf.attacked is not None
    attack = json.loads((boxed / "attack-linf.json").read_text())
    assert attack["certified"] == found.linf.proved
    assert 0 < attack["largest_slope"] <= found.linf.proved
    text = re.sub(r"<[^>]*>", " ", render([found]))
    assert "Changes of every input" in text
    for row in attack["robustness"]:
        assert f"{100 * row['certified_accuracy']:.2f} %" in text
        assert f"{100 * row['attacked_accuracy']:.2f} %" in text
    assert found.linf.tightness_percent is not None
    for shown in (
        above(found.linf.proved),
        below(attack["largest_slope"]),
        percent_below(found.linf.tightness_percent),
    ):
        assert shown in text
    # One figure for all runs that have such results; the others are left out of it.
    both = gather([complete, boxed])
    drawing = figures.robustness_linf(both)
    assert drawing is not None
    assert "boxed: certified" in drawing
    assert "bounded" not in drawing
    assert "Changes of every input" in render(both)
    assert figures.robustness_linf(gather([complete])) is None
    assert "Changes of every input" not in render(gather([complete]))


def test_only_a_certificate_says_what_is_missing(boxed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(boxed, tmp_path / "run"))
    (run / "attack-linf.json").unlink()
    assert f"equilip attack {run} --norm linf" in render([look(run)])


def test_damage_and_contradictions_are_named(boxed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(boxed, tmp_path / "run"))
    values = json.loads((run / "attack-linf.json").read_text())
    (run / "attack-linf.json").write_text(json.dumps(values | {"largest_slope": 1e9}))
    assert any("above the proved bound" in notice.text and notice.serious for notice in look(run).notices)
    (run / "attack-linf.json").write_text("{")
    assert any("--norm linf" in notice.command and notice.serious for notice in look(run).notices)
    (run / "attack-linf.json").write_text(json.dumps(values))
    stated = json.loads((run / "certificate-linf.json").read_text())
    for claim in stated["claims"]:
        claim["bound"] = (float.fromhex(claim["bound"]) / 2).hex()
    (run / "certificate-linf.json").write_text(json.dumps(stated))
    found = look(run)
    assert any("certificate-linf.json proves nothing" in notice.text for notice in found.notices)
    assert found.linf is not None
    assert found.linf.proved is None
    assert "INVALID" in render([found])
