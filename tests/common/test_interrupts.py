"""Signals that come where an exception is swallowed."""

import os
import signal
import sqlite3
import time
import traceback
import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from handmade import record_run
from sqlalchemy import Engine, Pool, event

from mnist_exp import tracking
from mnist_exp.common import interrupts
from mnist_exp.tracking.store import readable_errors

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    yield
    interrupts.heard()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_in_a_callback_is_raised_again(number: signal.Signals) -> None:
    class Something:
        pass

    signal.signal(number, signal.SIG_DFL)
    interrupts.listen()
    something = Something()
    called = []
    watch = weakref.ref(something, lambda _: (os.kill(os.getpid(), number), called.append(1)))
    del something  # Python says "Exception ignored in", and goes on
    assert watch() is None
    assert not called
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)  # nobody asks, and it is raised again
    interrupts.heard()
    interrupts.check()
    time.sleep(2 * interrupts.AGAIN)


def test_an_interrupt_stays_one_where_a_library_makes_another_error_of_it(tmp_path: Path) -> None:
    @readable_errors()
    def write() -> None:
        descriptor = os.open(tmp_path / "file", os.O_CREAT)
        os.close(descriptor)
        try:
            os.kill(os.getpid(), signal.SIGTERM)  # as between two lines of a library
        finally:
            os.close(descriptor)

    interrupts.listen()
    with pytest.raises(KeyboardInterrupt):
        write()


def test_an_interrupt_waits_for_the_end_of_a_transaction(store: Path) -> None:
    def kill(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT INTO metrics"):
            os.kill(os.getpid(), signal.SIGTERM)

    run = record_run(6)
    client, _ = tracking.open_store()
    interrupts.listen()
    event.listen(Engine, "before_cursor_execute", kill)
    try:
        client.log_metric(run, "late", 7)
    finally:
        event.remove(Engine, "before_cursor_execute", kill)
    with pytest.raises(KeyboardInterrupt):
        time.sleep(10)
    interrupts.heard()
    assert client.get_run(run).data.metrics["late"] == 7
    with closing(sqlite3.connect(store / "mlflow.db", timeout=0)) as database:
        database.execute("BEGIN EXCLUSIVE")  # nobody holds a lock
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)  # which are heard at once again


@contextmanager
def signal_in(call: str, number: signal.Signals) -> Iterator[None]:
    """While the block lasts, send a signal before each transaction of a method of the store."""

    def kill(*_: object) -> None:
        if any(frame.name == call for frame in traceback.extract_stack()):
            os.kill(os.getpid(), number)

    signal.signal(number, signal.SIG_DFL)  # whoever runs the tests by nohup ignores it
    interrupts.listen()
    event.listen(Pool, "checkout", kill, insert=True)  # before the transaction holds signals
    try:
        yield
    finally:
        event.remove(Pool, "checkout", kill)


@pytest.mark.parametrize("call", ["create_run", "set_terminated"])
def test_a_run_ends_though_it_is_signalled_while_it_is_begun_or_ended(
    store: Path, call: str
) -> None:
    with (
        pytest.raises(KeyboardInterrupt) as first,
        signal_in(call, signal.SIGHUP),
        tracking.start_run("twice", {}, {}),
    ):
        os.kill(os.getpid(), signal.SIGHUP)
    time.sleep(2 * interrupts.AGAIN)  # the second signal asks for nothing more
    assert first.value.__context__ is None
    assert tracking.runs()["status"].tolist() == ["KILLED"]
    with closing(sqlite3.connect(store / "mlflow.db", timeout=0)) as database:
        database.execute("BEGIN EXCLUSIVE")  # nobody holds a lock


@pytest.mark.usefixtures("store")
def test_a_run_is_killed_by_an_interrupt_of_which_something_has_made_another_error() -> None:
    def stop() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise RuntimeError("stopped") from error

    interrupts.listen()
    with pytest.raises(RuntimeError, match="stopped"), tracking.start_run("wrapped", {}, {}):
        stop()
    run = tracking.runs().iloc[0]
    assert run["status"] == "KILLED"


@pytest.mark.usefixtures("store")
def test_a_run_that_is_being_finished_is_finished() -> None:
    with signal_in("set_terminated", signal.SIGTERM), tracking.start_run("finished", {}, {}):
        pass
    time.sleep(2 * interrupts.AGAIN)
    assert tracking.runs()["status"].tolist() == ["FINISHED"]


def test_a_system_without_hangups_hears_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SIGHUP", "SIGALRM", "setitimer"):
        monkeypatch.delattr(signal, name)  # Windows
    interrupts.listen()
    for number in (signal.SIGINT, signal.SIGTERM):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    interrupts.listen()
    os.kill(os.getpid(), signal.SIGHUP)
    interrupts.check()
