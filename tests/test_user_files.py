"""The tests in a checkout in which somebody works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import committed
import pytest

from mnist_exp import ROOT
from mnist_exp.data import obtain

LOOKING = (
    "tests/notebook", "tests/training/test_faster.py", "tests/evidence/test_comparison.py",
    "tests/reporting/test_publish.py", "tests/test_documents.py", "tests/test_setup.py",
    "tests/tracking/test_proxies.py",
)  # fmt: skip
"""The tests that look at the checkout."""
MADE = {
    "experiments/model_31.py": '"""Model 31: half written.\n\nclass Network(\n',
    "experiments/model_9 copy.py": "x = 1\n",
    "experiments/blocks.py": '"""A block."""\n\nx = 1\n',
    "experiments/results/own.md": "[nowhere](nowhere.md)\n",
    "docs/notes.md": "```sh\nmake nothing\n```\n",
    "env/lib/broken.py": "def f(:\n",
    "notes.ipynb": "{}",
    ".env": "SEED=3\n",
}
"""What a user has made by hand."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with what is committed here, and with files of a user."""
    folder = tmp_path_factory.mktemp("beside") / "checkout"
    for file in committed.files():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / file)
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], check=True)
    for name, text in MADE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    shell = {
        "PYTHONPATH": str(checkout), "MNIST_EXP_DATA": str(obtain.default_folder()),
        "SEED": "3", "EPOCHS": "2", "VENV": "/nowhere", "GIT_DIR": "/nowhere/.git",
        "MLFLOW_TRACKING_URI": "sqlite:////nowhere/mlflow.db", "MLFLOW_RUN_ID": "0" * 32,
        "http_proxy": "http://127.0.0.1:1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=checkout, env=os.environ | shell,
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def contents(checkout: Path) -> dict[Path, bytes]:
    """The files of a checkout, but for what hypothesis remembers between tests."""
    files = (file for file in checkout.rglob("*") if file.is_file())
    return {file: file.read_bytes() for file in files if ".hypothesis" not in file.parts}


@pytest.mark.slow
def test_what_a_user_has_made_makes_no_test_fail_and_stays_as_it_is(checkout: Path) -> None:
    for arguments in (["new", "MODEL=30", "FROM=9"], ["backup", "BACKUP=backups/now.tar.gz"]):
        done = run(checkout, "mnist_exp", *arguments)
        assert done.returncode in (0, 2), done.stderr  # there is no run to back up
    before = contents(checkout)
    done = run(checkout, "pytest", "-n0", "-q", "-p", "no:cacheprovider", *LOOKING)
    assert done.returncode == 0, done.stdout[-5000:]
    after = contents(checkout)
    changed = {file for file in {*before, *after} if before.get(file) != after.get(file)}
    assert {file for file in changed if file.suffix != ".pyc"} == set()


def test_the_linter_looks_at_the_project_alone(checkout: Path) -> None:
    done = run(checkout, "ruff", "check", "--no-cache", "--output-format=concise", ".")
    complaints = [line for line in done.stdout.splitlines() if ".py:" in line or ".ipynb" in line]
    assert complaints
    assert {line.partition("/")[0] for line in complaints} == {"experiments"}
