"""The page of a comparison: whole, safe, readable, and the numbers of compare.json. Place: fewstep/compare/page/."""

import importlib.util
import itertools
import json
import math
import re
import shutil
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from compared import comparison, without

from fewstep.compare.page import charts, page
from fewstep.compare.page.components import Methods
from fewstep.compare.page.html import element, interval, number, short
from fewstep.training.progress import duration

HOSTILE = """</style></title><script>alert("x")</script><img src=x onerror='alert(1)'>&amp;"""


class Reader(HTMLParser):
    """Reads a page as a tree of what a browser would see, and complains where elements do not close."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice: {attrs}"
        self.elements.append({"tag": tag, "attrs": dict(attrs), "text": "", "inside": [each["tag"] for each in self.open]})
        if tag not in ("meta", "link"):
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open and self.open.pop()["tag"] == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        for each in self.open:
            each["text"] += data

    def all(self, tag, **attrs):
        fits = lambda each: all(each["attrs"].get(key.rstrip("_").replace("_", "-")) == value for key, value in attrs.items())  # noqa: E731
        return [each for each in self.elements if each["tag"] == tag and fits(each)]


def everywhere(value: Any, words: str) -> Any:
    """A comparison, all of whose free text begins with `words`, names of methods and of probes included."""
    fixed, named = {"family", "outcome"}, {"by_task", "methods", "probes", "settings"}
    if isinstance(value, dict):
        found = {key: each if key in fixed else everywhere(each, words) for key, each in value.items()}
        for key in named & set(found):
            if isinstance(found[key], dict):
                found[key] = {words + name: each for name, each in found[key].items()}
        return found
    if isinstance(value, list):
        return [everywhere(each, words) for each in value]
    return words + value if isinstance(value, str) else value


def test_the_page_closes_all_that_it_opens_and_has_one_of_each_title():
    read = Reader(page(comparison()))
    assert [len(read.all(tag)) for tag in ("html", "head", "body", "main", "h1")] == [1] * 5
    identities = [each["attrs"]["id"] for each in read.elements if "id" in each["attrs"]]
    assert len(set(identities)) == len(identities)
    for each in read.elements:
        if "aria-labelledby" in each["attrs"]:
            assert each["attrs"]["aria-labelledby"] in identities


def test_the_page_needs_nothing_from_elsewhere():
    text = page(comparison())
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<iframe|<object", text)
    addresses = [each["attrs"].get(name) for each in Reader(text).elements for name in ("src", "href") if name in each["attrs"]]
    assert addresses == ["data:,"]


def test_all_words_of_users_are_text_whatever_they_are():
    read = Reader(page(everywhere(comparison(), HOSTILE)))
    plain = Reader(page(comparison()))
    assert {each["tag"] for each in read.elements} <= {each["tag"] for each in plain.elements}
    assert {name for each in read.elements for name in each["attrs"]} <= {
        name for each in plain.elements for name in each["attrs"]
    }
    assert any(HOSTILE + "station 3" in each["text"] for each in read.all("title"))
    assert read.all("code")[0]["text"] == HOSTILE + comparison()["command"]


def test_each_method_has_its_numbers_of_the_file_with_all_their_digits():
    compare = comparison()
    read = Reader(page(compare))
    rows = read.all("tr", role="row")[1:]
    assert len(rows) == len(compare["methods"])
    data = {id(row): [] for row in rows}
    current = None
    for each in read.elements:
        current = each if each in rows else current
        if each["tag"] == "table":
            current = None if each["attrs"].get("role") != "table" else current
        if each["tag"] == "data" and current is not None:
            data[id(current)].append(float(each["attrs"]["value"]))
    by_title = {method["title"]: method for method in compare["methods"]}
    for row in rows:
        text = row["text"].strip()
        method = next(by_title[title] for title in sorted(by_title, key=len, reverse=True) if text.startswith(title))
        wanted = [
            given[end]
            for given in (method["error"], method.get("difference"), method.get("equal_compute"))
            if given
            for end in ("mean", "low", "high")
        ]
        assert data[id(row)] == wanted


def test_methods_stand_by_their_errors_and_what_has_none_stands_last():
    read = Reader(page(comparison()))
    names = [row["text"] for row in read.all("th", role="rowheader")]
    assert names[0].startswith("MAML, exact") and "recommended" in names[0]
    assert names[1].startswith("ANIL")
    assert names[-2].startswith("MAML, from the joint solution") and "meta-step 312" in names[-2]
    assert names[-1].startswith("TabPFN")


def test_points_of_the_scatter_stand_where_the_two_errors_say():
    compare = comparison()
    ours, theirs = compare["by_task"]["maml"], compare["by_task"]["joint-ridge"]
    read = Reader(page(compare))
    named = {each["text"].split(":")[0]: each for each in read.all("circle") if each["text"].startswith("station")}
    assert len(named) == len(ours)
    places = [
        [float(named[f"station {task}"]["attrs"][axis]) for axis in ("cx", "cy")] + [theirs[task], ours[task]]
        for task in range(45)
    ]
    # Two equal linear scales: the same number of units apart on both axes for the same difference of errors.
    by_x = [(a[0] - b[0]) / (a[2] - b[2]) for a, b in itertools.pairwise(places) if abs(a[2] - b[2]) > 0.05]
    by_y = [(b[1] - a[1]) / (a[3] - b[3]) for a, b in itertools.pairwise(places) if abs(a[3] - b[3]) > 0.05]
    assert max(by_x + by_y) - min(by_x + by_y) < 0.01 * max(by_x)
    better = sum(a < b for a, b in zip(ours, theirs, strict=True))
    assert f"smaller error on {better} of 45 tasks" in " ".join(each["text"] for each in read.all("p"))


def test_the_worst_tasks_are_those_of_the_largest_errors():
    compare = comparison()
    errors = compare["by_task"]["maml"]
    worst = sorted(range(45), key=lambda task: -errors[task])[:8]
    read = Reader(page(compare))
    rows = [each for each in read.all("th", scope="row") if each["text"].startswith("station")]
    assert [each["text"] for each in rows] == [f"station {task}" for task in worst]


@pytest.mark.parametrize("field", sorted(comparison()))
def test_a_part_that_is_missing_is_left_out(field):
    compare = without(comparison(), field)
    text = page(json.loads(json.dumps(compare)))
    Reader(text)
    assert "None" not in text and "nan" not in text


def test_a_comparison_that_has_only_begun_has_a_page():
    for begun in (
        {},
        {"problem": "sine"},
        {"methods": [{"name": "prior"}]},
        {"methods": [{"name": "prior", "error": {"mean": 0.5}}]},
    ):
        read = Reader(page(begun))
        assert read.all("h1")[0]["text"] == "Still being compared."


def test_numbers_that_are_none_do_not_break_the_page():
    def holed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: holed(each) for key, each in value.items()}
        if isinstance(value, list):
            return [math.nan if isinstance(each, float) else holed(each) for each in value]
        return None if isinstance(value, float) else value

    text = page(holed(comparison()))
    Reader(text)
    assert "nan" not in text and "None" not in text


@pytest.mark.parametrize(
    ("verdict", "told"),
    [
        ({"outcome": "method", "method": "anil"}, "Take ANIL."),
        ({"outcome": "equivalent", "method": "ridge"}, "Take Ridge, per task: others do as well."),
        ({"outcome": "inconclusive", "method": "maml", "more_tasks": 40}, "Inconclusive: about 40 more tasks would tell."),
        ({"outcome": "inconclusive", "method": "maml", "more_tasks": None}, "Inconclusive so far."),
    ],
)
def test_the_title_says_what_to_do(verdict, told):
    assert Reader(page({**comparison(), "verdict": verdict})).all("h1")[0]["text"] == told


def as_float(words):
    digits, _, power = words.replace("−", "-").replace(",", "").partition(" × 10")
    return float(digits) * 10.0 ** float(power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")) or 0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "value", [0.31, 0.004449, 9.996, 99.96, 1234.5, 999_999.0, 1e6, 9.96e7, 3.4e11, 0.00012, 9.9e-5, 2.5e-9]
)
def test_a_number_is_written_to_three_digits_or_two_and_a_power(value, sign):
    assert as_float(number(sign * value)) == pytest.approx(sign * value, rel=0.005 if 1e-4 <= value < 999_500 else 0.05)
    assert number(0) == short(0) == "0"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (4e-4, "0.4 ms"),
        (0.21, "210 ms"),
        (9.2, "9.2 s"),
        (20.1, "20 s"),
        (291, "4 min 51 s"),
        (7500, "2 h 5 min"),
        (0.9999, "1 s"),
        (3.21, "3.2 s"),
        (59.9, "1 min"),
        (3600, "1 h"),
    ],
)
def test_a_time_is_written_in_the_units_of_its_size(seconds, words):
    assert duration(seconds) == words


def test_an_interval_has_two_digits_of_its_width():
    assert Reader(interval({"mean": 0.31234, "low": 0.28, "high": 0.34})).elements[0]["text"] == "0.312"
    assert Reader(interval({"mean": 312.34, "low": 280.0, "high": 340.0}, signed=True)).elements[0]["text"] == "+312"
    assert interval(None) is None and interval({"mean": None}) is None


def test_text_is_escaped_and_markup_is_not():
    assert element("p", "a < b", element("b", "&"), None, title='"') == '<p title="&#34;">a &lt; b<b>&amp;</b></p>'


@pytest.mark.parametrize("log", [False, True])
def test_a_scale_is_linear_in_the_value_or_its_logarithm_and_its_ticks_lie_within(log):
    scale = charts.Scale(0.02, 3.0, 300.0, 20.0, log)
    assert scale(0.02) == pytest.approx(300) and scale(3.0) == pytest.approx(20)
    middle = math.sqrt(0.02 * 3.0) if log else (0.02 + 3.0) / 2
    assert scale(middle) == pytest.approx(160)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 8
    assert all(0.02 <= tick <= 3.0 for tick in ticks) and ticks == sorted(set(ticks))


def test_words_and_marks_stand_out_from_what_is_behind_them():
    """Contrast by the formula of WCAG 2.2 (1.4.3 and 1.4.11): 4.5 for words, in light, in dark and on paper."""
    style = resources.files("fewstep.compare.page").joinpath("page.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    light, dark, paper = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in blocks)
    assert set(light) == set(dark)

    def luminance(color):
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for scheme in (light, dark, light | paper):
        for name in set(scheme) - {"paper", "card", "rule", "band"}:
            for behind in ("paper", "card"):
                bright, dim = sorted((luminance(scheme[name]), luminance(scheme[behind])), reverse=True)
                assert (bright + 0.05) / (dim + 0.05) >= 4.5, (name, behind)


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser():
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("looking at the page in a browser needs Playwright: pip install playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = CHROMIUM or driver.chromium.executable_path
        if not Path(chromium).exists():
            pytest.skip("looking at the page in a browser needs Chromium: python -m playwright install chromium")
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def look_at(browser, text, folder, width, **how):
    """(a page of the browser, what it complained of)."""
    file = folder / "compare.html"
    file.write_text(text, encoding="utf-8")
    opened = browser.new_page(viewport={"width": width, "height": 800}, **how)
    complaints = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: request.url.startswith(("file:", "data:")) or complaints.append(request.url))
    opened.goto(file.as_uri())
    opened.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    return opened, complaints


TOO_WIDE = """() => [...document.querySelectorAll("body *")].filter(each => {
  const box = each.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1);
}).map(each => each.outerHTML.slice(0, 80))"""
OVERLAPS = """() => [...document.querySelectorAll("svg.chart")].flatMap(chart => {
  const words = [...chart.querySelectorAll("text")].map(each => [each.textContent, each.getBoundingClientRect()]);
  return words.flatMap(([a, p], i) => words.slice(i + 1).filter(([b, q]) =>
    Math.min(p.right, q.right) - Math.max(p.left, q.left) > 1 && Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top) > 3
  ).map(([b]) => a + " | " + b));
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 768, 1280])
def test_a_browser_shows_the_page_whole(browser, tmp_path, width, scheme):
    opened, complaints = look_at(browser, page(comparison()), tmp_path, width, color_scheme=scheme)
    try:
        assert complaints == []
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.evaluate(TOO_WIDE) == []
        assert opened.evaluate(OVERLAPS) == []
        tells = opened.evaluate("[...document.querySelectorAll('#by-task circle > title')].map(each => each.textContent)")
        assert len(tells) == 45 and tells[0].startswith("station 0: MAML, exact ")
        widths = opened.evaluate("[...document.querySelectorAll('svg.chart')].map(each => each.getBoundingClientRect().width)")
        assert min(widths) / charts.WIDTH * 11 > 8, "words of the charts are too small to read"
        paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper))) > 600) == (scheme == "light")
    finally:
        opened.close()


