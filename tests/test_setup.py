"""The files that set the project up agree with each other, and make takes values literally."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mnist_exp import ROOT
from mnist_exp.commands.cli import COMMANDS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED = f"{sys.prefix}/.mnist-exp-installed"
CONDA_NAMES = {
    "pytorch": "torch", "playwright-python": "playwright", "psycopg2": "psycopg2-binary",
}  # fmt: skip

COMPILE = "-m mnist_exp.engine.library"
BRING = "-m pip install --constraint constraints.txt ziglang"


def test_conda_and_pip_list_the_same_dependencies_with_the_same_bounds() -> None:
    extras = PROJECT["optional-dependencies"]
    assert "mnist-exp[cluster,tune]" in extras["dev"]
    # Conda has a compiler of its own, `cxx-compiler`.
    pip = [*PROJECT["dependencies"], *extras["cluster"], *extras["tune"], *extras["dev"]]
    pip.remove("mnist-exp[cluster,tune]")
    pip.append(f"python{PROJECT['requires-python']}")
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    *lines, from_pip = conda  # the last are those that conda-forge does not have
    assert bounds([*lines, *from_pip["pip"]]) == bounds(pip)


def bounds(lines: list[str]) -> dict[str, str]:
    """Name to bounds; pip itself and a compiler are conda's business."""
    requirements = [Requirement(line) for line in lines]
    return {CONDA_NAMES.get(r.name, r.name): str(r.specifier) for r in requirements
            if r.name not in ("pip", "cxx-compiler")}  # fmt: skip


