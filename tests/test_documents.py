"""What the README, CONTRIBUTING and the pages of docs/ say is true: every command and every snippet
is run, in a copy of the checkout, and every link leads somewhere.

Trainings are cut to one epoch of the quickest model, and servers are stopped; nothing else is
changed. The same words are run once, on whichever pages they stand. What cannot be run here stands
in ```console blocks, and ELSEWHERE says why not, and which test does it in another way.
"""

import difflib
import json
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
from dataclasses import dataclass
from pathlib import Path

import committed
import pytest
import yaml

from mnist_exp import ROOT, __version__
from mnist_exp.data import obtain
from mnist_exp.notebook import entries, loading
from mnist_exp.training import classifier

README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, *committed.pages("docs")]
WRITTEN = [*PAGES, ROOT / "CHANGELOG.md", ROOT / "experiments" / "LOG.md"]
LINKED = sorted({*WRITTEN, *committed.pages("experiments")})
FAILING = {"make check", "make check MODEL=6 SEEDS=5"}  # not every iteration meets the target
BY_CI = {"make test", "make lint", "make setup"}  # .ci/run calls them; test_setup.py sees to it
ELSEWHERE = {
    "$ export BACKEND=postgresql://user:password@localhost/mlflow": (
        "it takes several machines; a server, a scheduler and workers run on this one",
        "tracking/test_server.py::test_a_sweep_on_workers_started_by_hand_with_a_server_on_postgresql",
    ),
    "$ conda env create -f environment.yml && conda activate mnist-exp": (
        "it downloads an environment with conda; any folder with a Python is treated like it",
        "test_setup.py::test_the_environment_that_a_user_brings_is_completed_not_remade",
    ),
    "$ python3 -m venv .venv": (
        "it downloads an environment; make does the same in the same words",
        "test_documents.py::test_by_hand_as_by_make",
    ),
    "> py -3.11 -m venv .venv": (
        "it takes Windows; the words are those of the section before",
        "test_documents.py::test_by_hand_as_by_make",
    ),
    "!git clone <the address of this repository>": (
        "it takes a notebook service; any folder with a Python is treated like its own",
        "test_setup.py::test_the_environment_that_a_user_brings_is_completed_not_remade",
    ),
    "!make backup BACKUP=/content/drive/MyDrive/mnist-exp.tar.gz": (
        "it takes that folder; another one is backed up to and restored from",
        "test_documents.py::test_command",
    ),
    "$ make check MODEL=8 BASELINE=6 SPLIT=validation    # fail if 8 is shown to be worse than 6": (
        "it takes three seeds of both on the validation split; runs with known scores are compared",
        "commands/test_cli.py::test_on_the_validation_split_people_choose_and_nothing_is_judged",
    ),
    "$ make check MODEL=9 RATE=0.9    # passed, failed, or go on: may be asked after each seed": (
        "it says go on until there are many seeds; runs with known scores are asked",
        "commands/test_cli.py::test_check_at_a_rate_may_be_asked_after_each_seed",
    ),
    "$ make sweep MODELS=9 SEEDS=1001-1030 RATE=0.9 STOP=1    # as many of them as settle it": (
        "it takes thirty whole runs; a sweep of short ones stops, and known runs are asked",
        "runs/test_sweep.py::test_a_sweep_that_stops_trains_no_further_seeds_of_what_is_settled",
    ),
    "$ make delete RUN=3f2a    # one run, with its checkpoint": (
        "there is no such run, and the others are needed; runs of the test's own are deleted",
        "runs/test_delete.py::test_a_run_is_deleted_with_what_leads_to_it_and_brought_back",
    ),
    '$ make sweep MODELS=6 SEEDS=3 SPLIT=validation SET="optimizer.lr=0.05,0.1,0.2"': (
        "nine whole runs; a grid of one is trained, and runs with known scores are compared",
        "runs/test_sweep.py::test_a_grid_is_compared_with_the_file_by_seed",
    ),
    "$ make sweep MODELS=2 SEEDS=1-4 TOGETHER=4 EPOCHS=1": (
        "it takes minutes; seeds are trained as one on few digits",
        "runs/test_sweep_groups.py",
    ),
    "!make sweep MODELS=14 SEEDS=1001-1032": (
        "it takes a graphics card; seeds are trained as one on few digits",
        "runs/test_sweep_groups.py",
    ),
    "$ make sweep MODELS=41-43 SEEDS=3 SPLIT=validation": (
        "it takes three seeds of each; runs with known scores are reported",
        "reporting/test_page.py::test_a_page_of_the_validation_split_judges_nothing",
    ),
    "$ make sweep MODELS=30 SEEDS=101-110": (
        "ten whole runs; a shorter sweep stands above it, and seeds are read elsewhere",
        "runs/test_sweep.py",
    ),
}
"""The first line of each console block: why it is not run as it stands, and what is run instead."""


