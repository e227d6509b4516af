"""Studies: real trials on a few digits, and some that are killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from handmade import record_run
from mlflow import MlflowClient

from mnist_exp import ROOT, tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence.trials import Trial, trials_of
from mnist_exp.runs import run, tune
from mnist_exp.runs.overrides import read
from mnist_exp.runs.plan import settle
from mnist_exp.runs.tune import Study, settle_study

pytestmark = pytest.mark.usefixtures("store", "few_digits")

SPACE = "optimizer.lr=0.001..1:log batch_size=50,100"


def carry_out(study: Study, trials: int) -> tuple[Trial, ...]:
    return tune.tune(
        study, trials, on_begin=lambda *_: None, on_batch=lambda _: None, on_end=lambda _: None
    )


def recorded(study: Study, number: int, settings: str, errors: list[int], **tags: str) -> None:
    """A trial that is over."""
    with tracking.continue_run(study.name) as parent:
        own = {"study": parent.run_id, "trial": f"{number}", "trial_settings": settings}
    status = "KILLED" if "pruned" in tags else "FINISHED"
    record_run(3, errors, split="validation", tags=own | tags, status=status)


def test_each_trial_is_an_overridden_run_below_its_study() -> None:
    study = settle_study(3, "batch_size=100 optimizer.lr=1e20,0.01", epochs=1, seed=7)
    trials = carry_out(study, 9)
    # The whole space, each point once, though nine were asked for; one diverges, and says so.
    diverged, good = sorted(trials, key=lambda trial: trial.finished)
    assert sorted(trial.number for trial in trials) == [1, 2]
    assert (diverged.settings, diverged.finished) == (
        "batch_size=100 optimizer.lr=1e+20", False,
    )  # fmt: skip
    assert diverged.why.startswith("NonFiniteLossError: ")
    assert (good.settings, good.why, len(good.accuracies)) == (
        "batch_size=100 optimizer.lr=0.01", "", 1,
    )  # fmt: skip
    runs = tracking.runs().set_index("run_id")
    assert (runs["split"] == "validation").all()
    assert (runs["seed"] == 7).all()
    assert runs["overrides"].to_dict() == {
        diverged.run_id: "batch_size=100 epochs=1 optimizer.lr=1e+20",
        good.run_id: "batch_size=100 epochs=1",  # the file has that rate
    }
    assert runs["status"].to_dict() == {diverged.run_id: "FAILED", good.run_id: "FINISHED"}
    assert runs["trial_settings"].to_dict() == {x.run_id: x.settings for x in trials}
    parent = MlflowClient().get_run(runs["parent"].iloc[0])
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name.startswith("tuning of model 3 (")
    assert trials_of(parent.info.run_id) == trials
    assert carry_out(study, 2) == trials  # nothing is left to do
    assert len(tracking.runs()) == 2


@pytest.mark.slow
def test_a_trial_that_does_worse_than_half_of_those_before_it_is_pruned() -> None:
    study = settle_study(3, SPACE, epochs=3)
    for number in range(1, 6):
        recorded(study, number, f"batch_size=50 optimizer.lr=0.{number}", [20, 15, 10 + number])
    trials = carry_out(study, 6)
    assert [trial.finished for trial in trials] == [True] * 5 + [False]
    assert trials[-1].why == "after epoch 1 of 3"
    assert len(trials[-1].accuracies) == 1
    last = tracking.runs().iloc[-1]
    assert (last["status"], last["pruned"], last["trial"]) == ("KILLED", "after epoch 1 of 3", "6")
    assert "failure" not in last
    assert not list((tracking.local_folder() / "checkpoints").glob("*.pt"))


@pytest.mark.slow
def test_a_trial_that_was_killed_before_it_was_pruned_is_pruned_where_it_would_have_been() -> None:
    study = settle_study(3, SPACE, epochs=3)
    for number in range(1, 6):
        recorded(study, number, f"batch_size=50 optimizer.lr=0.{number}", [20, 15, 10 + number])
    settings = tune._suggest(study, trials_of(tracking.runs()["study"].iloc[0]))
    assert settings

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    plan = settle(3, overrides=read(settings, 3), split="validation")
    with pytest.raises(KeyboardInterrupt):
        run.carry_out(plan, on_batch=lambda _: None, on_epoch=stop)
    begun = tracking.runs().iloc[-1]
    assert begun["status"] == "KILLED"
    *_, last = carry_out(study, 6)
    assert (last.run_id, last.settings) == (begun["run_id"], settings)
    assert (last.why, len(last.accuracies)) == ("after epoch 1 of 3", 1)


def test_what_is_tried_next_follows_from_the_seed_the_space_and_what_was_tried() -> None:
    done = tuple(
        Trial(n, f"batch_size=50 optimizer.lr={0.01 * n}", "", (0.5, 0.9 - 0.01 * n), finished=True)
        for n in range(1, 13)
    )
    study, same = settle_study(3, SPACE), settle_study(3, " ".join(reversed(SPACE.split())))
    other = settle_study(3, SPACE, seed=2)
    assert study.name == same.name != other.name
    for count in (0, 1, 12):
        assert tune._suggest(study, done[:count]) == tune._suggest(same, done[:count])
        assert tune._suggest(study, done[:count]) != tune._suggest(other, done[:count])
    assert len({tune._suggest(study, done[:count]) for count in range(12)}) == 12


def test_behind_a_trial_that_was_deleted_none_counts_yet() -> None:
    study = settle_study(3, SPACE)
    for number in (1, 2, 3):
        recorded(study, number, f"batch_size=50 optimizer.lr=0.{number}", [20] * 15)
    runs = tracking.runs()
    assert len(trials_of(runs["study"].iloc[0])) == 3
    tracking.remove_run(runs["run_id"].iloc[1])
    assert [trial.number for trial in trials_of(runs["study"].iloc[0])] == [1]


def test_two_processes_do_not_carry_out_one_study() -> None:
    study = settle_study(3, SPACE)
    with tune._alone(study), pytest.raises(ExpectedError, match="another process goes on with"):
        carry_out(study, 1)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("optimizer.lr=-1..1", r"Invalid learning rate: -1\.0"),
        ("optimizer.momentum=0.5,-1", "Invalid momentum value: -1"),
        ("batch_size=2..1", "a range goes up"),
    ],
)
def test_a_space_that_the_recipe_cannot_take_leaves_no_run(space: str, said: str) -> None:
    with pytest.raises(ExpectedError, match=said):
        settle_study(3, space)
    client, experiment = tracking.open_store()
    assert not client.search_runs([experiment])


def test_without_optuna_a_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune", "MODEL=3", "TRIALS=1", f"SPACE={SPACE}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mnist-exp: make tune needs Optuna: ")
    assert "pip install --editable '.[tune]'" in said


def test_the_best_are_printed_with_the_command_that_runs_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = settle_study(3, SPACE, epochs=3)
    for number, wrong in ((1, 30), (2, 10), (3, 20)):
        settings = f"batch_size=50 optimizer.lr=0.{number}"
        recorded(study, number, settings, [900, 500, wrong])
    recorded(study, 4, "batch_size=50 optimizer.lr=0.9", [1], pruned="after epoch 1 of 3")
    assert main(["tune", "MODEL=3", "TRIALS=4", "EPOCHS=3", f"SPACE={SPACE}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "4 trials, of which 1 ended early"
    assert [line.split()[:3] for line in lines[4:7]] == [
        ["2", "99.90", "%"], ["3", "99.80", "%"], ["1", "99.70", "%"],
    ]  # fmt: skip
    best = 'EPOCHS=3 SET="batch_size=50 optimizer.lr=0.2" SPLIT=validation'
    assert lines[-2:] == [
        f"  make run MODEL=3 SEED=1 {best}", f"  make sweep MODELS=3 SEEDS=5 {best}",
    ]  # fmt: skip
    assert "test" not in "".join(lines)


def killed(seconds: float) -> None:
    """Start the study as a command, and kill it some time after its first run has begun."""
    code = "import sys; from mnist_exp import data; from mnist_exp.commands import cli; "
    code += "train, test = data.load(); data.load = lambda *_: (train[:500], test[:500]); "
    code += "sys.exit(cli.main(['tune', 'MODEL=3', 'TRIALS=3', 'EPOCHS=8', sys.argv[1]]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"SPACE={SPACE}"], cwd=ROOT, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    process.stdout.readline()
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_is_that_which_was_not(
    store: Path, fresh_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import shutil

    for seconds in (3, 5):
        killed(seconds)
    study = settle_study(3, SPACE, epochs=8)
    trials = carry_out(study, 3)
    runs = tracking.runs()
    ended = runs[
        (runs["status"] == "FINISHED") | runs.reindex(columns=["pruned"])["pruned"].notna()
    ]
    assert sorted(ended["trial"].astype(int)) == [1, 2, 3]  # each once

    shutil.copytree(fresh_store, tmp_path / "other")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}")
    uninterrupted = carry_out(study, 3)
    told = [(x.settings, x.accuracies, x.finished, x.why) for x in trials]
    assert told == [(x.settings, x.accuracies, x.finished, x.why) for x in uninterrupted]
    assert store.is_dir()
