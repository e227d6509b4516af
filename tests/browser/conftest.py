"""A real headless Chromium."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from mnist_exp.evidence import comparison
from mnist_exp.reporting.enter import enter_runs
from mnist_exp.reporting.page import write_page

NAMES = ("chromium", "chromium-browser", "google-chrome")
# As root, as in a container, Chromium needs the first; the others keep it from calling home.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic",
]  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The Chromium of the system, or else the one of `playwright install chromium`."""
    installed = next(filter(None, map(shutil.which, NAMES)), None)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=installed, args=OPTIONS)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def published_page(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on the published runs."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(fresh_store, folder / "mlruns")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        enter_runs()
        return write_page(comparison.compare(), folder / "reports" / "comparison.html")
