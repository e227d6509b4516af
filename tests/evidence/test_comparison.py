"""Stores made by hand, with known answers."""

import math

import pandas as pd
import pytest
from handmade import GOOD, record_run

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence import comparison, references, scores
from mnist_exp.notebook import entries, loading
from mnist_exp.showing import tables

pytestmark = pytest.mark.usefixtures("store")
WONDER = [80] * 14 + [50]


def test_every_kind_of_run_gets_its_verdict() -> None:
    record_run(6, seed=1)
    record_run(6, seed=2, errors=[*GOOD[:14], 61])
    record_run(5, errors=WONDER)
    record_run(4, errors=[*GOOD[:12], None, *GOOD[13:]])
    record_run(3, errors=[*GOOD[:10], 60, 60, 60, 60, 60])
    record_run(3, seed=2, status="FAILED", errors=[900])
    record_run(3, seed=3, errors=[10] * 3, tags={"overrides": "epochs=3"})
    record_run(3, seed=4, errors=[10] * 15, tags={"code_sha256": "before the change"})
    record_run(3, seed=5, split="validation")
    found = comparison.compare()
    of_model = {verdict.model: verdict for verdict in found.verdicts}
    assert {model: verdict.answer for model, verdict in of_model.items()} == {
        3: "met on every seed", 4: "not met", 5: "not met", 6: "met on some seeds",
    }  # fmt: skip
    assert {model: len(verdict.seeds) for model, verdict in of_model.items()} == {
        3: 1, 4: 1, 5: 1, 6: 2,
    }  # fmt: skip
    assert {model: verdict.passing for model, verdict in of_model.items()} == {
        3: 1, 4: 0, 5: 0, 6: 1,
    }  # fmt: skip
    assert "gaps or doubles" in of_model[4].reason
    assert "one epoch is no pass" in of_model[5].reason
    assert of_model[6].reason.startswith("lowest of the last 5 epochs 99.39 % (seed 2, epoch 15)")
    assert of_model[5].title == "rotate the training images"
    left_out = found.runs.dropna(subset="exclusion").set_index("seed")["exclusion"].to_dict()
    assert left_out == {
        2: "not finished",
        3: "overridden",
        4: "stale: of an earlier version of its file",
        5: "on the validation split",
    }


def test_9940_of_10000_pass_and_9939_do_not() -> None:
    record_run(5, errors=[60] * 15)
    record_run(6, errors=[61] * 15)
    found = comparison.compare()
    assert [verdict.met for verdict in found.verdicts] == [True, False]
    shown = tables.shown_verdicts(found.verdicts, found.target)
    worst = shown["worst of last 5"].tolist()
    assert worst == ["99.40 % (seed 1, epoch 15)", "99.39 % (seed 1, epoch 15)"]


def test_a_doubled_epoch_is_no_pass() -> None:
    run = record_run(6)
    client, _ = tracking.open_store()
    client.log_metric(run, "test/errors", 10, step=15)
    found = comparison.compare()
    (verdict,) = found.verdicts
    assert not verdict.met
    assert "gaps or doubles" in verdict.reason


def test_chosen_models_are_compared_with_each_other() -> None:
    for model, errors in ((3, 90), (5, 80), (6, 60)):
        for seed in (1, 2, 3):
            record_run(model, errors=[errors + seed] * 15, seed=seed)
    found = comparison.compare([6, 3])
    assert list(found.iterations) == [3, 6]
    (effect,) = found.effects
    assert (effect.model, effect.baseline, effect.mean) == (6, 3, pytest.approx(0.003))
    assert set(found.history["run_id"]) == set(found.runs["run_id"])
    assert len(found.runs) == 6


def test_a_step_is_from_the_nearest_of_the_iterations_before() -> None:
    for model in (11, 15, 16, 17, 18, 21):
        record_run(model)
    steps = [(effect.baseline, effect.model) for effect in comparison.compare().effects]
    assert steps == [(11, 15), (11, 16), (15, 17), (15, 18), (17, 21)]


def test_changed_lines_leave_out_the_docstring() -> None:
    lines = comparison.changed_lines(loading.load_iteration(4), loading.load_iteration(5))
    assert lines == (
        ("plus", "+from mnist_exp.augment import RandomRotation"),
        ("plus", "+    augment=RandomRotation(degrees=7),"),
    )


