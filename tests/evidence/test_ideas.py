"""What scripts tracked is judged by its name, and troubles nobody who reads the store."""

from pathlib import Path

import pytest
from handmade import GOOD, SCRIPT, record_run

from mnist_exp import tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence import comparison, side_by_side
from mnist_exp.evidence.verdict import Answer
from mnist_exp.reporting import publish
from mnist_exp.reporting.page import write_page

pytestmark = pytest.mark.usefixtures("store")
MISSED = (*GOOD[:-1], 61)


def track_by_hand(
    name: str, errors: tuple[int, ...] = GOOD, *, seed: int = 1, split: str = "test",
    status: str = "FINISHED", fold: int = 1,
) -> str:  # fmt: skip
    """A run as a script's, that ends with this status; its id."""
    parameters = {
        "seed": seed, "split": split, f"{split}_images": 10_000, "parameters": 7_000,
        "receptive_field": 28, **({"fold": fold} if split == "validation" else {}),
    }  # fmt: skip
    marks = {"idea": name, "tracked": name}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            tracking.RunWriter, "end", lambda run, _: run.client.set_terminated(run.run_id, status)
        )
        with tracking.start_run(f"{name} · seed {seed}", parameters, marks) as run:
            for epoch, wrong in enumerate(errors, start=1):
                metrics = {f"{split}/errors": wrong, f"{split}/accuracy": 1 - wrong / 10_000}
                run.log_metrics(metrics | {"train/accuracy": 0.9}, step=epoch)
    return run.run_id


def test_the_newest_finished_run_of_a_name_and_seed_counts() -> None:
    track_by_hand("a", MISSED, seed=1)
    track_by_hand("b", MISSED)
    track_by_hand("a", seed=1)
    track_by_hand("a", MISSED, seed=2)
    track_by_hand("a", seed=2, status="FAILED")
    track_by_hand("a", seed=3, split="validation")
    track_by_hand("c", status="KILLED")
    ideas = comparison.compare().ideas
    a, b = ideas.verdicts
    assert (a.model, a.name, a.seeds, a.passing) == (None, "a", (1, 2), 1)
    assert a.answer is Answer.MET_ON_SOME
    assert a.worst is not None
    assert (a.worst.accuracy, a.worst.seed, a.worst.epoch) == (0.9939, 2, 15)
    assert (b.seeds, b.passing) == ((1,), 0)
    assert ideas.uncounted == {"c": "no run counts (1 not finished)"}
    (chosen,) = comparison.compare(split="validation").ideas.verdicts
    assert (chosen.name, chosen.split, chosen.seeds) == ("a", "validation", (3,))


def test_an_idea_is_scored_on_all_folds_together() -> None:
    for fold in range(1, 7):
        track_by_hand("a", (100, 100 * fold), split="validation", fold=fold)
        if fold > 1:
            track_by_hand("b", split="validation", fold=fold)
    ideas = comparison.compare(split="validation", fold="all").ideas
    (pooled,) = ideas.verdicts
    assert (pooled.name, pooled.fold, pooled.seeds) == ("a", "all", (1,))
    assert pooled.final_accuracy == pytest.approx(1 - 2_100 / 60_000)
    assert ideas.uncounted == {"b": "no run counts (5 of a seed that lacks folds)"}


def test_compare_has_them_after_the_iterations(capsys: pytest.CaptureFixture[str]) -> None:
    record_run(6)
    track_by_hand("my idea")
    track_by_hand("unfinished", status="FAILED")
    assert main(["compare", "MODELS=6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["6", "–"]
    assert lines[2].endswith("my idea")
    assert "my idea: met on every seed; lowest of the last 5 epochs 99.40 %" in "\n".join(lines)
    assert "unfinished: no run counts (1 not finished)" in lines
    assert main(["runs"]) == 0
    assert main(["check"]) == 0
    assert "my idea" not in capsys.readouterr().out.partition("Model 6,")[2]


def test_a_store_with_nothing_else_is_compared(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    track_by_hand("alone")
    assert main(["compare"]) == 0
    assert "alone: met on every seed" in capsys.readouterr().out
    page = write_page(comparison.compare(), tmp_path / "own.html")
    assert "alone" in page.read_text()
    assert main(["check"]) == 2
    assert main(["compare", "MODELS=6"]) == 2
    assert "the store holds no run of model 6" in capsys.readouterr().err


def test_the_report_has_a_section_for_them(tmp_path: Path) -> None:
    record_run(6)
    page = write_page(comparison.compare(), tmp_path / "without.html")
    assert "own scripts" not in page.read_text()
    track_by_hand(f"mine {SCRIPT}", MISSED)
    page = write_page(comparison.compare(), tmp_path / "with.html")
    text = page.read_text()
    section = text.partition('<section id="scripts">')[2].partition("</section>")[0]
    assert "<h2>What did own scripts do?</h2>" in section
    assert "mine &lt;script&gt;alert(1)" in section
    assert "lowest of the last 5 epochs 99.39" in section
    assert SCRIPT not in text
    markdown = (tmp_path / "with_files" / "with.md").read_text()
    assert "## What did own scripts do?" in markdown
    assert "| mine &lt;script>alert(1)&lt;/script> | not met |" in markdown


def test_nothing_of_them_is_published(tmp_path: Path) -> None:
    track_by_hand("mine alone")
    folder = tmp_path / "published"
    folder.mkdir()
    with pytest.raises(ExpectedError, match="no run in the store counts"):
        publish.publish(comparison.compare(), folder)
    record_run(6)
    publish.publish(comparison.compare(), folder)
    texts = [file.read_text() for file in folder.rglob("*.*") if file.suffix in (".csv", ".md")]
    assert any("idea 6" in text for text in texts)
    assert not any("mine alone" in text for text in texts)


def test_names_set_groups_of_runs_apart() -> None:
    ids = [track_by_hand(name, seed=seed) for name in ("a", "b") for seed in (1, 2)]
    side = side_by_side.compare_runs(ids)
    assert side.runs["group"].tolist() == [0, 0, 1, 1]
    assert side.differences.loc["tracked"].tolist() == ["a", "b"]
