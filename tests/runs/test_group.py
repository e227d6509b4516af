"""Seeds that are trained as one network: each is a run of its own."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.runs import group, resume
from mnist_exp.runs.group import Group
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.runs.run import Outcome
from mnist_exp.tracking import names
from mnist_exp.training import determinism
from mnist_exp.training.apart import ApartError
from mnist_exp.training.loop import EpochResult

pytestmark = pytest.mark.usefixtures("store", "few_digits")
SEEDS = (4, 5, 9)


@pytest.fixture
def plan() -> Plan:
    return settle(6, seed=SEEDS[0], epochs=3, device="cpu", engine="torch")


def histories() -> Any:
    """What the runs recorded of their epochs, by seed, but for times."""
    runs = tracking.runs().query("status == 'FINISHED'").set_index("run_id")["seed"]
    history = tracking.history(list(runs.index))
    history.index = history["run_id"].map(runs)
    history = history.drop(columns=["run_id", "time", "epoch_seconds"]).rename_axis("seed")
    return history.sort_values(["epoch", "seed"])


def interrupt(some: Group, epoch: int, seed: int) -> None:
    """Train a group until it hears of this epoch of this seed."""

    def stop(heard: int, result: EpochResult) -> None:
        if (heard, result.epoch) == (seed, epoch):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        group.carry_out_together(some, on_epoch=stop)


def through(plan: Plan) -> Any:
    """The histories of the group that nothing interrupts, whose runs are then deleted."""
    group.carry_out_together(group.of_seeds(plan, SEEDS))
    recorded = histories()
    for run_id in tracking.runs()["run_id"]:
        tracking.delete_run(run_id)
    return recorded


def test_each_seed_is_a_run_of_its_own(plan: Plan) -> None:
    began: list[str] = []
    came = group.carry_out_together(group.of_seeds(plan, SEEDS), on_start=began.extend)
    assert all(isinstance(outcome, Outcome) for outcome in came.values())
    runs = tracking.runs().set_index("run_id").loc[began]
    assert runs["seed"].tolist() == list(SEEDS)
    assert set(runs["status"]) == {"FINISHED"}
    assert set(runs["seeds_together"]) == {"4-5 9"}
    assert set(runs["resumes"]) == {"exactly"}
    last = histories().query("epoch == 3").loc[list(SEEDS)]
    assert [came[seed].accuracy for seed in SEEDS] == last["test_accuracy"].tolist()
    assert histories()["epoch"].value_counts().tolist() == [3, 3, 3]
    assert len({row.train_loss for row in histories().itertuples()}) == 9
    for run_id in began:
        assert tracking.table(run_id, names.Table.RECEPTIVE_FIELD) is not None
    assert not list(resume.checkpoints().glob("*"))


@pytest.mark.slow
def test_a_group_that_is_interrupted_goes_on_bit_for_bit(plan: Plan) -> None:
    expected = through(plan)
    interrupt(group.of_seeds(plan, SEEDS), epoch=1, seed=9)
    killed = tracking.runs()
    assert set(killed["status"]) == {"KILLED"}
    for file in resume.checkpoints().glob("*.pt"):
        assert file.stat().st_size < 300_000  # of one seed, not of the tensors of all
    (left,) = group.interrupted(plan, SEEDS)
    group.carry_out_together(left)
    assert set(tracking.runs()["run_id"]) == set(killed["run_id"])
    assert histories().equals(expected)
    assert not list(group.interrupted(plan, SEEDS))


@pytest.mark.slow
def test_those_that_came_further_go_back_to_the_others(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the checkpoints of two seeds."""
    expected = through(plan)
    save, saved = resume.save, []

    def killed(*args: Any, **kwargs: Any) -> None:
        if kwargs and len(saved) == 5:  # the second seed of the second epoch has been saved
            raise KeyboardInterrupt
        saved.extend([args] if kwargs else [])
        save(*args, **kwargs)

    some = group.of_seeds(plan, SEEDS)
    with monkeypatch.context() as patch:
        patch.setattr(resume, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            group.carry_out_together(some)
    (left,) = group.interrupted(plan, SEEDS)
    assert {len(state["results"]) for state in left.states.values()} == {1}
    group.carry_out_together(left)
    assert histories().equals(expected)


@pytest.mark.slow
def test_what_has_ended_already_is_computed_with_the_others(plan: Plan) -> None:
    """Killed while its runs are ended, or after one of them has failed; and where a sweep asks for
    fewer seeds."""
    expected = through(plan)
    interrupt(group.of_seeds(plan, SEEDS), epoch=2, seed=5)
    gone = tracking.runs().set_index("seed").loc[4, "run_id"]
    (resume.checkpoints() / f"{gone}.pt").unlink()
    (left,) = group.interrupted(plan, SEEDS)
    assert left.recorded == {5, 9}
    came = group.carry_out_together(left)
    assert came.keys() == {5, 9}
    assert histories().equals(expected[expected.index != 4])
    assert not list(group.interrupted(plan, [4]))


@pytest.mark.slow
def test_a_group_whose_epochs_are_all_there_ends_its_runs(plan: Plan) -> None:
    expected = through(plan)
    interrupt(group.of_seeds(plan, SEEDS), epoch=3, seed=9)
    (left,) = group.interrupted(plan, SEEDS)
    heard: list[int] = []
    came = group.carry_out_together(left, on_epoch=lambda seed, _: heard.append(seed))
    assert not heard
    assert histories().equals(expected)
    for seed in SEEDS:
        wrong = tracking.table(came[seed].run_id, names.Table.CONFUSION_MATRIX)
        assert wrong is not None


@pytest.mark.slow
def test_a_group_goes_on_whose_runs_had_not_all_begun(plan: Plan) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        group.carry_out_together(group.of_seeds(plan, SEEDS), on_start=stop)
    begun = tracking.runs().set_index("seed")["run_id"]
    tracking.delete_run(begun[5])
    (resume.checkpoints() / f"{begun[5]}.pt").unlink()
    (left,) = group.interrupted(plan, SEEDS)
    assert left.recorded == set(SEEDS)
    group.carry_out_together(left)
    runs = tracking.runs().set_index("seed")
    assert set(runs["status"]) == {"FINISHED"}
    assert runs.loc[4, "run_id"] == begun[4]


@pytest.mark.slow
def test_a_seed_whose_loss_is_not_finite_fails_alone(plan: Plan) -> None:
    some = group.of_seeds(plan, SEEDS)
    with torch.no_grad():
        next(some.plans[1].network.parameters()).fill_(math.inf)
    came = group.carry_out_together(some)
    assert {seed: type(outcome) for seed, outcome in came.items() if seed != 5} == {
        4: Outcome, 9: Outcome,
    }  # fmt: skip
    assert isinstance(came[5], ExpectedError)
    runs = tracking.runs().set_index("seed")
    assert runs["status"].to_dict() == {4: "FINISHED", 5: "FAILED", 9: "FINISHED"}
    assert "the loss became nan" in runs.loc[5, "failure"]


def test_one_of_a_group_does_not_go_on_alone(plan: Plan) -> None:
    interrupt(group.of_seeds(plan, SEEDS), epoch=1, seed=4)
    said = "trained as one network with the seeds 4-5 9, and does not go on alone: the same make"
    with pytest.raises(ExpectedError, match=said):
        resume.resume(tracking.runs()["run_id"].iloc[0])


@pytest.mark.slow
def test_an_operation_that_has_no_deterministic_kernel_makes_runs_less_certain(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(determinism, "ASKED", {"cpu"})
    monkeypatch.setattr(torch.nn.MaxPool2d, "forward", _put)
    group.carry_out_together(group.of_seeds(plan, SEEDS))
    assert tracking.runs()["resumes"].str.contains("no deterministic put_ for").all()


def _put(_: Any, x: torch.Tensor) -> torch.Tensor:
    torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))
    return torch.nn.functional.max_pool2d(x, 2)


def test_what_holds_something_else_for_each_seed_is_not_trained_as_one(plan: Plan) -> None:
    source = plan.entry.source.replace("from functools", "import random\nfrom functools")
    source = source.replace("RECIPE =", "DRAWN = {'of': random.random()}\nRECIPE =")
    source = source.replace("x = relu(self.conv1(x))", "x = relu(self.conv1(x)) * DRAWN['of']")
    assert source.count("DRAWN") == 2
    drawing = dataclasses.replace(plan, entry=dataclasses.replace(plan.entry, source=source))
    with pytest.raises(ApartError, match="holds something else for each"):
        group.carry_out_together(group.of_seeds(drawing, SEEDS))
    assert tracking.runs().empty