@dataclass(frozen=True)
class Block:
    """What stands in a fence, on which page."""

    page: Path
    kind: str
    text: str


def blocks(page: Path) -> list[Block]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(page, kind, text) for kind, text in fences]


BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = [
    line.partition(" #")[0].strip()
    for block in BLOCKS if block.kind == "sh"
    for line in block.text.splitlines()
]  # fmt: skip
OF_RECIPES = {"recipe.md", "optimizer.md"}
"""Their snippets are tried out by test_recipe_pages.py."""
PYTHON = [b for b in BLOCKS if b.kind == "python" and b.page.name not in OF_RECIPES]
CONSOLE = [block for block in BLOCKS if block.kind == "console"]
INTERRUPTED = "make run MODEL=2 SEED=3 EPOCHS=1 DEVICE=cpu SPLIT=validation"
"""Ctrl-C ends this one, and `make resume` brings it to its end."""


STUDENTS = "41-43"
"""The iterations of docs/teaching.md."""


def shortened(command: str) -> str:
    """The command as it is run here: trainings are one epoch of the quickest model, and sweeps ask
    for those that are there by then."""
    program, *goal = command.split()[:2]
    if goal not in (["run"], ["sweep"], ["tune"]):
        return command
    settings = dict(setting.split("=", 1) for setting in shlex.split(command)[2:])
    if goal == ["run"]:
        settings |= {"MODEL": "2", "EPOCHS": "1"}
    elif goal == ["tune"]:
        settings |= {"MODEL": "2", "EPOCHS": "1", "TRIALS": "1"}
    elif settings["MODELS"] == STUDENTS:
        settings |= {"SEEDS": "1-1"}  # their recipe is cut to one epoch
    else:
        seeds = "3-3" if settings.get("SPLIT") == "validation" else "1"
        settings |= {"MODELS": "2", "SEEDS": seeds, "EPOCHS": "1"}
    return shlex.join([program, *goal, *(f"{name}={value}" for name, value in settings.items())])


def unlike(commands: list[str]) -> list[str]:
    """Each once, whether make or mnist-exp, to which make hands its words, is to run it."""
    by_words = {command.partition(" ")[2]: command for command in reversed(commands)}
    return [command for command in dict.fromkeys(commands) if command in by_words.values()]


