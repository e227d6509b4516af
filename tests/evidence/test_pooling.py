"""Cross-validation, worked out by hand: six runs of a seed, scored as one on 60,000 digits."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from handmade import add_evidence, record_run

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data.splits import IMAGES, OF_WRITERS
from mnist_exp.evidence import comparison, recipes
from mnist_exp.reporting.contents import contents_of
from mnist_exp.reporting.page import write_page

pytestmark = pytest.mark.usefixtures("store")


def on_folds(
    model: int = 6, *, seed: int = 1, folds: Sequence[str] = OF_WRITERS, wrong: int = 100,
    **others: object,
) -> list[str]:  # fmt: skip
    """Runs of 15 epochs with so many digits wrong in each, but for 150 in epoch 12 on fold 1, and
    in epoch 13 on fold 2; the ids."""
    ids = []
    for fold in folds:
        errors = [wrong] * 15
        if fold in ("1", "2"):
            errors[10 + int(fold)] = 150
        images = {"validation_images": IMAGES[fold]}
        ids.append(
            record_run(model, errors, seed=seed, split="validation", fold=fold, **images | others)
        )
    return ids


def test_the_errors_of_six_folds_are_added() -> None:
    on_folds()
    found = comparison.compare(split="validation", fold="all")
    (verdict,) = found.verdicts
    assert (verdict.fold, verdict.seeds) == ("all", (1,))
    assert verdict.final_accuracy == pytest.approx(1 - 600 / 60_000)
    # The worst of each alone would be 150 of 10,000 and 100 of the others: 700 of 60,000.
    assert verdict.worst.accuracy == pytest.approx(1 - 650 / 60_000)
    assert verdict.worst.epoch == 13
    (run,) = found.counting.to_dict("records")
    assert (run["evaluation_images"], run["worst_errors"]) == (60_000, 650)
    history = found.counting_history
    assert history["validation_errors"].tolist() == [600] * 11 + [650] * 2 + [600] * 2
    assert history["train_accuracy"].tolist() == pytest.approx(
        [0.9 + n / 200 for n in range(1, 16)]
    )
    assert not found.lacking


def test_train_accuracy_is_of_all_digits_that_were_trained_on() -> None:
    ids = on_folds(wrong=100)
    client, _ = tracking.open_store()
    client.log_metric(ids[2], "train/accuracy", 0.5, step=16)
    for run_id in ids:
        client.log_metric(run_id, "validation/errors", 100, step=16)
        if run_id != ids[2]:
            client.log_metric(run_id, "train/accuracy", 1.0, step=16)
    history = comparison.compare(split="validation", fold="all").counting_history
    trained_on_third = (
        60_000 - 9_941
    )  # of 300,000 in all, since each digit is trained on five times
    expected = 1 - trained_on_third / 2 / 300_000
    assert history["train_accuracy"].iloc[-1] == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow  # records many runs
def test_a_seed_that_lacks_a_fold_is_left_out_and_named() -> None:
    on_folds()
    on_folds(seed=2, folds="12345", wrong=10)
    on_folds(seed=3, folds="12345", wrong=10)
    on_folds(seed=4, folds=["last"], wrong=10)
    on_folds(5, seed=1, folds="16")
    found = comparison.compare(split="validation", fold="all")
    assert [(x.model, x.seeds) for x in found.verdicts] == [(6, (1,))]
    assert found.lacking == {5: "seed 1 without folds 2-5", 6: "seeds 2-3 without fold 6"}
    assert found.uncounted[5] == (
        "no run counts (2 of a seed that lacks folds: seed 1 without folds 2-5)"
    )
    told = contents_of(found).uncounted
    assert told[6] == "compared without seeds 2-3 without fold 6"
    assert found.other_folds() == {"last"}


def test_an_epoch_that_one_fold_has_twice_has_no_score() -> None:
    ids = on_folds()
    client, _ = tracking.open_store()
    client.log_metric(ids[3], "validation/errors", 1, step=15)
    (verdict,) = comparison.compare(split="validation", fold="all").verdicts
    assert verdict.final_accuracy != verdict.final_accuracy  # there is none
    assert verdict.worst is None


@pytest.mark.slow  # records many runs
def test_the_newest_run_of_each_fold_speaks() -> None:
    on_folds(wrong=500)
    on_folds()
    found = comparison.compare(split="validation", fold="all")
    assert found.verdicts[0].final_accuracy == pytest.approx(0.99)
    assert found.runs["exclusion"].value_counts().to_dict() == {
        "superseded by a newer run of its seed": 6
    }


@pytest.mark.slow  # records many runs
def test_iterations_are_paired_on_all_folds() -> None:
    for seed in (1, 2, 3):
        on_folds(5, seed=seed)
        on_folds(6, seed=seed, wrong=100 - 10 * seed)
    effect = comparison.compare([5, 6], split="validation", fold="all").effect(6, 5)
    assert effect.seeds == (1, 2, 3)
    assert effect.mean == pytest.approx(6 * 20 / 60_000)
    on_worst = comparison.compare([5, 6], split="validation", fold="all")
    effect = on_worst.effect(6, 5, "worst_accuracy")
    # 650 each, against 5 x 90 + 150, 5 x 80 + 150 and 5 x 70 + 150.
    assert effect.mean == pytest.approx((50 + 100 + 150) / 3 / 60_000)


def test_runs_of_another_fold_are_neither_averaged_nor_paired() -> None:
    for seed in (1, 2, 3):
        record_run(6, [100] * 15, seed=seed, split="validation", fold=None)  # of old
        record_run(8, [50] * 15, seed=seed, split="validation", fold="2")
    record_run(6, [80] * 15, split="validation", fold="2")
    first = comparison.compare(split="validation", fold=2)
    assert [(x.model, x.fold, x.seeds) for x in first.verdicts] == [
        (6, "2", (1,)), (8, "2", (1, 2, 3)),
    ]  # fmt: skip
    assert first.verdicts[0].final_accuracy == pytest.approx(0.992)
    assert first.effect(8, 6).seeds == (1,)
    old = comparison.compare(split="validation", fold="last")
    assert [(x.model, x.fold, x.seeds) for x in old.verdicts] == [(6, "last", (1, 2, 3))]
    assert len(old.validation_runs) == 3
    default = comparison.compare(split="validation")
    assert default.verdicts == ()
    assert default.uncounted[6] == "not run on the validation split, fold 1"
    assert default.other_folds() == {"2", "last"}
    tested = comparison.compare()
    tried = tested.candidates
    assert tried[["model", "fold", "seeds"]].to_numpy().tolist() == [
        [6, "last", 3], [8, "2", 3], [6, "2", 1],
    ]  # fmt: skip
    assert tried["final_accuracy"].tolist() == pytest.approx([0.99, 0.995, 0.992])
    assert tested.choices[6] == (
        "compared on the validation split, folds 2 last, with seeds 1-3; not tested yet"
    )


@pytest.mark.slow  # records many runs
def test_what_was_tried_is_pooled_by_settings() -> None:
    own, other = on_folds(), on_folds(wrong=50)
    other += on_folds(seed=2, folds="12345", wrong=10)
    found = recipes.tried_recipes({"file": own, "lr=2": other}, "file", "all")
    assert [(x.settings, x.seeds) for x in found] == [("lr=2", (1,)), ("file", (1,))]
    assert found[0].final_accuracy == pytest.approx(1 - 300 / 60_000)
    assert found[0].against_file.mean == pytest.approx(300 / 60_000)
    part = recipes.tried_recipes({"file": own, "lr=2": other[:5]}, "file", "all")
    assert [x.settings for x in part] == ["file"]


@pytest.mark.slow  # records many runs
def test_candidates_are_pooled_where_all_folds_are_compared() -> None:
    on_folds()
    on_folds(8, folds="123")
    (row,) = comparison.compare(split="validation", fold="all").candidates.to_dict("records")
    assert (row["model"], row["fold"], row["seeds"]) == (6, "all", 1)
    assert row["final_accuracy"] == pytest.approx(0.99)


@pytest.mark.slow  # records many runs
def test_a_report_on_all_folds_shows_no_network_of_one_of_them(tmp_path: Path) -> None:
    add_evidence(on_folds()[-1])
    on_folds(5)
    found = comparison.compare([6], split="validation", fold="all")
    text = write_page(found, tmp_path / "c.html").read_text()
    assert "seed 1, epoch 13: 98.92" in text  # 650 of 60,000 wrong, in the curve
    told = contents_of(found)
    assert told.summary.startswith("1 iteration, scored on the validation digits, all folds.")
    assert told.tried == "1 recipe tried on the validation split, all folds, in 6 runs."
    assert (told.best_run, told.hard_digits) == (None, None)
    assert contents_of(comparison.compare(split="validation", fold=6)).best_run is not None
    assert told.verdicts["made again by"].tolist() == [
        'make sweep MODELS=6 SEEDS="1-1" SPLIT=validation FOLD=all'
    ]


def test_no_fold_is_compared_on_the_test_split() -> None:
    record_run(6)
    with pytest.raises(ExpectedError, match="FOLD=1: folds are of the training digits"):
        comparison.compare(fold="1")
