"""Every command and every snippet in the README is run, in a copy of the checkout.

Runs are cut to one epoch of the quickest model, and servers are stopped; nothing else is changed.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnist_exp import ROOT
from mnist_exp.notebook import entries, loading
from mnist_exp.training import classifier

README = (ROOT / "README.md").read_text()
SHELL = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
NOT_MET = "make check MODEL=6 SEEDS=5"
RUN_BY_CI = ("make test", "make lint")  # test_setup.py sees to it


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of the checkout, and what points make at it and at this environment."""
    copy = tmp_path_factory.mktemp("readme") / "mnist-exp"
    ignored = shutil.ignore_patterns(".*", "data", "mlruns", "reports", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    data = os.environ.get("MNIST_EXP_DATA", str(ROOT / "data"))
    return copy, kept | {"VENV": sys.prefix, "MNIST_EXP_DATA": data}


def words(command: str) -> list[str]:
    """A command of the README, in words; the environment that runs these tests is used as it is,
    not installed into (make takes this option from no variable)."""
    make, *arguments = shlex.split(command)
    return [make, f"--old-file={sys.prefix}/.mnist-exp-installed", *arguments]


def test_the_readme_has_commands_and_snippets() -> None:
    assert SHELL[:2] == ["make run MODEL=14", "make test"]
    assert len(SHELL) == 17
    assert len(PYTHON) == 2


@pytest.mark.parametrize("command", [line for line in SHELL if line not in RUN_BY_CI])
def test_command(command: str, environment: tuple[Path, dict[str, str]]) -> None:
    copy, variables = environment
    if command.startswith("make run"):
        command = f"{command} MODEL=2 EPOCHS=1"  # the last one counts
    if command.startswith("make sweep"):
        command = f"{command} MODELS=2 SEEDS=1 EPOCHS=1"
    if command == "make ui":
        serve_and_stop(copy, variables)
        return
    if command.startswith("make resume"):
        command = command.replace("<id>", interrupted_run(copy, variables))
    if command.startswith("make reproduce"):
        command = command.replace("<id>", newest_run(copy))
    done = subprocess.run(
        words(command), cwd=copy, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == (2 if command == NOT_MET else 0), done.stderr
    if command.startswith("make run"):
        assert (copy / "mlruns" / "mlflow.db").is_file()
        assert "See it: make ui" in done.stdout
    if command == "make report":
        assert (copy / "reports" / "comparison.html").is_file()
    if number := re.match(r"make new MODEL=(\d+)", command):
        assert entries.path(int(number[1]), copy / "experiments").is_file()


def interrupted_run(copy: Path, variables: dict[str, str]) -> str:
    """Press Ctrl-C when a run has its first checkpoint; returns its id."""
    process = subprocess.Popen(
        words("make run MODEL=2 EPOCHS=1"), cwd=copy, env=variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    checkpoints = copy / "mlruns" / "checkpoints"
    while process.poll() is None and not list(checkpoints.glob("*.pt")):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    (run_id,) = re.findall(r"interrupted; make resume RUN=(\w{32}) goes on", errors)
    return str(run_id)


def newest_run(copy: Path) -> str:
    with sqlite3.connect(copy / "mlruns" / "mlflow.db") as database:
        query = "SELECT run_uuid FROM runs JOIN metrics USING (run_uuid) ORDER BY start_time DESC"
        return str(database.execute(query).fetchone()[0])


def serve_and_stop(copy: Path, variables: dict[str, str]) -> None:
    """Start `make ui` as its own group, as a terminal does, and press Ctrl-C."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        words(f"make ui PORT={port}"), cwd=copy, env=variables, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert f"http://127.0.0.1:{port}/#/experiments/" in server.stdout.readline()
        for line in server.stderr:
            if f"Uvicorn running on http://127.0.0.1:{port}" in line:
                break
    finally:
        os.killpg(server.pid, signal.SIGINT)
        _, errors = server.communicate(timeout=30)
    assert "Traceback" not in errors


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_snippet(number: int, environment: tuple[Path, dict[str, str]]) -> None:
    copy, variables = environment
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PYTHON[number]],
        cwd=copy, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_table_of_iterations_is_what_the_files_say() -> None:
    row = r"^\| \[(\d+)\]\((.*)\) \| (.*) \| ([\d,]+) \| (.*) \| (.*) \|$"
    rows = re.findall(row, README, re.MULTILINE)
    results = (ROOT / "experiments" / "RESULTS.md").read_text()
    assert {int(number) for number, *_ in rows} <= set(entries.numbers())
    assert [int(number) for number, *_ in rows][:6] == [1, 2, 3, 4, 5, 6]
    for number, link, title, parameters, seeds, worst in rows:
        iteration = loading.load_iteration(int(number))
        assert (ROOT / link) == iteration.path
        assert title == iteration.title
        count = classifier.count_parameters(iteration.recipe.network())
        assert parameters == f"{count:,}"
        if " of " in seeds:
            assert re.search(
                rf"^\| {number} \| .* \| {seeds} \(.* \| {worst} ", results, re.MULTILINE
            )


def test_its_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)(.*?)\)", README):
        assert (ROOT / link).exists(), link
