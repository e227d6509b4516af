"""Runs under way whose process is gone are ended by whoever opens the store next."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil
import pytest
from mlflow import MlflowClient

from mnist_exp import ROOT, tracking
from mnist_exp.tracking import liveness

pytestmark = pytest.mark.usefixtures("store")

TRAINING = """
from mnist_exp import tracking
with tracking.start_run("a training", {}, {}) as run:
    run.set_tags({"heartbeat": "1790000000.5"})
    print(run.run_id, flush=True)
    input()
"""
"""A run under way that was last heard of in September 2026."""
SWEEP = TRAINING.replace('start_run("a training", {}, {})', 'continue_run("a sweep")')
"""The parent of the runs of a sweep."""


@pytest.fixture
def client() -> MlflowClient:
    return tracking.open_store()[0]


def status(client: MlflowClient, run_id: str) -> str:
    return str(client.get_run(run_id).info.status)


def test_the_next_command_ends_the_runs_of_killed_processes(client: MlflowClient) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    killed = [subprocess.Popen([sys.executable, "-c", code], **pipes) for code in (TRAINING, SWEEP)]
    ids = [process.stdout.readline().strip() for process in killed]
    with tracking.start_run("our own", {}, {}) as ours:
        liveness.mark_lost(client, "1")
        assert [status(client, run_id) for run_id in ids] == ["RUNNING"] * 2
        for process in killed:
            process.kill()
            process.communicate()
        compare = [sys.executable, "-m", "mnist_exp", "compare"]
        said = subprocess.run(compare, capture_output=True, text=True, check=False).stderr
        assert status(client, ours.run_id) == "RUNNING"
    for run_id, name in zip(ids, ("a training", "a sweep"), strict=True):
        line = (
            f"{name} was under way when its process ended, and counts as KILLED; if it is a "
            f"training, make resume RUN={run_id} goes on with it"
        )
        assert said.splitlines().count(line) == 1
        assert status(client, run_id) == "KILLED"
        assert client.get_run(run_id).info.end_time == 1790000000500
    assert "our own" not in said
    assert client.get_run(ids[0]).data.tags["failure"] == "its process ended without a word"


def begin(client: MlflowClient, changed: dict[str, object], beat: object = None) -> str:
    """A run under way of this process, but for what is changed; returns its id."""
    tags = liveness.own_tags()
    tags[liveness.PROCESS] = json.dumps(json.loads(tags[liveness.PROCESS]) | changed)
    if beat is not None:
        tags[liveness.HEARTBEAT] = str(beat)
    return str(client.create_run("1", run_name="one", tags=tags).info.run_id)


def test_a_process_id_that_another_process_has_now_is_no_sign_of_life(
    client: MlflowClient,
) -> None:
    recycled = begin(client, {"started": psutil.Process().create_time() - 60})
    same = begin(client, {"started": psutil.Process().create_time() + 1})  # the clock was set
    liveness.mark_lost(client, "1")
    assert status(client, recycled) == "KILLED"
    assert status(client, same) == "RUNNING"


def test_a_process_that_nobody_waited_for_is_gone(client: MlflowClient) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run_id = begin(client, {"id": child.pid, "started": psutil.Process(child.pid).create_time()})
    liveness.mark_lost(client, "1")
    assert status(client, run_id) == "RUNNING"
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
    liveness.mark_lost(client, "1")
    assert status(client, run_id) == "KILLED"
    child.communicate()


def test_a_process_on_another_host_is_gone_after_five_minutes_of_silence(
    client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.time()
    fresh = begin(client, {"host": "elsewhere"}, now - 240)
    silent = begin(client, {"host": "elsewhere"}, now - 310)
    liveness.mark_lost(client, "1")
    assert status(client, fresh) == "RUNNING"
    assert status(client, silent) == "KILLED"
    assert client.get_run(silent).info.end_time == round(1000 * (now - 310))
    assert f"make resume RUN={silent}" in caplog.text
    assert fresh not in caplog.text


GONE = {"host": "elsewhere", "id": 1, "started": 1.5}
JUNK = [
    ("", "1.5"),
    ("<script>alert(1)</script>", "1.5"),
    ("[" * 5000, "1.5"),
    ("[]", "1.5"),
    ("null", "1.5"),
    ('"elsewhere"', "1.5"),
    ("{}", "1.5"),
    *(
        (json.dumps(GONE | wrong), "1.5")
        for wrong in (
            {"host": None}, {"host": ["elsewhere"]}, {"host": 7}, {"id": "1"}, {"id": None},
            {"id": -1}, {"id": 0}, {"id": 10**30}, {"started": None}, {"started": "1.5"},
            {"started": float("nan")}, {"started": float("inf")}, {"started": -1},
            {"started": 1e300}, {"started": 10**400},
        )
    ),
    *((json.dumps(GONE), beat) for beat in ("", "nan", "inf", "-inf", "1e300", "-1", "<b>", "٥ x")),
]  # fmt: skip
"""What others may have written as `process` and `heartbeat`."""


@pytest.mark.parametrize("here", [False, True], ids=["elsewhere", "here"])
def test_tags_that_are_junk_end_no_run(
    here: bool, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    own = json.dumps(liveness._host())
    tags = [
        {"process": process.replace('"elsewhere"', own) if here else process, "heartbeat": beat}
        for process, beat in JUNK
    ]
    tags += [{}, {"process": json.dumps(GONE)}, {"heartbeat": "1.5"}]
    for own_tags in tags:
        client.create_run("1", tags=own_tags)
    liveness.mark_lost(client, "1")
    assert tracking.runs()["status"].tolist() == ["RUNNING"] * len(tags)
    assert caplog.text == ""
    real = client.create_run("1", tags={"process": json.dumps(GONE), "heartbeat": "1.5"})
    liveness.mark_lost(client, "1")
    assert status(client, real.info.run_id) == "KILLED"


def test_a_run_that_was_finished_just_before_its_process_ended_stays_so(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = begin(client, {"started": 1.5})
    ask = liveness.is_gone

    def ended_meanwhile(tags: dict[str, str]) -> bool:
        client.set_terminated(run_id, "FINISHED")
        return ask(tags)

    monkeypatch.setattr(liveness, "is_gone", ended_meanwhile)
    liveness.mark_lost(client, "1")
    assert status(client, run_id) == "FINISHED"


def test_the_name_of_a_lost_run_cannot_write_to_the_terminal(
    client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    tags = {"process": json.dumps(GONE), "heartbeat": "1.5"}
    client.create_run("1", run_name="\x1b[2J\nall is well", tags=tags)
    with caplog.at_level(logging.WARNING):
        liveness.mark_lost(client, "1")
    assert caplog.messages[0].startswith(r"\x1b[2J\nall is well was under way")


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def test_the_heart_beats_while_the_run_is_under_way(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def beat() -> float:
        return float(client.get_run(run.run_id).data.tags["heartbeat"])

    monkeypatch.setattr(liveness, "BEAT", 0.05)
    with tracking.start_run("alive", {}, {}) as run:
        first = beat()
        assert eventually(lambda: beat() > first)
        second = beat()
        assert eventually(lambda: beat() > second)
    time.sleep(0.3)  # the last may be on its way
    last = beat()
    time.sleep(0.3)
    assert beat() == last
    assert abs(last - time.time()) < 30
