"""The page in a real browser: figures are drawn, the console is clean, nothing is asked for, nothing is injected."""

import csv
import io
import json

import pytest

from ascertain.analyze import report
from ascertain.analyze.report import write_report
from tests.analyze.report.browser import Browser, installed
from tests.analyze.report.everything import HOSTILE, everything, failed

DRAWN = "document.documentElement.dataset.drawn"


@pytest.fixture(scope="module")
def browser():
    found = Browser(installed())
    yield found
    found.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report([everything(), failed()]), encoding="utf-8")
    return path


def clean(browser, file):
    return browser.log == [] and {a for a in browser.asked if not a.startswith("data:image/")} == {file.as_uri()}


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_figures_are_drawn_and_nothing_else_happens(browser, file, width):
    browser.size(width, phone=width < 500)
    browser.open(file, DRAWN)
    drawn = browser.evaluate("[...document.querySelectorAll('[data-chart]')].map(e => e.querySelectorAll('svg path').length)")
    assert len(drawn) == 8 and all(drawn) and browser.evaluate(DRAWN) == "8"
    assert browser.evaluate("typeof window.hacked") == "undefined"
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    assert clean(browser, file), (browser.log, browser.asked)


def test_hovering_shows_words_as_words(browser, file):
    browser.size(1280)
    browser.open(file, DRAWN)
    said = []
    middle = """(() => {
        const mark = document.querySelectorAll('[data-chart]')[NUMBER].querySelector('.mark-rect path');
        mark.scrollIntoView({block: 'center', behavior: 'instant'});
        const r = mark.getBoundingClientRect();
        return [r.x + r.width / 2, r.y + r.height / 2];
    })()"""
    for k in (2, 4, 6):
        x, y = browser.evaluate(middle.replace("NUMBER", str(k)))
        browser.call("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x, "y": y})
        browser.until("!document.getElementById('tooltip').hidden")
        assert browser.evaluate("document.getElementById('tooltip').textContent") not in said
        said.append(browser.evaluate("document.getElementById('tooltip').textContent"))
    assert not browser.evaluate("document.getElementById('tooltip').querySelectorAll('img, script').length")
    assert browser.evaluate("typeof window.hacked") == "undefined" and clean(browser, file)


def test_numbers_can_be_downloaded(browser, file):
    browser.open(file, DRAWN)
    browser.evaluate("URL.createObjectURL = b => { window.blob = b; return '#' }; HTMLAnchorElement.prototype.click = () => {}; 0")
    found = {}
    for form in ("csv", "json"):
        browser.evaluate(f"document.querySelector('[data-form={form}]').click()")
        found[form] = browser.evaluate("window.blob.text()")
    record = everything()
    assert json.loads(found["json"]) == record.to_json()
    rows = list(csv.DictReader(io.StringIO(found["csv"], newline="")))
    assert len(rows) == sum(m.value.size for m in record.values.values())
    numbers = [float(r["value"].replace("Infinity", "inf")) for r in rows if r["name"] == "large"]
    assert numbers == record["large"].reshape(-1).tolist()
    assert [r["value"].removeprefix("'") for r in rows if r["name"] == "words"][:10] == [h.removeprefix("'") for h in HOSTILE[:10]]
    assert "'=1+1" in {r["value"] for r in rows}
    assert [r["place"] for r in rows if r["name"] == "map"][:13] == [*(f"0 {k}" for k in range(12)), "1 0"]


def test_without_scripts_there_are_pictures(browser, file):
    browser.call("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open(file)
        browser.until("[...document.images].length > 8 && [...document.images].every(i => i.complete)")
        assert browser.evaluate("[...document.querySelectorAll('img.still')].filter(i => i.naturalWidth > 100).length") == 8
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_slider_moves_through_models(browser, tmp_path):
    path = tmp_path / "three.html"
    path.write_text(report([everything(f"model {k}", k) for k in range(3)]), encoding="utf-8")
    browser.size(1000)
    browser.open(path, DRAWN)
    visible = "f => getComputedStyle(f).visibility === 'visible'"
    shown = f"[...document.querySelectorAll('.frame')].filter({visible}).map(f => f.dataset.model)"
    assert browser.evaluate(shown) == ["model 0"]
    browser.evaluate(
        "(() => { const s = document.querySelector('.slider input'); s.value = 2; s.dispatchEvent(new Event('input')) })()"
    )
    assert browser.evaluate(shown) == ["model 2"] and browser.evaluate("document.querySelector('output').textContent") == "model 2"
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth") and clean(browser, path)


def test_dark_and_light(browser, file):
    for scheme in ("light", "dark"):
        browser.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        browser.open(file, DRAWN)
        light = "parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]) > 128"
        assert browser.evaluate(light) == (scheme == "light")
        browser.evaluate("document.getElementById('theme').click()")
        assert browser.evaluate(light) == (scheme == "dark")
    browser.call("Emulation.setEmulatedMedia", {"features": []})


def test_pdf(tmp_path):
    installed()
    write_report([everything()], tmp_path / "r.pdf")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF-")
