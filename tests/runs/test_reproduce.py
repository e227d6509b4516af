"""How well runs agree that were trained twice."""

import pytest
from written import NUMBER, network, written

from mnist_exp import tracking
from mnist_exp.runs import group, reproduce, run
from mnist_exp.runs.plan import settle
from mnist_exp.runs.reproduce import EpochPair, agree
from mnist_exp.runs.trial import UNSTEADY

PAIRS = [
    EpochPair(epoch, recorded, now, identical=recorded == now)
    for epoch, (recorded, now) in enumerate([(0.5, 0.9), (0.99, 0.991), (0.992, 0.99)], start=1)
]


def test_accuracy_is_compared_in_the_last_epochs_that_the_target_looks_at() -> None:
    last_two, all_three = agree(PAIRS, last_epochs=2), agree(PAIRS, last_epochs=3)
    assert (last_two.reproduced, last_two.largest) == (True, pytest.approx(0.002))
    assert (all_three.reproduced, all_three.largest) == (False, pytest.approx(0.4))
    assert str(last_two) == (
        "Reproduced within 0.5 points: accuracy in the last 2 epochs differs by at most 0.20 "
        "points."
    )


def test_what_is_identical_in_every_epoch_is_said_to_be() -> None:
    same = [EpochPair(1, 0.5, 0.5, identical=True)]
    assert str(agree(same, last_epochs=5)) == "Reproduced: identical, bit for bit, in 1 epoch."


@pytest.mark.usefixtures("store", "few_digits")
def test_a_run_that_ended_early_is_reproduced_as_far_as_it_went() -> None:
    """The schedule looks at all epochs that were planned, and the file draws from the seed."""
    entry = written(
        "WIDTH = 8 + int(torch.randint(8, ()))\n\n\n"
        + network(
            "self.last = nn.Conv2d(WIDTH, 10, 3)\nself.norm = nn.BatchNorm2d(WIDTH)\n"
            "self.first = nn.Conv2d(1, WIDTH, 3)",
            "return super().forward(F.dropout(x, 0.1))",
        ),
        batch_schedule="partial(OneCycleLR, max_lr=0.1)",
        epochs=9,
    )

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.carry_out(settle(NUMBER, seed=4, entry=entry), on_batch=lambda _: None, on_epoch=stop)
    (run_id,) = tracking.runs()["run_id"]
    reproduction = reproduce.prepare(run_id)
    assert reproduction.cautions == [UNSTEADY]
    (pair,) = reproduce.repeat(reproduction)
    assert pair.identical


@pytest.mark.slow
@pytest.mark.usefixtures("store", "few_digits")
def test_a_seed_that_was_trained_as_one_with_others_is_reproduced_with_them() -> None:
    plan = settle(6, seed=3, epochs=2, device="cpu", engine="torch")
    came = group.carry_out_together(group.of_seeds(plan, [1, 3]))
    reproduction = reproduce.prepare(came[3].run_id)
    assert not reproduction.differences
    pairs = list(reproduce.repeat(reproduction))
    assert [pair.identical for pair in pairs] == [True, True]