def test_iterations_without_a_run_that_counts_are_named() -> None:
    record_run(2, status="FAILED")
    record_run(2, status="RUNNING")
    record_run(2, tags={"overrides": "epochs=15"})
    record_run(6)
    found = comparison.compare()
    assert found.uncounted == {
        1: "not run",
        2: "no run counts (2 not finished, 1 overridden)",
        **dict.fromkeys(sorted({*entries.numbers()} - {1, 2, 6}), "not run"),
    }
    assert [verdict.model for verdict in found.verdicts] == [6]


def test_a_run_whose_iteration_is_gone_and_those_of_others_are_left_out() -> None:
    run = record_run(6)
    client, _ = tracking.open_store()
    (experiment,) = client.search_experiments(filter_string="name = 'mnist_exp'")
    gone = client.create_run(experiment.experiment_id)
    for key, value in {"model": 77, "seed": 1, "parameters": 10, "test_images": 10}.items():
        client.log_param(gone.info.run_id, key, value)
    client.set_terminated(gone.info.run_id)
    other = client.create_run(experiment.experiment_id)
    client.log_param(other.info.run_id, "model", "resnet")
    found = comparison.compare()
    (shown,) = tables.shown_verdicts(found.verdicts, found.target).to_dict("records")
    assert shown["worst of last 5"] == "99.40 % (seed 1, epoch 15)"
    assert (shown["parameters"], shown["receptive field"]) == ("7,416", "28")
    assert found.counting["run_id"].tolist() == [run]
    assert set(found.runs["run_id"]) == {run, gone.info.run_id}
    assert list(found.iterations) == [6]


def test_a_candidate_that_did_not_enter_the_notebook_is_no_iteration() -> None:
    record_run(6)
    record_run(990, split="validation", tags={"code_sha256": "0" * 64})
    found = comparison.compare()
    assert 990 not in found.uncounted
    assert found.candidates["model"].tolist() == [990]
    record_run(990, tags={"code_sha256": "0" * 64})
    assert comparison.compare().uncounted[990] == "no run counts (1 its iteration's file is gone)"


def test_the_best_run_is_the_one_with_the_best_worst_epoch() -> None:
    record_run(5, errors=WONDER)
    steady = record_run(6, errors=[70] * 15)
    assert comparison.compare().best_run()["run_id"] == steady


def test_seeds_that_served_to_choose_are_told_from_those_that_confirm() -> None:
    for seed in (1, 2, 3):
        record_run(6, seed=seed, split="validation")
    record_run(6, seed=4, split="validation", tags={"overrides": "epochs=2"})
    record_run(5, seed=1, split="validation")
    for seed in (3, 101, 102):
        record_run(6, seed=seed)
    both = "compared on the validation split, fold 1, with seeds 1-3; tested with seeds 3 101-102; "
    both += "seed 3 served for both"
    assert comparison.compare().choices == {
        5: "compared on the validation split, fold 1, with seed 1; not tested yet",
        6: both,
    }


def test_what_was_only_tried_is_not_asked_for_its_verdict() -> None:
    record_run(5, split="validation")
    record_run(6)
    assert [row["model"] for row in comparison.compare().records()] == [6]


def test_runs_on_the_validation_split_have_their_table() -> None:
    run = record_run(6, split="validation")
    (verdict,) = comparison.of_runs([run])
    assert verdict.split == "validation"
    assert (verdict.worst.accuracy, verdict.best.accuracy) == (0.994, 0.994)
    shown = tables.shown_verdicts([verdict], verdict.target)
    assert {"final validation", "best validation"} <= set(shown.columns)
    assert not {"verdict", "final test", "best test"} & set(shown.columns)


def test_what_was_tried_is_counted_by_recipe() -> None:
    record_run(6, [90] * 15, seed=1, split="validation")
    record_run(6, [90] * 10 + [70, 75, 70, 70, 80], seed=2, split="validation")
    changed = {"code_sha256": "before the change", "idea": "another width"}
    record_run(6, [99] * 8, split="validation", parameters=2_896, tags=changed)
    record_run(6, [90] * 10 + [70] * 4 + [80], seed=2, split="validation")  # once more
    record_run(6, [1], split="validation", status="FAILED")
    record_run(6, [1], split="validation", tags={"overrides": "epochs=1"})
    record_run(6)
    found = comparison.compare()
    first, second = found.candidates.to_dict("records")
    assert (first["seeds"], first["parameters"], first["epochs"]) == (2, 7_416, 15)
    assert (first["worst_accuracy"], first["final_accuracy"]) == (0.991, pytest.approx(0.9915))
    assert (second["idea"], second["parameters"], second["epochs"]) == ("another width", 2_896, 8)
    assert len(found.validation_runs) == 4
    assert found.overridden_validation_runs["overrides"].tolist() == ["epochs=1"]
    seconds = 6 * (4 * 15 + 8 + 2)
    assert found.core_hours == pytest.approx(2 * seconds / 3600)  # on two threads


