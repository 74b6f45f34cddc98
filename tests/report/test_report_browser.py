"""The pages in headless Chromium: no complaint, tables sort, pictures load, a phone is wide enough, and it prints."""

from __future__ import annotations

import json

import pytest
from browser import BINARY, start_browser
from report_study import MANY_DETECTORS, MANY_SETS, make_data

from sio_ray.config import with_overrides
from sio_ray.report.comparison_page import render_comparison
from sio_ray.report.page import render_report

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine")

#: The first column of the first table that shows, and the numbers of its second.
NAMES = "[...document.querySelector('table.sortable').tBodies[0].rows].map((row) => row.cells[0].textContent)"
VALUES = (
    "[...document.querySelector('table.sortable').tBodies[0].rows].map((row) => Number(row.cells[2].dataset.value))"
)
SORTED = (
    "[...document.querySelector('table.sortable').querySelectorAll('th[aria-sort]')]"
    ".map((heading) => [heading.textContent, heading.ariaSort])"
)
BUTTON = "table.sortable thead tr:last-child th:nth-child(2) button"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    data = make_data(titles=MANY_DETECTORS, ood_sets=MANY_SETS)
    other = make_data(name="other", shift=0.1, config=with_overrides(data.config, {"train.real_weight": 0.9}))
    (folder / "report.html").write_text(render_report(data))
    (folder / "comparison.html").write_text(render_comparison([data, other]))
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with start_browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(autouse=True)
def quiet(browser):
    """Whatever a test does, the console has nothing to say."""
    browser.complaints.clear()
    yield
    assert browser.complaints == []


def test_the_harness_hears_complaints(browser, tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<script>console.error('one'); missing()</script><img src='data:image/png;base64,AAAA'>")
    browser.open(page)
    assert len(browser.complaints) >= 2
    browser.complaints.clear()


@pytest.mark.parametrize("name", ["report", "comparison"])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width_px", [400, 1200])
def test_nothing_is_wider_than_the_window(browser, pages, name, width_px, dark):
    browser.open(pages[name], width_px=width_px, dark=dark)
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_all_pictures_load_and_dark_is_dark(browser, pages):
    browser.open(pages["report"], dark=True)
    loaded = browser.run(
        "Promise.all([...document.images].map((image) => image.decode().then(() => image.naturalWidth > 0)))"
    )
    assert len(loaded) == 6 * 2 + 4 + 6 * 10
    assert all(loaded)
    red, green, blue = json.loads(
        browser.run("'[' + getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3) + ']'")
    )
    assert max(red, green, blue) < 60


def test_tables_sort_by_click(browser, pages):
    browser.open(pages["report"])
    before = browser.run(NAMES)
    assert before == list(MANY_DETECTORS.values())
    selector = BUTTON
    browser.click(selector)
    assert browser.run(SORTED) == [["SIO", "descending"]]
    values = browser.run(VALUES)
    assert values == sorted(values, reverse=True)
    assert set(browser.run(NAMES)) == set(before)
    browser.click(selector)
    assert browser.run(SORTED) == [["SIO", "ascending"]]
    assert browser.run(VALUES) == values[::-1]


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_tables_sort_by_keyboard(browser, pages, key):
    browser.open(pages["report"])
    browser.run("document.querySelector('table.sortable th button').focus()")
    browser.press(key)
    assert browser.run(SORTED) == [["Detector", "ascending"]]
    names = browser.run(NAMES)
    assert names == sorted(names, key=str.lower)
    browser.press("Tab")
    browser.press("Tab")
    browser.press(key)
    values = browser.run(VALUES)
    assert values == sorted(values, reverse=True)


def test_missing_values_stay_last(browser, pages):
    browser.open(pages["comparison"])
    script = """(() => {
      const table = document.querySelectorAll('#detectors table.sortable')[0];
      const heading = table.querySelectorAll('thead tr')[1].cells[4];
      const orders = [];
      for (const _ of [0, 1]) {
        heading.querySelector('button').click();
        orders.push([...table.tBodies[0].rows].map((row) => row.cells[5].dataset.value));
      }
      return orders;
    })()"""
    for values in browser.run(script):
        known = [value for value in values if value]
        assert len(known) == 6, "the other run has six detectors"
        assert values[:6] == known
        assert values[6:] == [""] * (len(values) - 6)


def test_one_of_the_tables_shows_and_the_switch_is_a_radio_group(browser, pages):
    browser.open(pages["report"])
    shown = (
        "[...document.querySelectorAll('.views')]"
        ".map((views) => [...views.querySelectorAll('.view')].map((view) => view.offsetHeight > 0))"
    )
    assert browser.run(shown) == [[True, *[False] * 4], [True, False, False]]
    browser.run("document.querySelector('input[name=heat]').focus()")
    browser.run("document.querySelectorAll('input[name=heat]')[2].click()")
    browser.click("fieldset label:nth-of-type(5)")
    assert browser.run(shown) == [[*[False] * 4, True], [False, False, True]]


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_no_table_seems_to_be_missing(browser, pages, name):
    browser.open(pages[name])
    captions = """[...document.querySelectorAll('caption b')].filter((b) => !%s || b.offsetHeight > 0)
      .map((b) => b.textContent.match(/^Table (\\d+)([a-z]?)\\.$/).slice(1))"""
    browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    every, shown = browser.run(captions % "false"), browser.run(captions % "true")
    numbers = [int(number) for number, _ in every]
    assert sorted(set(numbers)) == list(range(1, numbers[-1] + 1))
    assert numbers == sorted(numbers)
    assert len({tuple(each) for each in every}) == len(every)
    assert {int(number) for number, _ in shown} == set(numbers)
    assert len(shown) < len(every)


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_text_is_readable_on_every_heat_map_cell(browser, pages, name):
    for dark in (False, True):
        browser.open(pages[name], dark=dark)
        script = """(() => {
          const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
          const luminance = (colour) => {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => {
              const s = value / 255;
              return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          let least = 21;
          for (const cell of document.querySelectorAll('.heat td, .std, .difference, thead th')) {
            const style = getComputedStyle(cell);
            const behind = cell.matches('.heat td') ? cell : document.body;
            const ground = getComputedStyle(behind).backgroundColor;
            const [low, high] = [luminance(style.color), luminance(ground)].sort((a, b) => a - b);
            least = Math.min(least, (high + 0.05) / (low + 0.05));
          }
          return least;
        })()"""
        assert browser.run(script) >= 4.5


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_it_prints(browser, pages, name):
    browser.open(pages[name])
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") <= 30


def test_headings_scroll_with_their_columns_and_the_first_column_stays(browser, pages):
    browser.open(pages["report"], width_px=400)
    lefts = """(() => {
      const table = document.querySelector('table.sortable');
      table.closest('.scroll').scrollLeft = %d;
      const cells = [table.querySelector('tbody th'), table.rows[1].cells[0], table.tBodies[0].rows[0].cells[1]];
      return cells.map((cell) => cell.getBoundingClientRect().right);
    })()"""
    before, after = browser.run(lefts % 0), browser.run(lefts % 90)
    assert after[0] == before[0]
    assert before[1] == pytest.approx(before[2])
    assert [after[1], after[2]] == pytest.approx([before[1] - 90, before[2] - 90])