def test_hostile_words_do_nothing_in_a_browser(browser, tmp_path):
    opened, complaints = look_at(browser, page(everywhere(comparison(), HOSTILE)), tmp_path, 320)
    try:
        assert complaints == []
        assert opened.evaluate("document.querySelectorAll('script, img').length") == 0
        assert opened.evaluate(TOO_WIDE) == []
        assert opened.evaluate("document.documentElement.scrollWidth") <= 320
    finally:
        opened.close()


def test_the_page_prints_light_and_in_columns(browser, tmp_path):
    opened, complaints = look_at(browser, page(comparison()), tmp_path, 700, color_scheme="dark")
    try:
        opened.emulate_media(media="print", color_scheme="dark")
        paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", paper))) > 600
        assert opened.evaluate("getComputedStyle(document.querySelector('#methods tbody tr')).display") == "table-row"
        assert opened.pdf(format="A4").startswith(b"%PDF")
        assert complaints == []
    finally:
        opened.close()


def test_a_method_that_diverges_at_one_shot_leaves_the_others_readable():
    line = [(1, 0.4), (2, 0.3), (5, 0.2)]
    looks = {"a": "meta", "b": "joint"}
    drawn = charts.lines({"a": line, "b": [(1, 1e43), (2, 0.5), (5, 0.1)]}, looks, "shots", "error", "errors")
    ways = [[float(at.split(",")[1]) for at in way.split()] for way in re.findall(r'points="([^"]*)"', drawn)]
    assert max(ways[0]) - min(ways[0]) > 5  # units of the picture, not a flat line at its bottom
    assert drawn.count("off the scale") == 1 and "b, 1: 1.0 × 10⁴³" in drawn


