"""The newest runs, and why each does not count."""

import pytest
from handmade import record_run

from mnist_exp import tracking
from mnist_exp.evidence import listing
from mnist_exp.showing import tables

pytestmark = pytest.mark.usefixtures("store")


def test_the_newest_runs_come_first_and_say_why_they_do_not_count() -> None:
    record_run(6, seed=1, epochs=15)
    record_run(6, seed=1)
    record_run(5, [90] * 3, seed=2, split="validation", status="KILLED", epochs=15)
    record_run(6, seed=3, split="validation")
    trial = {"overrides": "batch_size=32 epochs=1 optimizer.lr=0.05", "trial": "3", "study": "a"}
    record_run(6, seed=4, tags=trial)
    record_run(6, seed=4, status="KILLED", tags={"overrides": "epochs=2"})
    record_run(6, seed=5, tags={"code_sha256": "older"})
    with tracking.start_run("of another program", {"seed": 7}, {}):
        pass
    for name in ("my own idea, at length", "my own idea, at length", "another idea"):
        own = {"seed": 1, "split": "test", "test_images": 10_000, "parameters": 100}
        with tracking.start_run(f"{name} · seed 1", own, {"tracked": name}) as run:
            run.log_metrics({"test/errors": 90, "train/accuracy": 0.9}, step=1)
    listed = listing.newest_runs(11)
    shown = tables.shown_runs(listed)
    assert listed.total == 11
    assert shown.drop(columns="run").to_dict("split")["data"] == [
        ["another idea", "1", "test", "FINISHED", "1", "–", "99.10 %", "yes"],
        [
            "my own idea…", "1", "test", "FINISHED", "1", "–", "99.10 %",
            "yes, my own idea, at length",
        ],
        [
            "my own idea…", "1", "test", "FINISHED", "1", "–", "99.10 %",
            "superseded by a newer run of its seed, my own idea, at length",
        ],
        [
            "of another…", "7", "", "FINISHED", "0", "–", "–",
            "no iteration, of another program",
        ],
        ["6", "5", "test", "FINISHED", "15", "99.40 %", "99.40 %", "stale"],
        ["6", "4", "test", "KILLED", "15", "99.40 %", "99.40 %", "not finished, epochs=2"],
        [
            "6", "4", "test", "FINISHED", "15", "99.40 %", "99.40 %",
            "trial 3, batch_size=32 optimizer.lr=0.05 epochs=1",
        ],
        ["6", "3", "fold 1", "FINISHED", "15", "99.40 %", "99.40 %", "to choose by"],
        ["5", "2", "fold 1", "KILLED", "3/15", "–", "99.10 %", "not finished"],
        ["6", "1", "test", "FINISHED", "15", "99.40 %", "99.40 %", "yes"],
        [
            "6", "1", "test", "FINISHED", "15/15", "99.40 %", "99.40 %",
            "superseded by a newer run of its seed",
        ],
    ]  # fmt: skip
    assert [len(run) for run in shown["run"]] == [8] * 11
    few = listing.newest_runs(2, [6])
    assert (few.runs["seed"].tolist(), few.total) == ([5, 4], 6)
    assert listing.newest_runs(2, [7]).runs.empty
