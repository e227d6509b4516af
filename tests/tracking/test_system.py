"""What a run takes of its machine."""

import time

import pytest

from mnist_exp import tracking


@pytest.mark.usefixtures("store")
def test_a_run_says_what_its_machine_did() -> None:
    with (
        tracking.start_run("a run", {}, {}) as run,
        tracking.system_metrics(run, every=0.2),
    ):
        time.sleep(0.5)
        client = run.client
    points = client.get_metric_history(run.run_id, "system/cpu_utilization_percentage")
    assert len(points) >= 2
    assert all(0 <= point.value <= 100 for point in points)
    metrics = client.get_run(run.run_id).data.metrics
    assert metrics["system/system_memory_usage_megabytes"] > 100
    assert not [name for name in tracking.runs().columns if name.startswith("system")]


@pytest.mark.usefixtures("store")
def test_a_machine_that_cannot_be_measured_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no /proc")

    monkeypatch.setattr("psutil.cpu_percent", fail)
    monkeypatch.setattr("psutil.disk_usage", fail)
    with tracking.start_run("a run", {}, {}) as run, tracking.system_metrics(run):
        pass
    assert run.client.get_run(run.run_id).info.status == "FINISHED"


@pytest.mark.usefixtures("store")
def test_a_store_that_takes_no_more_does_not_hold_a_run_up() -> None:
    with tracking.start_run("a run", {}, {}) as run:
        began = time.monotonic()
        with tracking.system_metrics(tracking.RunWriter("gone", "1", 0)):
            pass
        assert time.monotonic() - began < 2
    assert run.client.get_run(run.run_id).info.status == "FINISHED"