def test_a_method_that_broke_in_a_few_tasks_squeezes_no_picture_and_stretches_no_cell():
    given = comparison()
    broken = next(method for method in given["methods"] if method["name"] == "anil")
    whole = Methods(given).scale()
    broken["error"] = {"mean": 7.3e20, "low": 0.0, "high": 5.2e21}
    given["by_task"]["anil"][0] = 3e22
    assert Methods(given).scale() == whole or Methods(given).scale().high <= whole.high
    shown = page(given)
    assert "7.3 × 10²⁰" in shown and "730,000,000" not in shown


def test_costs_of_policies_are_told_as_costs_and_may_lie_below_zero():
    given = comparison()
    given["metric"] = {"name": "cost", "title": "minus the return", "lower_is_better": True}
    given |= {"unit_of_work": "environment steps", "probes": {}}
    there = [method for method in given["methods"] if method["error"]]
    for method in there:
        method["error"] = {end: value - 100 for end, value in method["error"].items()}
    given["by_task"] = {name: [value - 100 for value in values] for name, values in given["by_task"].items()}
    shown = page(given)
    assert "Cost: minus the return" in shown and "environment steps" in shown and "smaller cost" in shown
    assert "Error over" not in shown and "operations" not in shown
    scale = Methods(given).scale()
    assert scale.low < min(method["error"]["mean"] for method in there) < scale.high < 0
