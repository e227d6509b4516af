"""Runs are deleted, and what leads to them: a real store, and what people read of it."""

import pytest
from handmade import record_run

from mnist_exp import tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence import comparison
from mnist_exp.runs import checkpoint, resume
from mnist_exp.runs.delete import delete

pytestmark = pytest.mark.usefixtures("store")


def held() -> list[str]:
    return tracking.runs()["run_id"].tolist()


def register(run_id: str) -> None:
    """Make a run's network version 1 of a registered model."""
    client, _ = tracking.open_store()
    client.create_registered_model("model-6")
    client.create_model_version("model-6", f"runs:/{run_id}/network", run_id)


def test_a_run_is_deleted_with_what_leads_to_it_and_brought_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept, run_id = record_run(6, seed=1), record_run(6, seed=2, status="KILLED")
    register(run_id)
    folder = resume.checkpoints()
    folder.mkdir()
    pupil = record_run(5, tags={"teacher_run": run_id})
    for name in (kept, run_id):
        checkpoint.checkpoint_of(name, folder).save({"run_id": name})
    assert main(["delete", f"RUN={run_id[:10]}"]) == 0
    first, *others, last = capsys.readouterr().out.splitlines()
    assert first == f"Deleted: model-6 · seed 2 (run {run_id}), KILLED"
    assert others == [
        "  with version 1 of model-6 in the Model Registry, which is for good",
        "  with its checkpoint: brought back, it cannot be resumed",
        "  1 run learned from it, which without it can't be reproduced",
        "To bring it back, until mlflow gc removes it for good:",
    ]
    assert last.endswith(f" -m mlflow runs restore --run-id {run_id}")
    assert held() == [kept, pupil]
    client, _ = tracking.open_store()
    assert client.search_model_versions("name = 'model-6'") == []
    assert [file.name for file in folder.iterdir()] == [f"{kept}.pt"]
    assert main(["delete", f"RUN={run_id}"]) == 2
    assert f"run {run_id} was deleted: MLFLOW_TRACKING_URI=" in capsys.readouterr().err
    client.restore_run(run_id)  # as what is to be typed does
    assert held() == [kept, run_id, pupil]


def test_what_others_load_by_its_alias_is_not_deleted() -> None:
    run_id = record_run(6)
    register(run_id)
    client, _ = tracking.open_store()
    client.set_registered_model_alias("model-6", "champion", "1")
    with pytest.raises(ExpectedError, match="version 1 of model-6, which the alias champion"):
        delete(run_id)
    assert held() == [run_id]
    (version,) = client.search_model_versions("name = 'model-6'")
    assert version.run_id == run_id


def test_a_run_under_way_is_not_deleted() -> None:
    with (
        tracking.start_run("mine", {"seed": 1}, {}) as run,
        pytest.raises(ExpectedError, match=f"run {run.run_id} is under way: end it first"),
    ):
        delete(run.run_id)
    with (
        checkpoint.claim(run.run_id, resume.checkpoints()),  # by a process that resumes it
        pytest.raises(ExpectedError, match="is being trained by another process"),
    ):
        delete(run.run_id)
    client, experiment = tracking.open_store()
    other = client.create_run(experiment).info.run_id
    with pytest.raises(ExpectedError, match="does not say whether it is still there: delete it in"):
        delete(other)
    assert sorted(held()) == sorted([run.run_id, other])
    delete(run.run_id)
    assert held() == [other]


def test_what_is_below_a_deleted_run_stays_and_counts() -> None:
    runs = [record_run(6, seed=seed) for seed in (1, 2)]
    with tracking.continue_run("sweep of models 6") as parent:
        tracking.adopt(runs, parent.run_id)
    assert held() == runs
    deletion = delete(parent.run_id[:12])
    assert (deletion.below, deletion.had_checkpoint, deletion.versions) == (2, False, ())
    (verdict,) = comparison.compare().verdicts
    assert verdict.seeds == (1, 2)
    with tracking.continue_run("sweep of models 6") as another:  # the same sweep goes on
        assert another.run_id != parent.run_id
    with pytest.raises(ExpectedError, match=f"run {parent.run_id} was deleted"):
        delete(parent.run_id)