COMMANDS = unlike([shortened(line) for line in SHELL if line not in BY_CI])


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A copy of the checkout, and what points make at it and at this environment."""
    copy = tmp_path_factory.mktemp("documents") / "mnist-exp"
    for file in committed.files():
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, copy / file)
    (alice,) = [block.text for block in PYTHON if block.page.name == "teaching.md"]
    for name in ("alice", "ben", "chen"):
        (copy / f"{name}.py").write_text(alice)
    kept = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    data = str(obtain.default_folder())
    own = {"VENV": sys.prefix, "MNIST_EXP_DATA": data, "PYTHONPATH": str(copy)}
    return copy, kept | own


def words(command: str) -> list[str]:
    """A command in words; the environment that runs these tests is used as it is, not installed
    into (make takes this option from no variable)."""
    program, *arguments = shlex.split(command)
    if program == "make":
        return [program, f"--old-file={sys.prefix}/.mnist-exp-installed", *arguments]
    return [program.replace(".venv", sys.prefix), *arguments]


def test_there_are_commands_and_snippets() -> None:
    assert SHELL[:2] == ["make run MODEL=14", "make test"]
    assert len([block for block in blocks(README) if block.kind == "sh"]) == 2
    assert len(SHELL) == 55
    assert len(COMMANDS) == 36
    assert INTERRUPTED in COMMANDS
    assert len(PYTHON) == 9


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, environment: tuple[Path, dict[str, str]]) -> None:
    copy, variables = environment
    if command == "make ui":
        serve_and_stop(copy, variables)
        return
    if command == INTERRUPTED:
        interrupt(command, copy, variables)
        return
    command = command.replace("<id>", newest_run(copy))
    done = subprocess.run(
        words(command), cwd=copy, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == (2 if command in FAILING else 0), done.stderr
    if command.startswith("make run "):
        assert (copy / "mlruns" / "mlflow.db").is_file()
        assert "See it: make ui" in done.stdout
    if command == "make report":
        assert (copy / "reports" / "comparison.html").is_file()
    if command.startswith("make adopt FILE=alice.py NAME"):
        file = entries.path(41, copy / "experiments")
        file.write_text(file.read_text().replace("epochs=15", "epochs=1"))  # as the page says
    if "OUT=" in command:
        page = (copy / command.partition("OUT=")[2].split()[0]).read_text()
        assert "41 Alice" in page
        assert "no run counts" not in page
    if number := re.match(r"make new MODEL=(\d+)", command):
        assert entries.path(int(number[1]), copy / "experiments").is_file()


def interrupt(command: str, copy: Path, variables: dict[str, str]) -> None:
    """Press Ctrl-C when the run has its first checkpoint."""
    process = subprocess.Popen(
        words(command), cwd=copy, env=variables, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    checkpoints = copy / "mlruns" / "checkpoints"
    while process.poll() is None and not list(checkpoints.glob("*.pt")):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert f"interrupted; make resume RUN={newest_run(copy)} goes on" in errors


def newest_run(copy: Path) -> str:
    """The id of the newest training in the store; "" where there is none."""
    file = copy / "mlruns" / "mlflow.db"
    if not file.exists():
        return ""
    with sqlite3.connect(file) as database:
        query = "SELECT run_uuid FROM params JOIN runs USING (run_uuid) ORDER BY start_time DESC"
        return str(next(database.execute(query), [""])[0])


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


@pytest.mark.slow
def test_snippets(environment: tuple[Path, dict[str, str]]) -> None:
    """Each with names of its own, in one process, which imports torch and MLflow once."""
    copy, variables = environment
    named = [(f"{b.page.name}, snippet {n}", b.text) for n, b in enumerate(PYTHON, start=1)]
    run = """
import json, sys
for name, text in json.load(sys.stdin):
    exec(compile(text, name, "exec"), {"__name__": "snippet"})
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", run], input=json.dumps(named), cwd=copy,
        env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_is_not_run_says_why_and_is_run_in_another_way() -> None:
    assert sorted(block.text.splitlines()[0] for block in CONSOLE) == sorted(ELSEWHERE)
    for reason, instead in ELSEWHERE.values():
        assert reason
        file, _, name = instead.partition("::")
        text = (ROOT / "tests" / file).read_text()
        assert not name or f"def {name}(" in text, instead


