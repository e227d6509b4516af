"""Runs under way whose process is gone are ended by whoever opens the store next."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from handmade import record_run
from mlflow import MlflowClient

from mnist_exp import ROOT, tracking
from mnist_exp.evidence import comparison
from mnist_exp.tracking import liveness

pytestmark = pytest.mark.usefixtures("store")

TRAINING = """
from mnist_exp import tracking
with tracking.start_run("a training", {}, {}) as run:
    run.set_tags({"heartbeat": "4790000000.5"})
    print(run.run_id, flush=True)
    input()
"""
"""A run under way that was last heard of in October 2121."""
SWEEP = TRAINING.replace('start_run("a training", {}, {})', 'continue_run("a sweep")')
"""The parent of the runs of a sweep."""
GROUP = TRAINING.replace('"a training", {}', '"one of a group", {"seeds_together": "1-3"}')
"""A run of a seed that is trained as one with others."""


@pytest.fixture
def client() -> MlflowClient:
    return tracking.open_store()[0]


def status(client: MlflowClient, run_id: str) -> str:
    return str(client.get_run(run_id).info.status)


@pytest.mark.slow
def test_the_next_command_ends_the_runs_of_killed_processes(
    client: MlflowClient, store: Path
) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    codes = TRAINING, SWEEP, GROUP
    killed = [subprocess.Popen([sys.executable, "-c", code], **pipes) for code in codes]
    ids = [process.stdout.readline().strip() for process in killed]
    with tracking.start_run("our own", {}, {}) as ours:
        look(client, store)
        assert [status(client, run_id) for run_id in ids] == ["RUNNING"] * 3
        for process in killed:
            process.kill()
            process.communicate()
        compare = [sys.executable, "-m", "mnist_exp", "compare"]
        said = subprocess.run(compare, capture_output=True, text=True, check=False).stderr
        assert status(client, ours.run_id) == "RUNNING"
    resumed = [f"make resume RUN={run_id}" for run_id in ids[:2]]
    said_so = [*resumed, "the same make sweep"]  # no run of a group goes on alone
    named = ("a training", "a sweep", "one of a group")
    for run_id, name, how in zip(ids, named, said_so, strict=True):
        line = (
            f"{name} was under way when its process ended, and counts as KILLED; if it is a "
            f"training, {how} goes on with it"
        )
        assert said.splitlines().count(line) == 1
        assert status(client, run_id) == "KILLED"
        assert client.get_run(run_id).info.end_time == 4790000000500
    assert "our own" not in said
    assert client.get_run(ids[0]).data.tags["failure"] == "its process ended without a word"


def begin(client: MlflowClient, changed: dict[str, object], beat: object = None) -> str:
    """A run under way of this process, but for what is changed; returns its id."""
    tags = liveness.own_tags()
    tags[liveness.PROCESS] = json.dumps(json.loads(tags[liveness.PROCESS]) | changed)
    if beat is not None:
        tags[liveness.HEARTBEAT] = str(beat)
    return str(client.create_run("1", run_name="one", tags=tags).info.run_id)


def look(client: MlflowClient, store: Path) -> None:
    """What each command does when it opens the store."""
    liveness.mark_lost(client, "1", store / ".heartbeats.json")


def of_old(began: float, **changed: object) -> dict[str, object]:
    """What older runs say of this process, which began at that time (s since 1970)."""
    return {"machine": None, "boot": None, "born": None, "started": began} | changed


def test_a_process_id_that_another_process_has_now_is_no_sign_of_life(
    client: MlflowClient, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = json.loads(liveness.own_tags()["process"])
    same = begin(client, {})
    recycled = begin(client, {"born": own["born"] - 100})
    began = psutil.Process().create_time()
    old, old_recycled = begin(client, of_old(began + 1)), begin(client, of_old(began - 60))
    look(client, store)
    assert status(client, recycled) == "KILLED"
    assert [status(client, run) for run in (same, old, old_recycled)] == ["RUNNING"] * 3
    monkeypatch.setattr(liveness, "SILENCE", 0)  # which is all that tells of an old one
    look(client, store)
    assert [status(client, run) for run in (same, old)] == ["RUNNING"] * 2
    assert status(client, old_recycled) == "KILLED"


@pytest.mark.parametrize("hours", [1, -1, 24 * 365])
def test_a_clock_that_is_set_ends_no_run(
    hours: int, client: MlflowClient, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By as much as the clock, the time moves that Linux gives as that of its start."""
    here, elsewhere = begin(client, {}), begin(client, {"host": "elsewhere"})
    old = begin(client, of_old(psutil.Process().create_time()))
    look(client, store)
    clock, boot_time = time.time, psutil._pslinux.boot_time
    monkeypatch.setattr(time, "time", lambda: clock() + 3600 * hours)
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: boot_time() + 3600 * hours)
    look(client, store)
    assert [status(client, run) for run in (here, elsewhere, old)] == ["RUNNING"] * 3
    assert psutil.Process().create_time() != json.loads(liveness.own_tags()["process"])["born"]


