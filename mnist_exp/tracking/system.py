"""What a run takes of its machine: processors, memory, disk, network and, where there is one, the
graphics card, as MLflow measures them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlflow.entities import Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from mnist_exp.tracking import names

if TYPE_CHECKING:
    from mnist_exp.tracking.writing import RunWriter

EVERY = 10.0
"""Seconds between two points, as in MLflow."""
PATIENCE = 1.0
"""Seconds that the end of a run waits for a point that is being written."""


@contextlib.contextmanager
def system_metrics(run: RunWriter, every: float = EVERY) -> Iterator[None]:
    """Record what the machine does while the block lasts, and once more at its end; the step of a
    point is the seconds since the run began.

    MLflow's own thread would have the end of a run wait for a server that is away. Here a point
    that cannot be written is left out.
    """
    monitor = _monitor(run.run_id)
    if monitor is None:
        yield
        return
    client = run.client
    over = threading.Event()

    def write() -> None:
        monitor.collect_metrics()
        now = time.time()
        step = max(0, round(now - run.start_time / 1000))
        points = [
            Metric(names.system(measured), float(value), round(1000 * now), step)
            for measured, value in monitor.aggregate_metrics().items()
        ]
        for each in monitor.monitors:
            each.clear_metrics()
        client.log_batch(run.run_id, metrics=points)

    def measure() -> None:
        while not over.is_set():
            over.wait(every)
            with contextlib.suppress(Exception):
                write()

    thread = threading.Thread(target=measure, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PATIENCE)


def _monitor(run_id: str) -> SystemMetricsMonitor | None:
    """What measures, or None on a machine that it cannot: no training fails for want of that."""
    with contextlib.suppress(Exception):
        monitor = SystemMetricsMonitor(run_id)
        monitor.collect_metrics()  # shares of time are of the time since they were last asked for
        return monitor
    return None
