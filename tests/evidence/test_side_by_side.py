"""Runs of any kind side by side, with known answers."""

import pytest
from handmade import record_run

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence import side_by_side
from mnist_exp.showing import tables

pytestmark = pytest.mark.usefixtures("store")


def trial(rate: float, wrong: int, seed: int, **changes: object) -> str:
    """A run of model 6 on the validation split, with another learning rate."""
    settings = {"learning_rate": rate, "optimizer.lr": rate, "epochs": 15} | changes
    status = str(settings.pop("status", "FINISHED"))
    return record_run(
        6, [wrong] * 15, seed=seed, split="validation", status=status,
        tags={"overrides": f"optimizer.lr={rate}"}, **settings,
    )  # fmt: skip


def test_runs_are_compared_in_groups_that_differ_in_their_seeds_alone() -> None:
    low = [trial(0.05, 100, seed) for seed in (1, 2, 3)]
    old = trial(0.1, 900, 1)
    high = [trial(0.1, 100 - 10 * seed, seed, threads=1) for seed in (1, 2, 3)]
    killed = trial(0.1, 5, 4, status="KILLED")
    side = side_by_side.compare_runs([*low, old, *high, killed[:12], low[0]])
    assert side.split == "validation"
    assert side.runs["run_id"].tolist() == [*low, old, *high, killed]
    assert side.runs["group"].tolist() == [0] * 3 + [1] * 5
    why = side.runs["exclusion"].tolist()
    assert why[3] == "superseded by a newer run of its seed"
    assert why[-1] == "not finished"
    assert why[:3] + why[4:7] == [None] * 6
    assert side.differences.to_dict("index") == {
        "learning_rate": {0: "0.05", 1: "0.1"},
        "optimizer.lr": {0: "0.05", 1: "0.1"},
        "overrides": {0: "optimizer.lr=0.05", 1: "optimizer.lr=0.1"},
        "threads": {0: "2", 1: "2, 1"},
    }
    (effect,) = side.effects
    assert effect.seeds == (1, 2, 3)
    assert effect.mean == pytest.approx(0.002)
    assert effect.interval == pytest.approx((0.001, 0.003))
    runs, groups = tables.shown_side_by_side(side)
    assert runs["epochs"].tolist() == ["15/15"] * 8
    assert runs["not paired"].tolist()[3:] == [
        "superseded by a newer run of its seed", "", "", "", "not finished",
    ]  # fmt: skip
    assert groups.set_index("group").loc[["seeds", "final validation"]].to_dict("list") == {
        "A": ["1-3", "99.00 ± 0.00 %"], "B": ["1-3", "99.20 ± 0.10 %"],
    }  # fmt: skip


def test_another_code_is_another_group_and_another_machine_is_none() -> None:
    runs = [
        record_run(6, seed=1, processor="one"),
        record_run(6, seed=2, processor="other"),
        record_run(6, seed=1, tags={"code_sha256": "b" * 64}),
        record_run(5, seed=1),
    ]
    side = side_by_side.compare_runs(runs)
    assert side.runs["group"].tolist() == [0, 0, 1, 2]
    assert side.differences.loc["processor"].tolist() == [
        "one, other", "not recorded", "not recorded",
    ]  # fmt: skip
    assert side.differences.loc["model"].tolist() == ["6", "6", "5"]
    assert [len(effect.seeds) for effect in side.effects] == [1, 1]
    assert {effect.interval for effect in side.effects} == {None}


def test_what_a_script_did_not_say_is_no_difference_to_none() -> None:
    own = {"seed": 1, "split": "test", "test_images": 10_000, "parameters": 7_416}
    with tracking.start_run("mine", own, {"tracked": "mine"}) as script:
        script.log_metrics({"test/errors": 90, "train/accuracy": 0.9}, step=1)
    iteration = record_run(6, autocast="none", optimizer="SGD")
    side = side_by_side.compare_runs([iteration, script.run_id])
    assert "autocast" not in side.differences.index
    assert "overrides" not in side.differences.index
    assert side.differences.loc["model"].tolist() == ["6", "none"]
    assert side.differences.loc["optimizer"].tolist() == ["SGD", "not recorded"]
    _, groups = tables.shown_side_by_side(side)
    shown = groups.set_index("group")
    assert shown.loc["code_sha256", "B"] == "not recorded"
    assert len(shown.loc["code_sha256", "A"]) == 7


def test_runs_of_which_none_is_finished_are_shown_all_the_same() -> None:
    runs = [record_run(6, [90] * 2, seed=seed, status="FAILED", epochs=15) for seed in (1, 2)]
    side = side_by_side.compare_runs(runs)
    shown, groups = tables.shown_side_by_side(side)
    assert shown["epochs"].tolist() == ["2/15", "2/15"]
    assert "worst of 5" not in shown  # no run has so many epochs
    assert groups["A"].tolist() == ["none", "–"]
    assert side.effects == ()


def test_scores_of_different_digits_are_not_compared() -> None:
    tested, chosen = record_run(6), record_run(6, split="validation")
    with pytest.raises(ExpectedError) as error:
        side_by_side.compare_runs([tested, chosen])
    assert str(error.value).startswith(
        f"runs {tested[:8]} (test split) and {chosen[:8]} (validation split, fold 1) were scored"
    )
    with pytest.raises(ExpectedError, match="holds no run ffff"):
        side_by_side.compare_runs([tested, "ffff"])
    assert len(tracking.runs()) == 2


@pytest.mark.parametrize(("number", "name"), [(0, "A"), (25, "Z"), (26, "AA"), (702, "AAA")])
def test_a_group_has_a_name_that_is_no_number(number: int, name: str) -> None:
    assert tables.group_name(number) == name
