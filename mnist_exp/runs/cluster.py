"""The workers of a sweep: processes of this machine, or a dask cluster that is there already."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import CancelledError, Client, LocalCluster

from mnist_exp import __version__, tracking
from mnist_exp.common.errors import ExpectedError

CONNECT = "10s"
"""How long a scheduler may take to answer."""


@contextmanager
def cluster_client(scheduler: str, workers: int | None) -> Iterator[Client]:
    """A client of the cluster of `scheduler`, or of `workers` processes of this machine (one per
    core if None) that end with the block. Raises ExpectedError when it cannot be reached."""
    logging.getLogger("distributed").setLevel(logging.ERROR)
    # It has a level of its own, and logs a traceback about a scheduler that we say is lost.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    if not scheduler:
        # Ctrl-C is for the sweep alone: its workers inherit that they ignore it.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        cluster = LocalCluster(
            n_workers=workers or os.cpu_count(), threads_per_worker=1, memory_limit=0,
            host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs="CRITICAL",
        )  # fmt: skip
        signal.signal(signal.SIGINT, handler)
        with cluster, Client(cluster) as client:
            yield client
        return
    if not tracking.is_served():
        raise ExpectedError(
            "the workers of SCHEDULER= cannot reach a local SQLite file: start a tracking server "
            f"that they can reach (make server), and set {tracking.ADDRESS} to its address"
        )
    try:
        client = Client(scheduler, timeout=CONNECT)
    except (OSError, ValueError, TimeoutError) as error:
        raise ExpectedError(f"SCHEDULER={scheduler} cannot be reached: {error}") from None
    with client:
        try:
            yield client
        except (CancelledError, OSError) as error:
            if isinstance(error, OSError) and client.status == "running":
                raise
            raise ExpectedError(
                f"the scheduler {scheduler} was lost, and the trainings under way with it: start "
                "it again, and the same command trains what is missing"
            ) from None


def check_workers(client: Client) -> int:
    """How many trainings the workers take at once.

    Raises ExpectedError when there is none, or one (or the scheduler) has another mnist-exp.
    """
    workers = client.run(_version, on_error="return")
    if not workers:
        raise ExpectedError("SCHEDULER= has no worker: start one, as docs/machines.md says")
    versions = {f"worker {address}": version for address, version in workers.items()}
    try:
        versions["the scheduler"] = client.run_on_scheduler(_version)  # it reads the jobs, too
    except ModuleNotFoundError as error:
        versions["the scheduler"] = error
    for place, version in versions.items():
        if isinstance(version, Exception):
            raise ExpectedError(
                f"{place} cannot use mnist-exp ({version}): start it in the environment and the "
                "checkout of this project, as docs/machines.md says"
            )
        if version != __version__:
            raise ExpectedError(
                f"{place} has mnist-exp {version}, and this is {__version__}: bring them to the "
                "same version"
            )
    return sum(client.nthreads().values())


def _version() -> str:
    return __version__
