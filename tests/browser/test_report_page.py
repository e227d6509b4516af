"""The report, opened from disk."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

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
    assert SCRIPT in opened.page.inner_text("#steps")
    assert "overridden" in opened.page.inner_text("#origin")


def test_only_tables_scroll_sideways(opened: Opened) -> None:
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wider = page.evaluate(
        "[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, svg') &&"
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
    sizes = page.eval_on_selector_all("figure svg", "all => all.map(e => e.clientHeight)")
    assert len(sizes) == 5
    assert min(sizes) > 60
    digits = page.eval_on_selector_all(".digits img", "all => all.map(e => e.naturalWidth)")
    assert digits == [28, 28]


def test_it_prints(opened: Opened) -> None:
    page = opened.page
    page.emulate_media(media="print")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert paper == "rgb(255, 255, 255)"
