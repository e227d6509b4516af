"""Which of the runs under way still have a process.

A process that is killed cannot say so, and its run would be under way for ever. So whoever writes
to a run leaves its host, process id and start time as a tag, and says every half minute that it is
still there. Whoever opens the store next ends the runs whose process is gone (`mark_lost`): on the
same host it asks the system for the process, on another it can only wait for the silence.
"""

from __future__ import annotations

import contextlib
import json
import logging
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mnist_exp.common.words import printable
from mnist_exp.tracking.names import FAILURE, HEARTBEAT, PROCESS

log = logging.getLogger(__name__)

TAGS = PROCESS, HEARTBEAT
"""The tags of a run that only mean something while it is under way."""
BEAT = 30
"""Seconds from one heartbeat to the next."""
SILENCE = 300
"""Seconds without a heartbeat after which a process on another host is taken to be gone."""


def own_tags() -> dict[str, str]:
    """The tags of a run that this process writes to."""
    process = psutil.Process()
    # The system gives the id of a process that ended to a new one, which started at another time.
    identity = {"host": _host(), "id": process.pid, "started": process.create_time()}
    return {PROCESS: json.dumps(identity), HEARTBEAT: str(time.time())}


@contextlib.contextmanager
def heartbeat(client: MlflowClient, run_id: str) -> Iterator[None]:
    """Say while the block lasts that the run is under way."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            # Whatever goes wrong: a store that is away is noticed when something that matters is
            # written, and a thread that ends here would make a run that goes on seem lost.
            with contextlib.suppress(Exception):
                client.set_tag(run_id, HEARTBEAT, str(time.time()))

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def mark_lost(client: MlflowClient, experiment: str) -> None:
    """End the runs under way whose process is gone, as KILLED, and say so.

    A run that never said which process writes to it is left alone.
    """
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=1000):
        run_id, name = run.info.run_id, printable(run.info.run_name)
        # The list may be older than the end of the process, which may have finished its run just
        # before: only what is read after the end of the process is the last that it wrote.
        now = client.get_run(run_id) if is_gone(run.data.tags) else run
        if not is_gone(now.data.tags) or now.info.status != "RUNNING":
            continue
        try:
            client.set_tag(run_id, FAILURE, "its process ended without a word")
            client.set_terminated(run_id, "KILLED", round(1000 * float(now.data.tags[HEARTBEAT])))
        except MlflowException as error:  # as of a reader, who may not write
            log.info("%s (run %s) is not marked as ended: %s", name, run_id, error.message)
            continue
        log.warning(
            "%s was under way when its process ended, and counts as KILLED; if it is a training, "
            "make resume RUN=%s goes on with it", name, run_id,
        )  # fmt: skip


def is_named(tags: Mapping[str, str]) -> bool:
    """Whether the run with these tags says which process writes to it."""
    return PROCESS in tags


def is_gone(tags: Mapping[str, str]) -> bool:
    """Whether the process that wrote to the run with these tags is known to have ended."""
    try:
        process, last = json.loads(tags[PROCESS]), float(tags[HEARTBEAT])
        host, process_id, started = process["host"], process["id"], process["started"]
        # Also no NaN, which compares as false.
        times = all(0 <= moment < 2 * time.time() for moment in (started, last))
        if not (times and isinstance(host, str) and 0 < process_id < 2**32):
            return False
        if host != _host():
            return time.time() - last > SILENCE
        return not _is_running(process_id, started)
    except (KeyError, TypeError, ValueError, RecursionError):  # not of our making
        return False


def _host() -> str:
    """The name of this machine, and where Linux tells it, which processes it is one of."""
    # Containers on one machine can have its name, and each its own process ids.
    space = Path("/proc/self/ns/pid")
    return f"{platform.node()} {space.readlink() if space.exists() else ''}".strip()


def _is_running(process_id: int, started: float) -> bool:
    try:
        process = psutil.Process(process_id)
        same = abs(process.create_time() - started) < 2  # seconds: the clock may have been set
        # A zombie has ended; it only waits for its parent to ask how.
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # where a user sees nothing of the processes of others
        return True