def test_on_the_validation_split_its_own_runs_speak() -> None:
    for seed in (1, 2, 3):
        record_run(5, errors=[100] * 15, seed=seed, split="validation")
        record_run(6, errors=[100 - 10 * seed] * 15, seed=seed, split="validation")
    record_run(6, errors=[5] * 15, seed=4, split="validation", tags={"overrides": "epochs=3"})
    record_run(6, errors=[5] * 15, seed=4)
    record_run(3)
    record_run(4, split="validation", status="FAILED")
    record_run(990, split="validation", tags={"code_sha256": "0" * 64})
    found = comparison.compare(split="validation")
    assert [verdict.model for verdict in found.verdicts] == [5, 6]
    assert {verdict.split for verdict in found.verdicts} == {"validation"}
    assert found.verdicts[1].final_accuracy == pytest.approx(0.992)
    effect = found.effects[-1]
    assert (effect.model, effect.baseline, effect.seeds) == (6, 5, (1, 2, 3))
    assert effect.mean == pytest.approx(0.002)
    assert found.effect(5, 6).mean == pytest.approx(-0.002)
    exclusions = found.runs.set_index(["model", "seed"])["exclusion"]
    assert exclusions[6, 4].tolist() == ["overridden", "on the test split"]
    assert found.uncounted == {
        4: "no run counts (1 not finished)",
        **dict.fromkeys(
            sorted({*entries.numbers()} - {4, 5, 6}), "not run on the validation split, fold 1"
        ),
    }
    # Which seeds confirm an iteration is known there, too; the course's figures are of the others.
    assert found.choices[6].endswith("with seeds 1-3; tested with seed 4")
    assert references.course_figures(found).empty
    assert not references.course_figures(comparison.compare()).empty


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(ExpectedError, match="holds no run of an iteration: make run MODEL=6"):
        comparison.compare()
    record_run(6)
    with pytest.raises(ExpectedError, match="holds no run of model 5: make run MODEL=5"):
        comparison.compare([5, 6])
    with pytest.raises(ExpectedError, match=r"there is no experiments/model_99\.py"):
        comparison.compare([99])
    with pytest.raises(ExpectedError) as error:
        comparison.compare([5], split="validation")
    assert str(error.value) == (
        "the store holds no run of model 5: make run MODEL=5 SEED=.. SPLIT=validation"
    )
    with pytest.raises(ExpectedError, match="SPLIT=all: choose one of test, validation"):
        comparison.compare(split="all")


def test_verdicts_for_other_programs_are_plain_values() -> None:
    record_run(6)
    record_run(5, status="FAILED")
    row, unjudged = comparison.compare().records()
    reason = "no run counts (1 not finished)"
    assert unjudged == {"model": 5, "met": None, "verdict": "not judged", "reason": reason}
    assert row["final_accuracy_std"] is None
    assert type(row["seeds"]) is int
    assert type(row["met"]) is bool
    assert not any(isinstance(value, float) and math.isnan(value) for value in row.values())


def test_each_run_is_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    record_run(6)
    record_run(6, split="validation")
    scored = []

    def counted(runs: pd.DataFrame, *others: object) -> pd.DataFrame:
        scored.extend(runs["run_id"])
        return score(runs, *others)

    score = scores.scores
    monkeypatch.setattr(scores, "scores", counted)
    found = comparison.compare()
    assert found.verdicts is found.verdicts
    assert found.candidates is found.candidates
    assert found.candidates["worst_accuracy"].tolist() == [0.994]
    assert [verdict.worst.accuracy for verdict in found.verdicts] == [0.994]
    assert sorted(scored) == sorted(found.runs["run_id"])
    assert len(scored) == 2
