"""Seeds that are trained as one network: each is a run of its own."""

import math
from typing import Any

import pytest
import torch

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.runs import group, resume
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.runs.run import Outcome
from mnist_exp.tracking import names
from mnist_exp.training.loop import EpochResult

pytestmark = pytest.mark.usefixtures("store", "few_digits")
SEEDS = (4, 5, 9)


@pytest.fixture
def plans() -> list[Plan]:
    return group.plans_of(settle(6, seed=SEEDS[0], epochs=2, device="cpu", engine="torch"), SEEDS)


def histories() -> Any:
    """What the runs recorded of their epochs, by seed, but for times."""
    runs = tracking.runs().query("status == 'FINISHED'").set_index("run_id")["seed"]
    history = tracking.history(list(runs.index))
    history.index = history["run_id"].map(runs)
    return history.drop(columns=["run_id", "time", "epoch_seconds"]).sort_values("epoch")


def test_each_seed_is_a_run_of_its_own(plans: list[Plan]) -> None:
    began: list[str] = []
    came = group.carry_out_together(plans, on_start=began.extend)
    assert all(isinstance(outcome, Outcome) for outcome in came)
    runs = tracking.runs().set_index("run_id").loc[began]
    assert runs["seed"].tolist() == list(SEEDS)
    assert set(runs["status"]) == {"FINISHED"}
    assert set(runs["seeds_together"]) == {"4-5 9"}
    last = histories().query("epoch == 2").loc[list(SEEDS)]
    assert [outcome.accuracy for outcome in came] == last["test_accuracy"].tolist()
    assert histories()["epoch"].value_counts().tolist() == [3, 3]
    assert len({row.train_loss for row in histories().itertuples()}) == 6
    for run_id in began:
        assert tracking.table(run_id, names.Table.RECEPTIVE_FIELD) is not None
    assert not list(resume.checkpoints().glob("*.pt"))


def test_a_group_that_is_interrupted_goes_on_bit_for_bit(plans: list[Plan]) -> None:
    group.carry_out_together(plans)
    through = histories()
    for run_id in tracking.runs()["run_id"]:
        tracking.delete_run(run_id)

    def stop(place: int, result: EpochResult) -> None:
        if (place, result.epoch) == (2, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        group.carry_out_together(plans, on_epoch=stop)
    killed = tracking.runs()
    assert set(killed["status"]) == {"KILLED"}
    group.carry_out_together(plans)
    assert set(tracking.runs()["run_id"]) == set(killed["run_id"])
    assert histories().equals(through)


def test_a_seed_whose_loss_is_not_finite_fails_alone(plans: list[Plan]) -> None:
    with torch.no_grad():
        next(plans[1].network.parameters()).fill_(math.inf)
    came = group.carry_out_together(plans)
    assert [type(outcome) for outcome in came[::2]] == [Outcome, Outcome]
    assert isinstance(came[1], ExpectedError)
    runs = tracking.runs().set_index("seed")
    assert runs["status"].to_dict() == {4: "FINISHED", 5: "FAILED", 9: "FINISHED"}
    assert "the loss became nan" in runs.loc[5, "failure"]


def test_one_of_a_group_does_not_go_on_alone(plans: list[Plan]) -> None:
    began: list[str] = []

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        group.carry_out_together(plans, on_start=began.extend, on_epoch=stop)
    with pytest.raises(ExpectedError, match="seeds_together was 4-5 9 and is not recorded"):
        resume.resume(began[0])
