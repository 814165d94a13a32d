"""The page in a real browser: nothing is logged, loaded, or sticks out, in both schemes and at two widths."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from equilip.report import gather, write

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (apt-get install chromium)")

#: Milliseconds: busy machines start browsers slowly.
PATIENCE = 240_000
OPTIONS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
LUMINANCE = """element => {
  const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  let behind = element;
  const ground = () => parse(getComputedStyle(behind).backgroundColor);
  while (behind.parentElement && (ground()[3] ?? 1) === 0) behind = behind.parentElement;
  const style = getComputedStyle(element);
  const ink = parse(element instanceof SVGElement ? style.fill : style.color);
  const [dark, bright] = [light(ink), light(ground())].sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
}"""

#: Pairs of texts in a chart that cover each other.
COLLISIONS = """() => [...document.querySelectorAll('.chart')].flatMap(chart => {
  const texts = [...chart.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  return texts.flatMap(([one, a], i) => texts.slice(i + 1)
    .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
      && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
    .map(([other]) => one + ' / ' + other));
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(OPTIONS), timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["one", "several"])
def page(request: pytest.FixtureRequest, complete: Path, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    bare = folder / "a-run-with-a-long-name-of-which-little-is-known-as-yet"
    bare.mkdir()
    for name in ("config.toml", "model.safetensors", "form.safetensors", "evaluation.json"):
        shutil.copy(complete / name, bare / name)
    paths = [complete] if request.param == "one" else [complete, plain, bare]
    write(gather(paths), folder / "report.html")
    return folder / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(browser: Any, page: Path, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(PATIENCE)
    shown = context.new_page()
    said: list[str] = []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    asked: list[str] = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(page.as_uri())
    for part in shown.locator("details").all():
        part.locator("summary").click()
    assert shown.locator("h1").is_visible()
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    dark = shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 19, 24)"
    assert dark == (scheme == "dark")
    # What is written can be read: WCAG asks for a contrast of 4.5.
    for kind in (".note", "dt", "td", ".badge", ".tile p", ".command", ".chart .tick", ".chart .name", "figcaption"):
        assert shown.locator(kind).first.evaluate(LUMINANCE) >= 4.5, kind
    small = shown.evaluate(
        "Math.min(...[...document.querySelectorAll('.chart text')].map(t => t.getBoundingClientRect().height))"
    )
    assert small >= 10, "text in charts keeps a size that can be read on a phone"
    assert shown.evaluate(COLLISIONS) == []
    heights = shown.evaluate("[...document.querySelectorAll('.compare tr')].map(row => row.offsetHeight)")
    assert max(heights, default=0) < 200, "names of runs are not broken letter by letter"
    context.close()