def pinned() -> dict[str, str]:
    """The constraints that hold on this machine."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    found = {}
    for requirement in requirements:
        assert re.fullmatch(r"==[\w.+]+", str(requirement.specifier)), requirement
        if requirement.marker is None or requirement.marker.evaluate():
            found[canonicalize_name(requirement.name)] = str(requirement.specifier)[2:]
    return found


def closure(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> None:
    """Add what `name` needs here, and what that needs."""
    if (name, extras) in seen:
        return
    seen.add((name, extras))
    for line in importlib.metadata.requires(name) or []:
        requirement = Requirement(line)
        environments = [default_environment() | {"extra": extra} for extra in extras or {""}]
        marker = requirement.marker
        if marker is None or any(marker.evaluate(environment) for environment in environments):
            wanted = frozenset(requirement.extras)
            closure(canonicalize_name(requirement.name), wanted, seen)


def test_the_constraints_are_exact_and_complete() -> None:
    needed: set[tuple[str, frozenset[str]]] = set()
    closure("mnist-exp", frozenset({"dev"}), needed)
    names = {name for name, _ in needed} - {"mnist-exp"}
    assert len(names) > 50
    assert names <= pinned().keys()


def test_nothing_personal_to_a_machine_is_in_the_repository() -> None:
    for name in ("constraints.txt", "pyproject.toml", "environment.yml", "Makefile", ".ci/run"):
        text = (ROOT / name).read_text()
        assert "://" not in text, name
        assert "--index" not in text, name
        assert str(Path.home()) not in text, name


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call make as a user does, with the environment that runs these tests, as it is."""
    return subprocess.run(
        ["make", f"VENV={sys.prefix}", f"--old-file={INSTALLED}", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | environment,
    )  # fmt: skip


def test_bare_make_lists_every_target() -> None:
    done = make()
    assert done.returncode == 0
    makefile = (ROOT / "Makefile").read_text()
    (commands,) = re.findall(r"^commands := (.*)$", makefile, re.MULTILINE)
    (others,) = re.findall(r"^others := (.*)$", makefile, re.MULTILINE)
    assert set(commands.split()) == COMMANDS.keys()
    listed = re.findall(r"^make ([a-z-]+) +\S", done.stdout, re.MULTILINE)
    assert sorted(listed) == sorted([*commands.split(), *others.split()])
    assert re.search(r"^make run .*\n +MODEL=5 \[SEED=1\] \[EPOCHS=2\]$", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_commands_are_listed_and_settings_refused_before_anything_is_installed(
    tmp_path: Path,
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # without what is installed
    bare.chmod(0o755)
    nothing = f"VENV={tmp_path / 'none'}", f"PYTHON={bare}"
    assert make(*nothing).stdout == make().stdout
    done = make(*nothing, "run", "MODEL=5", "EPOCH=1")
    assert done.returncode == 2
    assert "make run takes no EPOCH; it takes MODEL SEED EPOCHS " in done.stderr
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "attack",
    ["5; touch {}", "$(shell touch {})", "`touch {}`", '"; touch {}; "', "$$(touch {})",
     "5\ntouch {}", "5' ; touch {} ; '", "5 | touch {}", "${{IFS:-$(touch {})}}", "--help"],
)  # fmt: skip
def test_nothing_in_a_make_variable_is_executed(attack: str, tmp_path: Path) -> None:
    target = tmp_path / "executed"
    value = attack.format(target)
    for name in ("MODEL", "SEED", "EPOCHS", "DEVICE", "SPLIT"):
        by_argument = make("run", "MODEL=six", f"{name}={value}")
        by_environment = make("run", **({"MODEL": "six"} | {name: value}))
        for done in (by_argument, by_environment):
            assert done.returncode == 2
            assert not target.exists()
            refusal = [line for line in done.stderr.splitlines() if not line.startswith("make")]
            assert len(refusal) == 1
            assert refusal[0].startswith("mnist-exp: ")


@pytest.mark.parametrize(
    "name",
    ["`id>{}`", ";id>{};", "|id>{}", "$$(id>{})", "'`id>{}`'", "$$(EVIL)", "%", "SHELL", "PATH",
     ".SHELLFLAGS", "define", "MAKEFLAGS"],
)  # fmt: skip
def test_nothing_in_a_name_is_executed(name: str, tmp_path: Path) -> None:
    target, program = tmp_path / "executed", tmp_path / "sh"
    program.write_text(f"#!/bin/sh\ntouch {target}\n")
    program.chmod(0o755)
    value = program if name == "SHELL" else tmp_path if name == "PATH" else f"touch {target};"
    for command in ("run", "lint", "setup"):
        setting = f"{name.format(target)}={value}"
        done = make(command, "MODEL=six", f"EVIL=$(shell touch {target})", setting)
        assert done.returncode == 2
        assert f"make {command} takes no" in done.stderr
        assert not target.exists()


def test_settings_come_from_the_environment_as_well() -> None:
    assert "SEED=x: a whole number" in make("run", "MODEL=5", SEED="x").stderr
    assert "SEED=y: a whole number" in make("run", "MODEL=5", "SEED=y", SEED="x").stderr
    assert "model_99.py" in make("run", "MODEL=99", "SEED=", EPOCHS="", BASELINE="x").stderr
    secret = "BACKEND=mysql://user:password@host"
    assert "BACKEND= names the database" in make("server", BACKEND=secret[8:]).stderr


@pytest.mark.parametrize("setting", ["EPOCH=1", "model=2", "epochs=1"])
def test_a_misspelt_setting_is_refused(setting: str) -> None:
    done = make("run", "MODEL=six", setting)
    assert done.returncode == 2
    name = setting.partition("=")[0]
    assert f"make run takes no {name}; it takes MODEL SEED EPOCHS " in done.stderr


@pytest.mark.parametrize(
    ("command", "setting", "takes"),
    [
        ("check", "SEED=50",
         "MODEL SEEDS BASELINE RATE SPLIT FOLD JSON PYTHON VENV (nearest: SEEDS)"),
        ("check", "MODELS=6",
         "MODEL SEEDS BASELINE RATE SPLIT FOLD JSON PYTHON VENV (nearest: MODEL)"),
        ("report", "SEEDS=3", "MODELS BASELINE SPLIT FOLD NAME OUT PYTHON VENV"),
        ("import", "BACKUP=x", "PYTHON VENV"), ("lint", "MODEL=2", "PYTHON VENV"),
        (
            "run", "SEEDS=7",
            "MODEL SEED EPOCHS SET DEVICE ENGINE SPLIT FOLD RESUME PYTHON VENV (nearest: SEED)",
        ),
    ],
)  # fmt: skip
def test_a_setting_that_a_command_does_not_take_is_refused(
    command: str, setting: str, takes: str
) -> None:
    done = make(command, setting)
    assert done.returncode == 2
    name = setting.partition("=")[0]
    told = f"make {command} takes no {name}; it takes {takes}.  Stop."
    assert " ".join(told.split()) in " ".join(done.stderr.split())


def test_a_misspelt_command_is_refused_by_its_name() -> None:
    assert "there is no make rnu (nearest: run).  Stop." in make("rnu", "MODEL=14").stderr


@pytest.mark.parametrize("venv", ["a b", "a;touch x", "a:b", "a%b", "a|b", "a=b", "a#b"])
def test_a_venv_that_make_cannot_name_is_refused(venv: str) -> None:
    done = make(f"VENV={venv}", "setup")
    assert done.returncode == 2
    assert "choose a folder without" in done.stderr


def test_an_old_python_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make(f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", "setup")
    assert done.returncode == 2
    assert "must be Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_second_call_does_nothing(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path)
    question = ["make", "--question", "VENV=venv", "setup"]
    assert subprocess.run(question, cwd=tmp_path, check=False).returncode == 1
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / ".mnist-exp-installed").touch()
    assert subprocess.run(question, cwd=tmp_path, check=False).returncode == 0


def test_the_environment_of_another_checkout_is_left_alone(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / ".mnist-exp").write_text(f"{ROOT}\n")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, other)
    done = subprocess.run(
        ["make", f"VENV={venv}", "setup"], cwd=other, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"belongs to {ROOT}" in done.stderr
    assert not (venv / ".mnist-exp-installed").exists()


def test_the_environment_that_a_user_brings_is_completed_not_remade(tmp_path: Path) -> None:
    venv = tmp_path / "conda"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n')
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", f"VENV={venv}", "PYTHON=false", "setup"], cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    called = (tmp_path / "called").read_text().splitlines()
    assert called[-2:] == ["-m pip install --editable .[dev]", "-m mnist_exp.engine.library"]
    assert "constraints" not in "".join(called)


MAKES_ENVIRONMENTS = """#!/bin/sh
echo "$@, from $UV_DEFAULT_INDEX" >> {calls}
case "$*" in
    "-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
    "-m pip config get"*) echo {index};;
    "-m uv"*) exit {code};;
esac
"""
BY_UV = "-m uv pip install --python venv/bin/python --constraint constraints.txt --editable .[dev]"
BY_PIP = "-m pip install --constraint constraints.txt --editable .[dev]"


@pytest.mark.parametrize(("code", "by_pip"), [(0, 0), (2, 1)])
def test_setup_installs_by_uv_from_where_pip_would_and_else_by_pip(
    code: int, by_pip: int, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    filled = {"calls": tmp_path / "called", "index": "pip.example/simple", "code": code}
    python.write_text(MAKES_ENVIRONMENTS.format(**filled))
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path)
    command = ["make", "VENV=venv", f"PYTHON={python}", "setup"]
    environment = {key: value for key, value in os.environ.items() if key != "PIP_INDEX_URL"}
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    called = (tmp_path / "called").read_text().splitlines()
    assert called.count(f"{BY_UV}, from pip.example/simple") == 1
    assert len([call for call in called if call.startswith(BY_PIP)]) == by_pip
    assert (tmp_path / "venv" / ".mnist-exp-installed").exists()


@pytest.mark.parametrize(("code", "then"), [(0, []), (2, []), (3, [BRING, COMPILE])])
def test_setup_brings_a_compiler_where_there_is_none(
    code: int, then: list[str], tmp_path: Path
) -> None:
    venv = tmp_path / "conda"
    (venv / "bin").mkdir(parents=True)
    python = venv / "bin" / "python"
    fails = f'[ "$2" = mnist_exp.engine.library ] && exit {code}'
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n{fails}\nexit 0\n')
    python.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy2(ROOT / name, tmp_path)
    command = ["make", f"VENV={venv}", "PYTHON=false", "setup"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    called = (tmp_path / "called").read_text().splitlines()
    assert called[called.index(COMPILE) + 1 :] == then
    assert (venv / ".mnist-exp-installed").exists()


def test_the_compiler_that_setup_brings_is_pinned() -> None:
    (line,) = PROJECT["optional-dependencies"]["compiler"]
    assert Requirement(line).specifier.contains(pinned()["ziglang"])


def test_continuous_integration_runs_the_readmes_commands() -> None:
    steps = (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()
    assert re.search("^make test$", steps, re.MULTILINE)
    for target in ("lint", "test-slow", "test-browser"):
        assert re.search(f"^make {target}$", steps, re.MULTILINE)
