"""The page in a real browser: drawings, requests, accessibility."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from losslab.losses import FocalLoss
from losslab.metrics import find_mistakes
from losslab.report.curves import curve
from losslab.report.records import setting_predictions
from losslab.study import group_by_setting, read_results

pytestmark = pytest.mark.slow

AXE = Path(__file__).parents[2] / ".browser" / "axe.min.js"
STUDIES = ("gamma_study", "single_study", "search_study", "hostile_study", "tuned_study")
PHONE, DESKTOP = 400, 1280


def missing(what: str) -> None:
    """Skip the test; fail if REQUIRE_BROWSER is set."""
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing; .ci/run installs it")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium, which keeps a log of its console and of every request."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing("chromium with chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    chrome.set_script_timeout(60)
    chrome.downloads = tmp_path_factory.mktemp("downloads")
    chrome.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(chrome.downloads)})
    yield chrome
    chrome.quit()


def open_page(browser: Any, study: Path, width: int = DESKTOP, dark: bool = False) -> None:
    """Open a study's page from disk and wait until it is drawn."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(f"file://{quote(str(study / 'report.html'))}")
    wait_for(lambda: browser.execute_script("return document.documentElement.dataset.ready") == "yes")


def wait_for(condition: Any, seconds: float = 30) -> None:
    """Wait until the condition holds, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the page did not get there"
        time.sleep(0.05)


def drawn(browser: Any, figure: str) -> list[dict[str, Any]]:
    """Return the traces of a figure as Plotly holds them."""
    return browser.execute_script(
        "return JSON.parse(JSON.stringify(document.querySelector(`[data-figure='${arguments[0]}'] .plot`).data))",
        figure,
    )


def choose(browser: Any, within: str, name: str, option: str) -> None:
    """Choose an option of a list as a reader does."""
    from selenium.webdriver.support.ui import Select

    found = browser.find_element("css selector", f"{within} select[name='{name}']")
    Select(found).select_by_visible_text(option)


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_opens_draws_and_asks_for_nothing(
    browser: Any, study: str, width: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(study)
    open_page(browser, folder, width)
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:"))] == []
    assert len([url for url in urls if url.startswith("file:")]) == 1
    assert browser.title == f"{folder.name} – losslab"
    boxes = browser.execute_script("return [...document.querySelectorAll('[data-figure]')].map(b => b.dataset.figure)")
    assert {"precision-recall", "plane", "confusion", "calibration", "learning", "history"} <= set(boxes)
    for figure in boxes:
        marks = browser.execute_script(
            "return document.querySelectorAll(`[data-figure='${arguments[0]}'] .plot :is("
            ".scatterlayer path.point, .scatterlayer path.js-line, .heatmaplayer image, .barlayer path)`).length",
            figure,
        )
        assert marks > 0, figure
    widest = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert widest[0] <= widest[1] == width
    too_wide = browser.execute_script(
        "return [...document.querySelectorAll('.plot svg.main-svg, button, select, img, h1, h2, h3, p')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert too_wide == []


def test_what_is_drawn_are_the_results(browser: Any, gamma_study: Path) -> None:
    open_page(browser, gamma_study)
    settings = group_by_setting(read_results(gamma_study))
    lines = [trace for trace in drawn(browser, "precision-recall") if "fill" not in trace]
    assert len(lines) == 22
    for metric in ("precision", "recall"):
        for panel, name in enumerate(["macro", *settings[0].classes]):
            axis = f"x{panel + 1}" if panel else "x"
            (line,) = [trace for trace in lines if trace["name"] == metric and trace["xaxis"] == axis]
            assert line["y"] == pytest.approx([s.mean_sd(f"val/{metric}/{name}")[0] for s in settings], abs=1e-5)
    points = "return document.querySelectorAll(\"[data-figure='precision-recall'] .scatterlayer path.point\").length"
    assert browser.execute_script(points) == 22 * 3
    table = browser.execute_script(
        "return [...document.querySelectorAll(\"[data-figure='precision-recall'] tbody tr\")]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert [row[0] for row in table] == [setting.label for setting in settings]
    assert table[1][2].startswith(f"{settings[1].mean_sd('val/precision/macro')[0]:.4f}")


def test_the_slider_moves_with_the_keyboard_and_shows_the_loss(browser: Any, gamma_study: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    open_page(browser, gamma_study)
    slider = browser.find_element("css selector", "[data-figure='loss'] input[type='range']")
    output = browser.find_element("css selector", "[data-figure='loss'] output")
    assert output.text == "2"
    slider.send_keys(Keys.ARROW_RIGHT)
    assert output.text == slider.get_attribute("aria-valuetext") == "2.25"
    slider.send_keys(Keys.END)
    assert output.text == "5"
    values, gradients = curve(FocalLoss(5))
    shown = [trace for trace in drawn(browser, "loss") if trace["name"] == "γ = 5"]
    assert [trace["y"] for trace in shown] == [pytest.approx(values, rel=1e-4), pytest.approx(gradients, rel=1e-4)]


def test_a_chosen_setting_is_the_one_that_is_drawn(browser: Any, gamma_study: Path) -> None:
    open_page(browser, gamma_study)
    before = drawn(browser, "confusion")
    choose(browser, "[data-figure='confusion']", "setting", "gamma=0")
    after = drawn(browser, "confusion")
    assert before[0]["z"] != after[0]["z"]
    difference = [trace for trace in after if trace["type"] == "heatmap"][1]
    assert {value for row in difference["z"] for value in row} == {0}  # the baseline minus itself
    choose(browser, "[data-figure='plane']", "class", "7")
    highlighted = drawn(browser, "plane")[-1]
    settings = group_by_setting(read_results(gamma_study))
    assert highlighted["name"] == "7"
    assert highlighted["x"] == pytest.approx([s.mean_sd("val/recall/7")[0] for s in settings], abs=1e-5)


def test_the_gallery_shows_the_mistakes_that_are_asked_for(browser: Any, gamma_study: Path) -> None:
    open_page(browser, gamma_study)
    settings = {setting.label: setting for setting in group_by_setting(read_results(gamma_study))}
    predictions = setting_predictions(gamma_study, settings["gamma=0"], 0)
    assert predictions is not None
    found = find_mistakes(predictions.logits, predictions.labels)[:60]
    choose(browser, "#gallery", "setting", "gamma=0")
    alts = "return [...document.querySelectorAll('#gallery img')].map(image => image.alt)"
    shown = browser.execute_script(alts)
    expected = [f"Image {m.image} of the validation split, {m.true} called {m.predicted}" for m in found]
    assert shown == expected
    true, predicted = str(found[0].true), str(found[0].predicted)
    choose(browser, "#gallery", "true", true)
    assert browser.execute_script(alts) == [alt for alt in expected if f", {true} called" in alt]
    choose(browser, "#gallery", "called", predicted)
    assert browser.execute_script(alts) == [alt for alt in expected if alt.endswith(f", {true} called {predicted}")]
    broken = "return [...document.querySelectorAll('#gallery img')].filter(i => i.complete && !i.naturalWidth).length"
    assert browser.execute_script(broken) == 0
    assert "shown of" in browser.find_element("css selector", "#gallery [role=status]").text


def test_hostile_names_stay_names(browser: Any, hostile_study: Path) -> None:
    open_page(browser, hostile_study)
    labels = {setting.label for setting in group_by_setting(read_results(hostile_study))}
    options = "return [...document.querySelectorAll(\"[data-figure='confusion'] option\")].map(o => o.textContent)"
    assert set(browser.execute_script(options)) == labels
    for label in labels:
        choose(browser, "[data-figure='confusion']", "setting", " ".join(label.split()))
        choose(browser, "#gallery", "setting", " ".join(label.split()))
    strangers = "img:not(#gallery img), iframe, b:not(.plot b), main i, [onerror], [onmouseover]"
    assert browser.execute_script(f"return document.querySelectorAll({strangers!r}).length") == 0
    assert browser.execute_script("return document.title").startswith("hostile <i>name")
    ticks = browser.execute_script(
        "return [...document.querySelectorAll(\"[data-figure='confusion'] .ytick text\")].map(t => t.textContent)"
    )
    assert "<b>bold<i>" in ticks
    assert "@c1" in ticks
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("study", STUDIES)
@pytest.mark.parametrize(("width", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False)])
def test_an_accessibility_checker_finds_nothing(
    browser: Any, study: str, width: int, dark: bool, request: pytest.FixtureRequest
) -> None:
    if not AXE.is_file():
        missing(str(AXE.relative_to(AXE.parents[1])))
    open_page(browser, request.getfixturevalue(study), width, dark)
    browser.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    browser.execute_script(AXE.read_text())
    violations = browser.execute_async_script(
        "const done = arguments[0]; axe.run().then(found => done(found.violations.map(v => "
        "[v.impact, v.id, v.nodes.length, v.nodes[0].html.slice(0, 200), v.nodes[0].failureSummary])))"
    )
    assert [violation for violation in violations if violation[0] in ("moderate", "serious", "critical")] == []


def test_theme_follows_the_system_and_the_button(browser: Any, gamma_study: Path) -> None:
    line = "return document.querySelector(\"[data-figure='plane'] .plot\").layout.font.color"
    background = "return getComputedStyle(document.body).backgroundColor"
    looks = {}
    for dark in (False, True):
        open_page(browser, gamma_study, dark=dark)
        looks[dark] = browser.execute_script(line), browser.execute_script(background)
    assert looks[False] != looks[True]
    button = browser.find_element("id", "theme")
    button.click()
    assert button.text == "Theme: light"
    assert (browser.execute_script(line), browser.execute_script(background)) == looks[False]


def test_everything_can_be_reached_with_the_keyboard(browser: Any, gamma_study: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(browser, gamma_study)
    active = "const e = document.activeElement; return e.id || e.name || e.className || e.tagName"
    reached = []
    for _ in range(80):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.execute_script(active))
    assert reached[0] == "skip"
    assert {"theme", "SUMMARY", "class", "γ", "setting", "BUTTON", "scroll"} <= set(reached)


@pytest.mark.parametrize("kind", ["SVG", "PNG"])
def test_a_figure_can_be_saved(browser: Any, gamma_study: Path, kind: str) -> None:
    open_page(browser, gamma_study)
    button = f"//*[@data-figure='plane']//button[contains(., '{kind}')]"
    browser.execute_script("arguments[0].click()", browser.find_element("xpath", button))
    file = browser.downloads / f"plane.{kind.lower()}"
    wait_for(file.exists)
    wait_for(lambda: file.stat().st_size > 1000)
    assert file.read_bytes().startswith(b"<svg" if kind == "SVG" else b"\x89PNG")
    assert browser.get_log("browser") == []


def test_it_can_be_printed(browser: Any, gamma_study: Path) -> None:
    open_page(browser, gamma_study, dark=True)
    looks = "const { width, font } = document.querySelector('.plot').layout; return [width, font.color]"
    on_screen = browser.execute_script(looks)
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(looks) == [640, "rgb(28, 35, 48)"]  # a page's width, and dark on light
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(looks) == on_screen
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 100_000
    assert browser.get_log("browser") == []


def test_the_page_of_a_loss(browser: Any, tmp_path: Path) -> None:
    from losslab.cli import main

    assert main(["plot-loss", "FocalLoss", "--gamma", "0", "2", "--out", "report.html"]) == 0
    open_page(browser, tmp_path, PHONE)
    assert browser.get_log("browser") == []
    assert [trace["name"] for trace in drawn(browser, "loss")] == ["gamma = 0"] * 2 + ["gamma = 2"] * 2


def test_the_page_of_a_comparison(browser: Any, gamma_study: Path, tmp_path: Path) -> None:
    from losslab.cli import main

    page = tmp_path / "report.html"
    assert main(["report", "--compare", str(gamma_study), str(gamma_study), "--out", str(page)]) == 0
    open_page(browser, tmp_path, PHONE)
    assert browser.get_log("browser") == []
    assert len(drawn(browser, "by-class")) == 4
    assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE
