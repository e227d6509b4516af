"""Which of the runs under way still have a process.

A process that is killed cannot say so, and its run would be under way for ever. So whoever writes
to a run leaves its host, process id and start as a tag, and says every half minute that it is still
there. Whoever opens the store next ends the runs whose process is gone (`mark_lost`): on the same
host, since it was started last, it asks the system for the process; elsewhere it can only wait for
the silence.

No clock decides anything: it may be set at any moment, and those of two hosts differ. A process is
known by its start as the kernel counts it, and a silence lasts as long as whoever looks has seen
the same heartbeat.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mnist_exp.common.words import printable
from mnist_exp.tracking.names import FAILURE, HEARTBEAT, PROCESS, TOGETHER

log = logging.getLogger(__name__)

TAGS = PROCESS, HEARTBEAT
"""The tags of a run that only mean something while it is under way."""
BEAT = 30
"""Seconds from one heartbeat to the next."""
SILENCE = 300
"""Seconds for which commands on one host see the same heartbeat of a process on another one, until
it is taken to be gone."""


def own_tags() -> dict[str, str]:
    """The tags of a run that this process writes to."""
    number = os.getpid()
    # The system gives the id of a process that ended to a new one, which began at another time.
    identity = {"host": _host(), "boot": _read(BOOT), "id": number, "born": _born(number)}
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


def mark_lost(client: MlflowClient, experiment: str, notes: Path) -> None:
    """End the runs under way whose process is gone, as KILLED, and say so.

    A run that never said which process writes to it is left alone. `notes` is a file of this host,
    which holds since when each silent run is silent.
    """
    runs = client.search_runs([experiment], "attributes.status = 'RUNNING'", max_results=1000)
    tags = {run.info.run_id: run.data.tags for run in runs}
    gone = {run_id: is_gone(own) for run_id, own in tags.items()}
    silent = _silent(notes, {i: tags[i][HEARTBEAT] for i in tags if gone[i] is None})
    for run_id in (run_id for run_id in tags if gone[run_id] or run_id in silent):
        # The list may be older than the end of the process, which may have finished its run just
        # before: only what is read after the end of the process is the last that it wrote.
        run = client.get_run(run_id)
        last = run.data.tags.get(HEARTBEAT)
        if last != tags[run_id][HEARTBEAT] or run.info.status != "RUNNING":
            continue
        name = printable(run.info.run_name)
        end = max(run.info.start_time, round(1000 * float(last)))  # the clock may have been set
        try:
            client.set_tag(run_id, FAILURE, "its process ended without a word")
            client.set_terminated(run_id, "KILLED", end)
        except MlflowException as error:  # as of a reader, who may not write
            log.info("%s (run %s) is not marked as ended: %s", name, run_id, error.message)
            continue
        log.warning(
            "%s was under way when its process ended, and counts as KILLED; if it is a training, "
            "%s goes on with it", name,
            "the same make sweep" if TOGETHER in run.data.params else f"make resume RUN={run_id}",
        )  # fmt: skip


def _silent(notes: Path, beats: Mapping[str, str]) -> set[str]:
    """Note the last heartbeat of each run; returns the runs of which the same was noted SILENCE
    seconds ago or earlier."""
    before: Any = {}
    with contextlib.suppress(OSError, ValueError):  # none, or not of our making
        before = json.loads(notes.read_text())
    now = time.monotonic()  # of the host, not of this process; after a restart it begins anew
    observer = f"{_host()} {_read(BOOT)}"
    since = {}
    for run_id, beat in beats.items():
        try:
            noted = float(before[f"{observer} {run_id} {beat}"])
        except (KeyError, TypeError, ValueError):
            noted = now
        since[run_id] = noted if noted <= now else now
    seen = {f"{observer} {run_id} {beats[run_id]}": moment for run_id, moment in since.items()}
    if seen != before:
        part = notes.with_name(f"{notes.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # a store that may only be read
            notes.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(seen))
            part.replace(notes)
    return {run_id for run_id, moment in since.items() if now - moment >= SILENCE}


def machine(tags: Mapping[str, str]) -> str:
    """The name of the machine that writes to the run with these tags; "" where none says so."""
    try:
        return str(json.loads(tags[PROCESS])["host"]).partition(" ")[0]
    except (KeyError, TypeError, ValueError, RecursionError):  # not of our making
        return ""


def is_named(tags: Mapping[str, str]) -> bool:
    """Whether the run with these tags says which process writes to it."""
    return PROCESS in tags


def is_gone(tags: Mapping[str, str]) -> bool | None:
    """Whether the process that wrote to the run with these tags is known to have ended, or None
    where only its silence can tell."""
    try:
        process, last = json.loads(tags[PROCESS]), float(tags[HEARTBEAT])
        host, process_id, boot = process["host"], process["id"], process.get("boot")
        born = process["started" if boot is None else "born"]  # the first, in older runs
        # Also no NaN, which compares as false.
        times = 0 <= born < 2**63 and 0 <= last < 2**40
        if not (times and isinstance(host, str) and 0 < process_id < 2**32):
            return False
        if host != _host():
            return None
        if boot is None:
            return _is_gone_by_clock(process_id, born)
        # At another boot it is another host of that name, or this one before it was started anew:
        # nothing tells which, since hosts that are copies of one image share every name.
        return not _is_running(process_id, born) if boot == _read(BOOT) else None
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):  # not of our making
        return False


def _host() -> str:
    """The name of this machine, and where Linux tells it, which processes it is one of."""
    # Containers on one machine can have its name, and each its own process ids.
    space = Path("/proc/self/ns/pid")
    return f"{platform.node()} {space.readlink() if space.exists() else ''}".strip()


BOOT = "/proc/sys/kernel/random/boot_id"


def _read(file: str) -> str:
    """What Linux says in a file; "" elsewhere."""
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""


def _born(process_id: int) -> float:
    """When a process began, in a number that stays when the clock is set: ticks since the machine
    was started, or where there is no /proc, the time (s since 1970) that the system wrote down."""
    try:
        # Field 22 of 52; the second is a name, in brackets, of any characters.
        return int(Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return float(psutil.Process(process_id).create_time())


def _is_running(process_id: int, born: float) -> bool:
    try:
        # A zombie has ended; it only waits for its parent to ask how.
        ended = psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE
        return not ended and _born(process_id) == born
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # where a user sees nothing of the processes of others
        return True


def _is_gone_by_clock(process_id: int, started: float) -> bool | None:
    """Whether a process has ended that began at a time (s since 1970), as older runs have it."""
    try:
        process = psutil.Process(process_id)
        same = abs(process.create_time() - started) < 2
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return False if same else None  # another process, or the same and the clock was set
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
