"""The page of a run in headless Chromium, from a file: nothing is fetched, and everything works."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from subbyte.app.report.page.rendering import write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from ..conftest import Cli, Run

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
WIDE, NARROW = 1280, 390


@dataclass
class Shown:
    """A page in the browser, and what it said and asked for since it was opened."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_inner_texts()]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def show(browser: Browser) -> Iterator[Any]:
    """show(file, width): the file in the browser, which at the end has complained of nothing."""
    opened: list[Shown] = []

    def run(path: Path, width: int = WIDE, scheme: Any = "light") -> Shown:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        shown = Shown(page)
        opened.append(shown)
        page.on("console", lambda m: shown.complaints.append(f"{m.type}: {m.text}"))
        page.on("pageerror", lambda error: shown.complaints.append(str(error)))
        page.on("request", lambda r: shown.complaints.append(r.url) if is_remote(r.url) else None)
        page.goto(path.absolute().as_uri())
        page.wait_for_selector(".js-plotly-plot .main-svg")
        return shown

    yield run
    for shown in opened:
        shown.page.close()
        assert shown.complaints == []


def is_remote(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))


@pytest.fixture(scope="module")
def classifier(digits: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a classifier's run whose layers were measured."""
    folder = tmp_path_factory.mktemp("page") / "run"
    shutil.copytree(digits.folder, folder)
    path = Path(__file__).parents[3] / "benchmarks" / "report.py"
    spec = importlib.util.spec_from_file_location("made_up_for_browser", path)
    assert spec is not None
    assert spec.loader is not None
    made_up = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made_up)
    names = ["conv1", "block1.conv1", "block1.add", "linear"]
    for name in ("w8a8", "w4a4"):
        variant = folder / "variants" / name
        (variant / "diagnosis.json").write_text(json.dumps(made_up.diagnosis(names, (4, 4))))
        (variant / "learning.json").write_text(json.dumps(made_up.learning(names)))
    write_page([folder], folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def detector(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a detector's run."""
    folder = tmp_path_factory.mktemp("scenes") / "run"
    settings = ["data.calibration_images=16", "data.evaluation_images=40", "runtimes=[onnxruntime]"]
    settings += ["variants.w4a4.method=range"]
    chosen = [word for setting in settings for word in ("--set", setting)]
    result = cli("run", "digit-scenes", "--only", "w4a4", *chosen, "--out", folder)
    assert result.exit_code == 0, result.stderr
    return folder / "report.html"


@pytest.fixture(scope="module")
def search(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a search."""
    folder = tmp_path_factory.mktemp("search") / "run"
    settings = ["data.calibration_images=32", "runtimes=[]"]
    settings += ["variants.small.method=range", "variants.small.search.builds=2"]
    chosen = [word for setting in settings for word in ("--set", setting)]
    result = cli("run", "digits", "--max-drop", "20", *chosen, "--out", folder)
    assert result.exit_code == 0, result.stderr
    return folder / "report.html"


def fits(shown: Shown) -> None:
    """Nothing is wider than the window, but for what scrolls by itself, and no text is cut off."""
    width = shown.page.evaluate("document.documentElement.scrollWidth")
    assert width <= shown.page.viewport_size["width"]  # type: ignore[index]
    cut = shown.page.evaluate(
        """() => [...document.querySelectorAll("p, h1, h2, h3, h4, figcaption, button, select, a")]
        .filter((e) => e.offsetParent && !e.closest(".scroll, nav"))
        .filter((e) => e.getBoundingClientRect().left < -1
          || e.getBoundingClientRect().right > innerWidth + 1)
        .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert cut == []


def test_a_table_is_sorted_both_ways(show: Any, classifier: Path) -> None:
    shown = show(classifier)
    size = shown.page.locator("#answer-table th", has_text="size")
    size.locator("button").click()
    assert size.get_attribute("aria-sort") == "ascending"
    sizes = [float(text.split()[0]) for text in shown.texts("#answer-table tr td:nth-child(5)")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 1
    size.locator("button").click()
    assert shown.texts("#answer-table tbody tr:first-child th")[0].startswith("float")
    latency = shown.page.locator("#answer-table th", has_text="latency")
    latency.locator("button").click()
    last = shown.page.locator("#answer-table tbody tr").last
    assert "simulation" in last.inner_text(), "what has no latency comes last"


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_a_click_on_a_layer_shows_its_histogram_and_channels(
    show: Any, classifier: Path, width: int
) -> None:
    shown = show(classifier, width)
    row = shown.page.locator("#layers .panel.on button.open", has_text="conv1").first
    row.click()
    detail = shown.page.locator("tr.detail")
    detail.locator(".js-plotly-plot").nth(1).wait_for()
    assert row.get_attribute("aria-expanded") == "true"
    assert detail.locator("b").all_inner_texts()[1] == "Weight: 4 bits, 512 channels"
    assert detail.locator(".shapelayer path").count() >= 16, "the steps of a 4-bit grid"
    fits(shown)
    row.click()
    assert detail.count() == 0


def test_a_click_on_a_bar_shows_the_layer(show: Any, classifier: Path) -> None:
    shown = show(classifier)
    chart = shown.page.locator("#layers .panel.on .chart.tall")
    chart.scroll_into_view_if_needed()
    box = chart.locator(".scatterlayer .points path").nth(3).bounding_box()
    shown.page.mouse.move(box["x"] + 3, box["y"] + 3)
    shown.page.mouse.down()
    shown.page.mouse.up()
    shown.page.locator("tr.detail").wait_for()
    assert shown.texts("tr:has(+ tr.detail) th")[0] == "linear"


def test_another_variant_is_shown_in_all_sections(show: Any, classifier: Path) -> None:
    shown = show(classifier)
    shown.page.locator("#layers select").first.select_option(label="w8a8")
    assert set(shown.texts(".panel.on h3")) == {"w8a8"}
    curve = shown.page.locator("#methods .panel.on select[data-curve]")
    curve.select_option(index=2)
    assert "block1.add" in shown.page.locator("#methods .panel.on .gtitle").text_content()


def test_colours_are_light_dark_or_as_the_system_has_them(show: Any, classifier: Path) -> None:
    def paper(shown: Shown) -> str:
        return str(shown.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert paper(show(classifier, scheme="dark")) == "rgb(20, 23, 26)"
    shown = show(classifier)
    grid = ".js-plotly-plot .gridlayer path"
    before = shown.page.locator(grid).first.evaluate("e => getComputedStyle(e).stroke")
    assert paper(shown) == "rgb(255, 255, 255)"
    for _ in range(2):
        shown.page.click("#theme")
    assert shown.texts("#theme") == ["Colours: dark"]
    assert paper(shown) == "rgb(20, 23, 26)"
    assert shown.page.locator(grid).first.evaluate("e => getComputedStyle(e).stroke") != before


def test_a_line_of_yaml_is_copied(show: Any, classifier: Path) -> None:
    shown = show(classifier)
    shown.page.locator("#layers .panel.on .copier").first.click()
    assert shown.texts("#layers .panel.on .copier")[0] == "Copied"
    text = shown.page.locator("#layers .panel.on .copy code").first.inner_text()
    assert shown.page.evaluate("getSelection().toString()").strip() == text.strip()


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_boxes_can_be_switched_off_one_kind_at_a_time(
    show: Any, detector: Path, width: int
) -> None:
    shown = show(detector, width)
    fits(shown)
    picture = shown.page.locator(".gallery .picture").first
    picture.scroll_into_view_if_needed()
    assert picture.locator("img").evaluate("i => i.complete && i.naturalWidth > 0")
    for kind in ("truth", "float", "quantized"):
        boxes = shown.page.locator(f".gallery rect.{kind}")
        assert boxes.count() > 0
        switch = shown.page.locator(f'.panel.on input[data-shows="{kind}"]')
        switch.uncheck()
        assert not boxes.first.is_visible()
        assert shown.page.locator(f".gallery rect:not(.{kind})").first.is_visible()
        switch.check()
        assert boxes.first.is_visible()


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_pages_of_a_search_and_of_a_classifier_fit(
    show: Any, search: Path, classifier: Path, width: int
) -> None:
    shown = show(search, width)
    fits(shown)
    assert "asked for 20" in shown.page.locator("#answer").inner_text()
    assert shown.page.locator('[data-chart="frontier"] .points path').count() >= 1
    fits(show(classifier, width))


def test_it_prints_in_light_colours_with_every_variant(show: Any, classifier: Path) -> None:
    shown = show(classifier, scheme="dark")
    shown.page.emulate_media(media="print")
    shown.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert shown.page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    assert shown.page.locator("#layers .panel:visible").count() == 2
    shown.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert shown.texts("#theme") == ["Colours: auto"]
