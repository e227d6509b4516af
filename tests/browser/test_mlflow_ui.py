"""The MLflow UI over a store of ours."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from handmade import SCRIPT, record_run
from playwright.sync_api import Browser, Page, expect
from servers import wait_until_healthy

from mnist_exp import tracking
from mnist_exp.tracking import ui

PATIENCE = 60_000
"""Milliseconds for a page of the UI, which is large, on a busy machine."""
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def address(report_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`make ui` over the store that the report was made from; the address that it prints."""
    log = tmp_path_factory.mktemp("ui") / "log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"sqlite:///{report_folder.parent}/mlruns/mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        record_run(10, tags={"code_sha256": "gone", "verdict": "target met"})  # the newest run
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "mnist_exp", "ui", f"PORT={port}"],
            env=os.environ | {"MLFLOW_TRACKING_URI": uri}, stdout=subprocess.PIPE, text=True,
            stderr=errors,
        )  # fmt: skip
    try:
        printed = server.stdout.readline().removeprefix("The runs: ").strip()
        wait_until_healthy(f"http://127.0.0.1:{port}")
        yield printed
    finally:
        server.terminate()
        server.wait(30)
        server.stdout.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that must neither ask for anything outside this machine nor open a dialog."""
    outside, dialogs = [], []
    page = browser.new_page(viewport={"width": 1800, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda asked: outside.append(asked.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    yield page
    page.close()
    assert [url for url in outside if not re.match(r"http://127\.|data:|blob:", url)] == []
    assert dialogs == []


def run_id(report_folder: Path, name: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{report_folder.parent}/mlruns/mlflow.db")
        runs = tracking.runs().set_index("run_name")["run_id"]
        return str(runs[name])


def test_the_run_table_opens_with_the_columns_that_matter(address: str, page: Page) -> None:
    page.goto(address)
    for column in ("verdict", "parameters", "worst_of_last_5_test_accuracy_percent"):
        header = page.get_by_role("columnheader", name=column, exact=True)
        expect(header.first).to_be_attached()
    expect(page.get_by_text("model-10 · seed 1")).to_be_visible()
    groups = re.findall(r"Group:\s+(\d+)", page.inner_text("body"))
    assert groups[0] == "10"  # the newest run is of that iteration
    assert sorted(groups, key=int) == ["4", "5", "6", "10"]


def test_the_root_leads_to_the_table_on_a_small_screen(address: str, page: Page) -> None:
    page.set_viewport_size({"width": 1366, "height": 768})
    page.goto(address.partition("#")[0])
    expect(page.get_by_text("model-10 · seed 1")).to_be_in_viewport()
    for column in ("verdict", "worst_of_last_5_test_accuracy_percent"):
        header = page.get_by_role("columnheader", name=column, exact=True)
        expect(header.first).to_be_in_viewport(ratio=1)
    expect(page.get_by_text("Ask questions about your experiments")).to_have_count(0)


def test_the_chart_of_test_accuracy_shows_98_to_100_percent(address: str, page: Page) -> None:
    page.set_viewport_size({"width": 1366, "height": 768})
    page.goto(address.replace("=TABLE", "=CHART"))
    chart = page.locator(".js-plotly-plot").first
    expect(chart).to_be_in_viewport()
    ticks = chart.locator(".ytick text")
    expect(ticks.first).to_be_visible()
    shown = [float(text) for text in ticks.all_text_contents()]
    assert 0.98 <= min(shown) < max(shown) <= 1


def test_a_run_opens_with_its_description(address: str, page: Page, report_folder: Path) -> None:
    run = run_id(report_folder, "model-6 · seed 1")
    page.goto(address.partition("/#/")[0] + ui.run_path("1", run))
    expect(page.get_by_role("heading", name="Model 6")).to_be_visible()
    expect(page.get_by_text(SCRIPT)).to_be_attached()


def test_the_receptive_field_opens_as_a_table(
    address: str, page: Page, report_folder: Path
) -> None:
    run = run_id(report_folder, "model-6 · seed 1")
    page.goto(address.partition("/#/")[0] + ui.run_path("1", run, "receptive_field.json"))
    page.set_viewport_size({"width": 1366, "height": 768})
    for column in ("layer", "r_out", "kernel"):
        expect(page.get_by_text(column, exact=True).first).to_be_in_viewport()
    expect(page.get_by_text("null", exact=True)).to_have_count(0)
    expect(page.get_by_text("conv1", exact=True).first).to_be_visible()


def test_the_description_leads_to_the_report(address: str, page: Page) -> None:
    page.goto(address)
    link = page.get_by_role("link", name=ui.REPORT)
    with page.context.expect_page() as opened:
        link.click()
    inside = opened.value.frame_locator("iframe")
    heading = inside.get_by_role("heading", name="MNIST iterations compared")
    expect(heading).to_be_visible(timeout=PATIENCE)
    opened.value.close()


def test_charts_group_into_train_and_test(address: str, page: Page) -> None:
    page.goto(address.replace("=TABLE", "=CHART"))
    for section in ("train", "test"):
        expect(page.get_by_text(re.compile(rf"^{section} ?(\(\d+\))?$")).first).to_be_visible()