def test_make_takes_what_is_not_run_here() -> None:
    """A misspelt setting, or one that the command does not take, is seen without running it."""
    lines = [line for block in CONSOLE for line in block.text.splitlines()]
    commands = [line[1:].partition(" #")[0].strip() for line in lines if "make " in line]
    commands = [command for command in commands if command.startswith("make ")]
    assert len(commands) == 20
    for command in commands:
        program, *arguments = words(command.replace("$CONDA_PREFIX", sys.prefix))
        done = subprocess.run(
            [program, "--dry-run", *arguments], cwd=ROOT, capture_output=True, text=True,
            check=False, env=os.environ | {"VENV": sys.prefix},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_by_hand_as_by_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    by_hand = [line for block in CONSOLE for line in block.text.splitlines() if "-m pip" in line]
    assert len(by_hand) == 2
    for line in by_hand:
        options = line.partition("-m pip ")[2].replace("'", "")
        assert f"-m pip {options}".replace(".[dev]", "'.[dev]'") in makefile
    windows = re.findall(r"> .venv\\Scripts\\(mnist-exp .*)", "".join(b.text for b in CONSOLE))
    assert len(windows) == 1
    assert {f".venv/bin/{line}" for line in windows} < set(SHELL)


def test_the_readme_fits_the_eye() -> None:
    assert len(README.read_text().splitlines()) <= 120
    for page in PAGES:
        assert len(page.read_text().splitlines()) <= 200, page.name


def test_the_step_in_the_readme_is_the_real_one() -> None:
    """Its lines are those of the real diff, in their order; " ..." is where some are left out."""
    before, after = (entries.read_entry(number).code.splitlines() for number in (5, 6))
    changed = [line for line in difflib.unified_diff(before, after, n=0) if line[:2] != "@@"][2:]
    (block,) = [block for block in blocks(README) if block.kind == "diff"]
    place = 0
    for part in block.text.split(" ...\n"):
        lines = part.splitlines()
        place = changed.index(lines[0], place)
        assert changed[place : place + len(lines)] == lines
        place += len(lines)


def test_the_table_of_iterations_is_what_the_files_say() -> None:
    row = r"^\| \[(\d+)\]\((.*)\) \| (.*) \| ([\d,]+) \| (.*) \| (.*) \|$"
    rows = re.findall(row, README.read_text(), re.MULTILINE)
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


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)(.*?)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_linked_from_the_readme() -> None:
    links = set(re.findall(r"\]\((?!http)(.*?)\)", README.read_text()))
    assert {str(page.relative_to(ROOT)) for page in WRITTEN if page != README} <= links


def test_the_rooms_are_those_of_the_package() -> None:
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    (tree,) = re.findall(r"<!-- rooms -->\n```\n(.*?)```", text, re.DOTALL)
    package = ROOT / "mnist_exp"
    hidden = {"__init__.py", "__main__.py", "__pycache__/", "py.typed"}
    here = {f"{path.name}{'/' if path.is_dir() else ''}" for path in package.iterdir()} - hidden
    assert set(re.findall(r"^  (\S+)", tree, re.MULTILINE)) == here


def test_the_places_that_are_named_exist() -> None:
    places = re.findall(r"`(\w+/\w+)`", (ROOT / "docs" / "how-it-works.md").read_text())
    assert len(places) > 8
    for place in places:
        path = ROOT / "mnist_exp" / place
        assert path.is_dir() or path.with_suffix(".py").is_file(), place


def test_every_candidate_in_the_log_is_in_the_record() -> None:
    log = (ROOT / "experiments" / "LOG.md").read_text()
    record = (ROOT / "experiments" / "results" / "runs.csv").read_text()
    names = set(re.findall(r"`([0-9a-f]{7})`", log))
    assert len(names) > 40
    for name in names:
        assert f",{name}" in record, name


def test_what_the_project_says_of_itself_agrees() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert (ROOT / "LICENSE").read_text().startswith(f"{citation['license']} License")
    assert citation["authors"][0]["name"] in (ROOT / "LICENSE").read_text()
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
    assert (ROOT / "mnist_exp" / "py.typed").read_text() == ""


def test_public_ci_runs_what_every_change_must_pass() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    steps = yaml.safe_load(text)["jobs"]["checks"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert "://" not in text
