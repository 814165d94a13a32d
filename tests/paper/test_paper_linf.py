"""The experiment in the maximum norm, tiny and on digits: carried out, gone on with, written down, and caught lying."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from equilip import checker
from equilip.cli import main
from equilip.errors import ConfigError, FormatError
from equilip.paper import EXPERIMENTS, nemon_mnist
from equilip.paper.experiment import Experiment, LinfMeasures
from equilip.paper.linf import collect, complete
from equilip.paper.page import account, html, markdown
from equilip.paper.work import carry_out

NAMES = ("nemon-boxes", "nemon-conv", "intervals", "lben")


def tiny(seed: int = 0) -> Experiment:
    whole = nemon_mnist.experiment(quick=True, limit=80, seed=seed, data="digits")
    networks = tuple(
        replace(network, config=replace(network.config, width=min(network.config.width, 8), batch=20, lr=1e-2))
        for network in whole.networks
        if network.name in NAMES
    )
    assert isinstance(whole.measures, LinfMeasures)
    measures = replace(whole.measures, eps=(0.01, 0.05), attacked=10, starts=2, rounds=1, seconds=0.5)
    return replace(whole, networks=networks, measures=measures)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("linf") / "out"
    carry_out(tiny(), out)
    return out


def test_every_network_is_measured(whole: Path) -> None:
    results = collect(tiny(), whole)
    assert [result.network.name for result in results] == list(NAMES)
    for result in results:
        assert result.eps == (0.01, 0.05)
        assert result.n_attacked == 10
        assert not result.bugs
        # What is certified of all samples: less at a larger distance, never more than what is classified right.
        assert 1 - result.test_error_percent / 100 + 1e-9 >= result.certified[0] >= result.certified[1]
        assert result.attacked[0] >= result.attacked[1]
        assert result.proved is not None
        assert 0 < result.largest_slope <= result.proved
        verdict = checker.check(whole / result.network.name / "certificate-linf.json")
        assert verdict.valid
        assert verdict.claims[0].bound == result.proved


def test_what_is_done_is_not_done_again(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "out"))
    said: list[tuple[str, str]] = []
    carry_out(tiny(), copy, said=lambda network, text: said.append((network, text)))
    assert said == []
    before = (copy / "lben" / "attack-linf.json").read_bytes()
    (copy / "lben" / "attack-linf.json").unlink()
    (copy / "intervals" / "certified-linf.json").write_text("{")
    assert not complete(copy / "lben")
    with pytest.raises(ConfigError, match="--resume"):
        collect(tiny(), copy)
    carry_out(tiny(), copy, said=lambda network, text: said.append((network, text)))
    assert {network for network, _ in said} == {"lben", "intervals"}
    again = json.loads((copy / "lben" / "attack-linf.json").read_bytes())
    assert {**again, "seconds": 0} == {**json.loads(before), "seconds": 0}
    with pytest.raises(ConfigError, match="was trained with seed"):
        carry_out(tiny(seed=1), copy)


def test_it_is_written_down(whole: Path) -> None:
    found = account(tiny(), whole, "equilip reproduce nemon-mnist --quick")
    text, page = markdown(found), html(found)
    for result in collect(tiny(), whole):
        assert f"{result.test_error_percent:.2f} %" in text
        assert f"{100 * result.certified[1]:.2f} % ({100 * result.attacked[1]:.1f} %)" in text
    assert "<svg" in page
    assert "published." not in page.split("</ul>")[1]
    assert "src=" not in page
    assert "A quick run" in text
    assert found.as_table()["experiment"] == "nemon-mnist"
    assert all(len(row) == len(table.columns) for _, table in found.tables() for row in table.rows)


def test_contradictions_and_damage_are_named(whole: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(whole, tmp_path / "out"))
    file = copy / "lben" / "attack-linf.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"bugs": ["the slope 9.0 above the bound 1.0"]}))
    assert any(sentence.startswith("BUG: LBEN") for sentence in account(tiny(), copy, "").sentences)
    file.write_text(json.dumps(values | {"robustness": 3}))
    with pytest.raises(FormatError, match="damaged"):
        collect(tiny(), copy)


def test_the_command_knows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*, quick: bool = False, seed: int = 0, limit: int | None = None, device: str = "cpu") -> Experiment:
        return replace(tiny(seed), networks=tiny(seed).networks[:1])

    monkeypatch.setitem(EXPERIMENTS, "nemon-mnist", made)
    out = tmp_path / "out"
    assert main(["reproduce", "nemon-mnist", "--out", str(out), "--json"]) == 0
    for name in ("reproduction.html", "reproduction.md", "reproduction.json", "certified-linf.svg"):
        assert (out / name).stat().st_size > 100