def test_only_silence_tells_of_a_process_at_another_boot(
    client: MlflowClient, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be on another host, a copy of the same image, with the same name and machine-id."""
    file = Path("/etc/machine-id")
    machine = file.read_text().strip() if file.exists() else ""
    other = begin(client, {"boot": "another", "machine": machine})
    look(client, store)
    assert status(client, other) == "RUNNING"
    monkeypatch.setattr(liveness, "SILENCE", 0)
    look(client, store)
    assert status(client, other) == "KILLED"


def test_a_run_after_which_the_clock_is_set_back_is_older_than_the_next(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of two runs of a seed the newest counts, also when it began earlier by the clock."""
    first = record_run(6, errors=[500] * 15)
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 7200)
    second = record_run(6)
    assert f"the newest run ({first}) will only begin in 120 min" in caplog.text
    assert tracking.runs()["run_id"].tolist() == [first, second]
    (counted,) = comparison.compare([6]).verdicts
    assert counted.met
    with tracking.start_run("a third", {}, {}) as run:
        run.log_metrics({"train/loss": 0.5}, step=1, time=time.time())
        run.log_metrics({"train/loss": 0.25}, step=2, time=time.time() - 3600)
    assert tracking.history([run.run_id])["train_loss"].tolist() == [0.5, 0.25]
    times = tracking.find_run(run.run_id).iloc[0]
    assert times["start_time"] <= times["end_time"]


def test_a_process_that_nobody_waited_for_is_gone(client: MlflowClient, store: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = psutil.Process(child.pid).create_time()
    run_id = begin(client, {"id": child.pid, "born": liveness._born(child.pid)})
    old = begin(client, of_old(began, id=child.pid))
    look(client, store)
    assert status(client, run_id) == status(client, old) == "RUNNING"
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays as a zombie
    look(client, store)
    assert status(client, run_id) == status(client, old) == "KILLED"
    child.communicate()


def test_a_process_on_another_host_is_gone_when_the_same_heartbeat_was_seen_for_long(
    client: MlflowClient, store: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Whatever its clock says, and however long ago that is by the own."""
    now = time.time()
    beats = {"silent": now - 7200, "alive": now - 7200, "of the future": now + 7200}
    runs = {name: begin(client, {"host": "elsewhere"}, beat) for name, beat in beats.items()}
    passed = time.monotonic
    for minutes, killed in ((0, ()), (4, ()), (6, ("silent", "of the future"))):
        monkeypatch.setattr(time, "monotonic", lambda: passed() + 60 * minutes)  # noqa: B023
        client.set_tag(runs["alive"], "heartbeat", str(beats["alive"] + 60 * minutes))
        look(client, store)
        found = {name for name, run in runs.items() if status(client, run) == "KILLED"}
        assert found == set(killed)
    assert client.get_run(runs["silent"]).info.end_time >= round(1000 * beats["silent"])
    assert f"make resume RUN={runs['silent']}" in caplog.text
    assert runs["alive"] not in caplog.text


@pytest.mark.parametrize("notes", ["", "[1]", "null", "\xff", '{"a": "b"}'])
def test_notes_of_silence_that_are_junk_begin_anew(
    notes: str, client: MlflowClient, store: Path
) -> None:
    (store / ".heartbeats.json").write_text(notes, encoding="latin-1")
    run_id = begin(client, {"host": "elsewhere"})
    look(client, store)
    assert status(client, run_id) == "RUNNING"
    (since,) = json.loads((store / ".heartbeats.json").read_text()).values()
    assert since <= time.monotonic()


GONE = {
    "host": liveness._host(),
    "machine": "",
    "boot": liveness._read(liveness.BOOT),
    "id": 1,
    "born": 1.5,
}
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
            {"id": -1}, {"id": 0}, {"id": 10**30}, {"born": None}, {"born": "1.5"},
            {"born": float("nan")}, {"born": float("inf")}, {"born": -1},
            {"born": 1e300}, {"born": 10**400},
        )
    ),
    *((json.dumps(GONE), beat) for beat in ("", "nan", "inf", "-inf", "1e300", "-1", "<b>", "٥ x")),
]  # fmt: skip
"""What others may have written as `process` and `heartbeat`."""


@pytest.mark.parametrize("here", [False, True], ids=["elsewhere", "here"])
def test_tags_that_are_junk_end_no_run(
    here: bool, client: MlflowClient, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, other = json.dumps(liveness._host()), '"elsewhere"'
    tags = [
        {"process": process if here else process.replace(own, other), "heartbeat": beat}
        for process, beat in JUNK
    ]
    tags += [{}, {"process": json.dumps(GONE)}, {"heartbeat": "1.5"}]
    for own_tags in tags:
        client.create_run("1", tags=own_tags)
    look(client, store)
    assert tracking.runs()["status"].tolist() == ["RUNNING"] * len(tags)
    assert caplog.text == ""
    real = client.create_run("1", tags={"process": json.dumps(GONE), "heartbeat": "1.5"})
    look(client, store)
    assert status(client, real.info.run_id) == "KILLED"


def test_a_run_that_was_finished_just_before_its_process_ended_stays_so(
    client: MlflowClient, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = begin(client, {"born": 1.5})
    ask = liveness.is_gone

    def ended_meanwhile(tags: dict[str, str]) -> bool:
        client.set_terminated(run_id, "FINISHED")
        return ask(tags)

    monkeypatch.setattr(liveness, "is_gone", ended_meanwhile)
    look(client, store)
    assert status(client, run_id) == "FINISHED"


def test_the_name_of_a_lost_run_cannot_write_to_the_terminal(
    client: MlflowClient, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tags = {"process": json.dumps(GONE), "heartbeat": "1.5"}
    client.create_run("1", run_name="\x1b[2J\nall is well", tags=tags)
    with caplog.at_level(logging.WARNING):
        look(client, store)
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
