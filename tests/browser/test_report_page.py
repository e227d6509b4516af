"""The report, opened from disk."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from handmade import SCRIPT
from playwright.sync_api import Browser, Page


@dataclass
class Opened:
    """A page, and what the browser said and asked for while it was opened."""

    page: Page
    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")])
def opened(
    request: pytest.FixtureRequest, browser: Browser, report_folder: Path
) -> Iterator[Opened]:
    width, scheme = request.param
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Opened(page)
    page.on("console", lambda message: seen.console.append(message.text))
    page.on("pageerror", lambda error: seen.console.append(str(error)))
    page.on("request", lambda asked: seen.requests.append(asked.url))
    page.on("dialog", lambda dialog: (seen.dialogs.append(dialog.message), dialog.dismiss()))
    page.goto((report_folder / "comparison.html").as_uri())
    page.wait_for_load_state("networkidle")
    yield seen
    page.close()


def test_it_asks_for_nothing_outside_and_logs_nothing(opened: Opened) -> None:
    outside = [url for url in opened.requests if not url.startswith(("file:", "data:"))]
    assert outside == []
    assert len([url for url in opened.requests if url.startswith("file:")]) == 1
    assert opened.console == []


def test_names_show_as_text_and_do_not_run(opened: Opened) -> None:
    assert opened.dialogs == []
    assert SCRIPT in opened.page.inner_text("#iterations")
    _open(opened.page)
    assert "overridden" in opened.page.inner_text("#origin")


@pytest.mark.parametrize("folded", [True, False])
def test_only_tables_scroll_sideways(opened: Opened, folded: bool) -> None:
    page = opened.page
    if not folded:
        _open(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wider = page.evaluate(
        "[...document.querySelectorAll('main *')].filter("
        "e => !e.closest('.scroll, svg, .unseen') &&"
        " e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wider == []


def test_it_reads_in_light_and_dark(opened: Opened) -> None:
    page = opened.page
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    channels = "getComputedStyle(%s).%s.match(/\\d+/g).slice(0, 3).map(Number)"

    def brightness(element: str, what: str) -> float:
        return float(sum(page.evaluate(channels % (element, what))) / 3)

    paper = brightness("document.body", "backgroundColor")
    assert (paper < 60) == dark
    for element in ("document.body", "document.querySelector('svg text')"):
        what = "fill" if "svg" in element else "color"
        assert abs(brightness(element, what) - paper) > 150, element


def test_pictures_are_there(opened: Opened) -> None:
    page = opened.page
    _open(page)
    sizes = page.eval_on_selector_all("figure > svg", "all => all.map(e => e.clientHeight)")
    assert len(sizes) == 8
    assert min(sizes) > 60
    digits = page.eval_on_selector_all(".digits img", "all => all.map(e => e.naturalWidth)")
    assert digits == 2 * [28, 28]  # of the best run, and of all seeds together


def test_it_prints_what_matters_though_it_is_folded(opened: Opened) -> None:
    page = opened.page
    page.emulate_media(media="print")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page.pdf().startswith(b"%PDF")
    assert paper == "rgb(255, 255, 255)"
    height = "e => e.getBoundingClientRect().height"
    assert page.eval_on_selector("#model-6 pre", height) > 100
    assert page.eval_on_selector("#figure-effects", height) > 100
    assert page.eval_on_selector("#origin", height) < 100
    assert not page.is_visible("#filter")


def _open(page: Page) -> None:
    """Open all that is folded."""
    page.eval_on_selector_all("details", "all => all.forEach(e => { e.open = true })")


SHOTS = Path(os.environ.get("SHOTS", "")) if os.environ.get("SHOTS") else None
"""Where pictures of the published runs go, to be looked at."""


@pytest.fixture
def published(browser: Browser, published_page: Path) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(published_page.as_uri())
    yield page
    page.close()


def _numbers(page: Page) -> list[int]:
    """The iterations that are shown, from top to bottom."""
    rows = page.locator("#iterations > tbody:visible th b")
    return [int(text) for text in rows.all_inner_texts()]


def test_published_runs_fit(published: Page) -> None:
    assert published.evaluate("document.documentElement.scrollHeight") <= 5 * 800
    assert len(_numbers(published)) >= 21
    cut = published.evaluate(
        "[...document.querySelectorAll('#iterations > * > tr:first-child > *')].filter("
        "e => e.scrollWidth > e.clientWidth || e.offsetHeight > 30).map(e => e.innerText)"
    )
    assert cut == []
    end = published.locator("#iterations").bounding_box()
    price = published.locator("#figure-price svg").bounding_box()
    assert end
    assert end["y"] + end["height"] < 800
    assert price
    assert price["y"] + price["height"] < 800


def test_the_first_screen_answers(published: Page) -> None:
    said = published.inner_text("header").replace("\xa0", " ")
    assert "meet the target on every seed that was run. They are 9, 13, 14, 16 and 21. " in said
    assert "points below the bar" in said


def test_lines_are_sorted_and_opened_by_keyboard(published: Page) -> None:
    page = published
    before = _numbers(page)
    button = page.locator("th button", has_text="params")
    button.focus()
    sizes = "rows => rows.map(e => Number(e.rows[0].cells[1].dataset.key))"
    for order in ("ascending", "descending"):
        page.keyboard.press("Enter")
        shown = page.eval_on_selector_all("#iterations > tbody", sizes)
        assert shown == sorted(shown, reverse=order == "descending")
        assert page.get_attribute("th:has(button:focus)", "aria-sort") == order
    assert page.locator("[aria-sort]").count() == 1
    page.locator("th button", has_text="iteration").press("Space")
    assert _numbers(page) == before
    page.locator("tbody:has(#model-9) summary").first.focus()
    assert not page.is_visible("#model-9")
    page.keyboard.press("Enter")
    assert page.is_visible("#model-9")
    page.keyboard.press("Enter")
    assert not page.is_visible("#model-9")


def test_lines_are_opened_by_a_click_anywhere_and_by_their_address(published: Page) -> None:
    line = published.locator("tbody:has(#model-9) > tr").first
    line.click(position={"x": 700, "y": 10}, force=True)  # what is over the line opens it
    assert published.is_visible("#model-9")
    published.goto(f"{published.url.partition('#')[0]}#model-12")
    assert published.is_visible("#model-12")


def test_lines_are_filtered_by_words(published: Page) -> None:
    field = published.get_by_label("Filter:")
    field.fill("every SEED channels")
    assert _numbers(published) == [21]
    assert published.inner_text("output").startswith("1 of ")
    field.fill("")
    assert len(_numbers(published)) >= 21


def test_it_reads_the_same_without_script(browser: Browser, published_page: Path) -> None:
    context = browser.new_context(
        java_script_enabled=False, viewport={"width": 1280, "height": 800}
    )
    page = context.new_page()
    page.goto(published_page.as_uri())
    assert not page.is_visible("#filter")
    assert len(_numbers(page)) >= 21
    page.locator("tbody:has(#model-9) summary").first.click()
    assert page.is_visible("#model-9")
    context.close()


def test_a_mark_and_a_dot_say_what_they_are(published: Page) -> None:
    marks = published.locator("tbody:has(#model-9) > tr:first-child .strip title")
    texts = [text.replace("\xa0", " ") for text in marks.all_text_contents()]
    assert re.fullmatch(r"seed \d+: 99\.\d\d %", texts[0])
    dots = published.locator("#model-9 .curves title").all_text_contents()
    assert re.fullmatch(r"seed \d+, epoch \d+: 99\.\d\d %", dots[0].replace("\xa0", " "))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_it_is_looked_at(
    browser: Browser, published_page: Path, tmp_path: Path, scheme: Any, width: int, height: int
) -> None:
    """SHOTS=<folder> keeps the pictures."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(published_page.as_uri())
    folder = SHOTS or tmp_path
    page.screenshot(path=folder / f"first-{width}-{scheme}.png")
    page.goto(f"{page.url}#model-9")
    opened = folder / f"opened-{width}-{scheme}.png"
    page.screenshot(path=opened)
    assert opened.stat().st_size > 20_000  # an empty page is a tenth of that
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
