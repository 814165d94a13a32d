"""The page says what is known of a run, what is missing and what was refused; nothing that is in a run breaks it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equilip import checker
from equilip.cli import main
from equilip.errors import ConfigError, InputError
from equilip.report import gather, look, render, write
from equilip.report.numbers import above, below, error_bound, percent_below, ranges
from equilip.report.page import best, examples, telling
from equilip.report.pictures import difference, picture
from equilip.train import runs

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
#: What no name that a user chose may become.
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"


class Page(HTMLParser):
    """A page taken apart: its elements with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        inside = re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL)
        self.text = " ".join(unescape(re.sub(r"<[^>]*>", " ", inside)).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(*paths: Path) -> Page:
    return Page(render(gather(paths), now=NOON))


def edit(file: Path, change: Callable[[Any], None]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_a_complete_run(complete: Path) -> None:
    found = look(complete)
    shown = page(complete)
    assert found.notices == ()
    assert found.proved is not None
    assert found.attacked is not None
    assert "VALID" in shown.text
    assert hashlib.sha256((complete / "certificate.json").read_bytes()).hexdigest() in shown.text
    assert runs.stored_sha256(complete) in shown.text
    assert f"equilip verify {complete / 'certificate.json'}" in shown.text
    evaluation = json.loads((complete / "evaluation.json").read_text())
    attack = json.loads((complete / "attack.json").read_text())
    assert f"{evaluation['test_error_percent']:.2f} %" in shown.text
    for row in attack["robustness"]:
        assert f"{100 * row['certified_accuracy']:.2f} %" in shown.text
        assert f"{100 * row['attacked_accuracy']:.2f} %" in shown.text
    claims = {claim.units: claim.bound for claim in checker.check(complete / "certificate.json").claims}
    assert (found.proved, found.proved_raw) == (claims["standardised"], claims["raw"])
    for number in (above(found.proved), below(attack["largest_slope"]), percent_below(found.tightness_percent or 0)):
        assert number in shown.text
    assert 0 < (found.tightness_percent or 0) <= 100
    assert "21 November 2026, 12:00 UTC" in shown.text
    assert "60 samples" in shown.text
    assert len(shown.named("svg")) >= 5
    assert len(shown.named("img")) == 3 * len(examples(found))


def test_the_page_needs_nothing_and_runs_nothing(complete: Path, plain: Path) -> None:
    shown = page(complete, plain)
    for _, attributes in shown.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not [name for name in attributes if name.startswith("on")]
    assert not shown.named("script")
    html = render(gather([complete, plain]), now=NOON)
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_what_is_missing_is_named_with_its_command(complete: Path, tmp_path: Path) -> None:
    for name in ("config.toml", "model.safetensors", "form.safetensors"):
        shutil.copy(complete / name, tmp_path / name)
    shown = page(tmp_path)
    for command in ("evaluate", "certify", "attack"):
        assert f"equilip {command} {tmp_path}" in shown.text
    assert not [notice for notice in look(tmp_path).notices if notice.serious]
    (tmp_path / "form.safetensors").unlink()
    assert f"equilip train --resume {tmp_path}" in page(tmp_path).text
    shutil.copy(complete / "metrics.jsonl", tmp_path)
    assert "Errors." in page(tmp_path).text


@pytest.mark.parametrize("name", ["evaluation", "attack"])
def test_results_of_another_form_are_left_out(run: Path, name: str) -> None:
    edit(run / f"{name}.json", lambda values: values.update(form="0" * 64))
    found = look(run)
    assert getattr(found, {"evaluation": "evaluated", "attack": "attacked"}[name]) is None
    (notice,) = found.notices
    assert "speaks of another form (sha256 000000000000...)" in notice.text
    assert notice.command.startswith(f"equilip {name.replace('evaluation', 'evaluate')} ")
    assert notice.text in page(run).text


def test_samples_of_another_form_are_left_out(run: Path) -> None:
    with np.load(run / "attack.npz") as stored:
        arrays = dict(stored)
    np.savez(run / "attack.npz", **{**arrays, "form_sha256": np.array("1" * 64)})
    found = look(run)
    assert found.outcome is None
    assert found.attacked is not None
    assert "speaks of another form" in found.notices[0].text
    shown = page(run)
    assert not shown.named("img")
    assert "No samples yet" in shown.text


DAMAGED: list[bytes | Callable[[Any], None]] = [
    b"",
    b"[]",
    b"{}",
    b"\xff\xfe",
    b"[" * 100_000,
    lambda values: values.update(format="equilip.attack/9"),
    lambda values: values.update(n="many"),
    lambda values: values.update(n=None),
    lambda values: values.update(seconds=float("nan"), largest_slope=float("nan")),
    lambda values: values.update(largest_slope=10**400, test_error_percent=10**400),
    lambda values: values.update(robustness=3, test_error_percent=[]),
    lambda values: values.update(robustness=[{"eps": 1}], iterations={}),
]


@pytest.mark.parametrize("name", ["evaluation", "attack"])
@pytest.mark.parametrize("damage", range(len(DAMAGED)))
def test_damaged_results(run: Path, name: str, damage: int) -> None:
    file, change = run / f"{name}.json", DAMAGED[damage]
    if isinstance(change, bytes):
        file.write_bytes(change)
    else:
        edit(file, change)
    notices = look(run).notices
    assert len(notices) == 1
    assert notices[0].serious
    assert str(file) in notices[0].text
    page(run)


@pytest.mark.parametrize("name", ["metrics.jsonl", "attack.npz", "form.safetensors", "model.safetensors"])
def test_damaged_files(run: Path, name: str) -> None:
    (run / name).write_bytes((run / name).read_bytes()[:-40])
    notices = [notice for notice in look(run).notices if notice.serious]
    assert len(notices) == 1
    assert name in notices[0].text
    page(run)


def test_a_certificate_that_claims_too_much(run: Path) -> None:
    def halve(values: Any) -> None:
        values["claims"][0]["bound"] = (float.fromhex(values["claims"][0]["bound"]) / 2).hex()

    edit(run / "certificate.json", halve)
    found = look(run)
    assert (found.proved, found.proved_raw, found.tightness_percent) == (None, None, None)
    shown = page(run)
    assert "INVALID" in shown.text
    assert "Every input has exactly one equilibrium" not in shown.text
    assert main(["report", str(run)]) == 1


def test_a_certificate_of_another_network_beside_it(run: Path, plain: Path) -> None:
    # Valid by itself: it names a form that lies there too. But this run is about form.safetensors.
    shutil.copy(plain / "form.safetensors", run / "other.safetensors")
    shutil.copy(plain / "certificate.json", run / "certificate.json")
    edit(run / "certificate.json", lambda values: values["form"].update(file="other.safetensors"))
    assert checker.check(run / "certificate.json").valid
    assert look(run).proved is None
    assert "for another form" in page(run).text


def test_a_certificate_that_is_none(run: Path) -> None:
    (run / "certificate.json").write_text("{")
    assert "UNREADABLE" in page(run).text
    (run / "certificate.json").unlink()
    (run / "certificate.json").mkdir()
    assert "UNREADABLE" in page(run).text


def test_contradictions_are_shouted(run: Path) -> None:
    edit(run / "attack.json", lambda values: values.update(largest_slope=50.0, bugs=["runs/x/attack-bug.npz"]))
    texts = [notice.text for notice in look(run).notices if notice.serious]
    assert len(texts) == 2
    assert "runs/x/attack-bug.npz" in texts[0]
    assert "above the proved bound" in texts[1]
    assert main(["report", str(run)]) == 1


def test_what_users_wrote_stays_text(complete: Path, tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE.replace("/", "∕")
    shutil.copytree(complete, folder)
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(
        config.replace('"digits"', json.dumps(HOSTILE)).replace('"x86_64"', json.dumps(HOSTILE))
    )
    for name in ("evaluation", "attack"):
        edit(folder / f"{name}.json", lambda values: values.update(data=HOSTILE, bugs=[HOSTILE]))
    edit(folder / "certificate.json", lambda values: values.update(format=HOSTILE))
    for shown in (page(folder), page(folder, complete)):
        assert not shown.named("script")
        assert all((attributes.get("src") or "").startswith("data:") for attributes in shown.named("img"))
        assert HOSTILE in shown.text


def test_several_runs(complete: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = Path(shutil.copytree(complete, tmp_path / "bounded"))
    found = gather([complete, plain])
    assert [each.name for each in found] == ["bounded", "plain"]
    assert [each.name for each in gather([complete, again])] == [str(complete), str(again)]
    shown = page(complete, plain)
    assert "2 networks compared" in shown.text
    assert {each.get("id") for each in shown.named("details")} == {"run-1", "run-2"}
    labels = [each.get("aria-label") for each in shown.named("svg")]
    assert "Accuracy without perturbation against certified accuracy" in labels
    assert "Clean and certified accuracy over the declared bound" not in labels, "only one declares a bound"
    sizes = telling(found)
    assert set(sizes) <= {0.1, 0.3, 0.8}
    for size in sizes:
        most = max(each.certified_accuracy(size) or 0 for each in found)
        first = best(found, size)
        assert (first.certified_accuracy(size) if first else 0) == most
    assert "compare their accuracies with care" not in shown.text
    edit(again / "attack.json", lambda values: values.update(n=30))
    assert "compare their accuracies with care" in page(complete, again).text
    capsys.readouterr()
    out = tmp_path / "new" / "both.html"
    assert main(["report", str(complete), str(plain), "--out", str(out), "--eps", "0.25", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["report"] == str(out)
    assert [each["verdict"] for each in said["runs"]] == ["VALID", "VALID"]
    assert 0 < said["runs"][0]["tightness_percent"] <= 100
    assert "ε = 0.25" in Page(out.read_text()).text


def test_a_table_has_no_pictures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 3)).astype(np.float32)
    np.savez(tmp_path / "t.npz", X=x, y=(x[:, 0] > 0).astype(int))
    out = tmp_path / "table"
    command = ["train", "--data", f"npz:{tmp_path / 't.npz'}", "--gamma", "1", "--width", "5", "--epochs", "2"]
    assert main([*command, "--out", str(out)]) == 0
    assert main(["attack", str(out), "--eps", "0.1"]) == 0
    shown = page(out)
    assert not shown.named("img")
    assert "there are no pictures" in shown.text


def test_what_is_monotone_is_said_where_it_is_proved(tmp_path: Path, complete: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 6))
    np.savez(tmp_path / "table.npz", X=X, y=np.digitize(X[:, 0] - X[:, 5], (-0.5, 0.5)))
    out = tmp_path / "run"
    model = ["--model", "monotonic", "--gamma", "1", "--increasing", "0", "1", "2", "4", "--decreasing", "5"]
    data = ["--data", f"npz:{tmp_path / 'table.npz'}", "--width", "4", "--epochs", "1"]
    assert main(["train", *data, *model, "--out", str(out), "--json"]) == 0
    assert main(["certify", str(out), "--json"]) == 0
    text = page(out).text
    assert "output 2 never falls where input 0 to 2, 4 grows: slope at least 0, proved" in text
    assert "outputs 0, 1 never fall where input 5 grows: slope at least 0, proved" in text
    assert "output 2 never rises where input 5 grows: slope at most 0, proved" in text
    assert "outputs 0, 1 never rise where input 0 to 2, 4 grows: slope at most 0, proved" in text
    assert "monotone" not in page(complete).text

    def turned(certificate: Any) -> None:
        for claim in certificate["claims"]:
            if claim["kind"] == "monotone":
                claim["directions"][0][0] = 1

    edit(out / "certificate.json", turned)
    shown = page(out).text
    assert "INVALID" in shown
    assert "never falls" not in shown


@pytest.mark.parametrize(
    ("numbers", "said"), [([], ""), ([3], "3"), ([0, 1], "0, 1"), ([0, 1, 2, 4, 7, 8, 9], "0 to 2, 4, 7 to 9")]
)
def test_numbers_in_a_row_are_short(numbers: list[int], said: str) -> None:
    assert ranges(numbers) == said


def test_mistakes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        capsys.readouterr()
        assert main(["report", *arguments]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert "does not exist" in said(str(tmp_path / "none"))
    assert "it has no config.toml" in said(str(tmp_path))
    assert "is not a number of at least 0" in said(str(run), "--eps", "-1")
    assert "choose another --out" in said(str(run), "--out", str(run / "config.toml" / "x.html"))
    with pytest.raises(InputError):
        render([])
    with pytest.raises(ConfigError):
        write(gather([run]), run)


def pixels(address: str) -> np.ndarray:
    """The image at a data: address, decoded by hand."""
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    place, parts = 8, {}
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        assert struct.unpack(">I", content[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + data)
        parts[kind] = data
        place += 12 + size
    width, height, depth, colour = struct.unpack(">IIBB", parts[b"IHDR"][:10])
    assert depth == 8
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), dtype=np.uint8).reshape(height, -1)
    assert (lines[:, 0] == 0).all()
    return lines[:, 1:].reshape(height, width, {2: 3, 6: 4}[colour])


def test_pictures_show_their_numbers() -> None:
    grey = torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0, 0.25])
    shown = pixels(picture(grey, (1, 2, 3)) or "")
    assert shown.tolist() == [[[v] * 3 for v in row] for row in ([0, 128, 255], [255, 0, 64])]
    colour = torch.arange(12) / 11
    shown = pixels(picture(colour, (3, 2, 2)) or "")
    assert np.allclose(shown, (colour.reshape(3, 2, 2).permute(1, 2, 0) * 255).numpy(), atol=0.5)
    change = pixels(difference(grey, grey + torch.tensor([0.0, 0.1, -0.2, 0, 0, 0.2]), (1, 2, 3)) or "")
    assert change[..., 3].tolist() == [[0, 128, 255], [0, 0, 255]] or abs(int(change[0, 1, 3]) - 128) <= 1
    assert change[0, 1, 0] > change[0, 1, 2], "brighter is red"
    assert change[0, 2, 2] > change[0, 2, 0], "darker is blue"
    assert pixels(difference(grey, grey, (1, 2, 3)) or "")[..., 3].max() == 0
    assert picture(grey, (1, 1, 6)) is None
    assert difference(grey, grey, (2, 3, 1)) is None


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_numbers_that_are_shown_hold(value: float) -> None:
    assert float(below(value)) <= value <= float(above(value))
    assert float(below(value, 3)) <= value <= float(above(value, 3))
    assert float(error_bound(value)) >= value
    assert error_bound(0.0) == "0"
    assert float(above(value)) <= value * 1.0002
    assert float(percent_below(value).removesuffix(" %")) <= value


def test_numbers_that_are_shown_are_short() -> None:
    assert above(0.123451) == "0.12346"
    assert above(123456.0) == "123460"
    assert above(1.0) == "1"
    assert below(0.123459) == "0.12345"
    assert above(0.0) == "0"
