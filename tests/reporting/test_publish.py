"""The record in the repository: written from a store, entered into another."""

import dataclasses
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from handmade import GOOD, SCRIPT, add_evidence, add_field, record_run
from mlflow import MlflowClient
from torch import nn

from mnist_exp import recipe, tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.evidence import comparison
from mnist_exp.notebook import candidates, code_hash, entries
from mnist_exp.notebook.entries import EXPERIMENTS
from mnist_exp.reporting import enter
from mnist_exp.reporting.enter import Imported, enter_runs
from mnist_exp.reporting.publish import END, MARK, publish, write_summary
from mnist_exp.training.receptive_field import receptive_field_table

CANDIDATE = (
    entries.read_entry(4)
    .source.replace("batch_size=128", "batch_size=SIZE")
    .replace("from functools", "from experiments.sizes import SIZE\nfrom functools")
)
HELPERS = {"sizes/__init__.py": "SIZE = 64\n"}


@pytest.fixture(scope="module")
def published(fresh_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of three runs that count, one that chose, and one that failed."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(fresh_store, folder / "mlruns")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        for seed in (1, 2):
            add_evidence(record_run(6, errors=[*GOOD[:-1], 60 - seed], seed=seed, optimizer="SGD"))
        add_evidence(record_run(5, errors=[70] * 15, tags={"idea": f"turn {SCRIPT}"}))
        record_run(5, seed=2, status="FAILED")
        candidate = {"code_sha256": code_hash.code_sha256(CANDIDATE, HELPERS)}
        chosen = record_run(4, split="validation", fold=None, tags=candidate)  # as of old
        MlflowClient().log_text(chosen, CANDIDATE, "source/model_4.py")
        MlflowClient().log_text(chosen, "SIZE = 64\n", "source/sizes/__init__.py")
        MlflowClient().set_tag(chosen, "remark", "of two\nlines")
        assert publish(comparison.compare(), folder) == folder / "RESULTS.md"
        comparison.compare().history.to_csv(folder / "history.csv", index=False)
        tracking.runs().to_csv(folder / "runs.csv", index=False)
    return folder


def test_what_travels_with_git(published: Path) -> None:
    text = (published / "RESULTS.md").read_text()
    assert text.startswith("# Results\n")
    assert "(results/figures/accuracy.png)" in text
    kept = {
        str(file.relative_to(published / "results")) for file in published.rglob("results/**/*.*")
    }
    assert {"runs.csv", "history.csv", "figures/price.png", "mistakes/digits.png"} <= kept
    runs = pd.read_csv(published / "results" / "runs.csv", dtype=str)
    assert runs["params.seed"].tolist() == ["1", "2", "1", "1"]
    assert runs["params.split"].tolist() == ["test"] * 3 + ["validation"]
    assert not [name for name in runs if "user" in name]
    assert len(pd.read_csv(published / "results" / "history.csv")) == 60
    assert not (published / "results.new").exists()


def test_a_run_is_one_line_without_what_can_be_made_again(published: Path) -> None:
    lines = (published / "results" / "runs.csv").read_text().splitlines()
    assert len(lines) == 1 + 4
    assert "note.content" not in lines[0]
    assert "of two lines" in lines[4]
    lines = (EXPERIMENTS / "results" / "runs.csv").read_text().splitlines()
    assert all(re.match("[0-9a-f]{32},", line) for line in lines[1:])


def test_the_results_are_a_short_page_that_leads_to_the_others(published: Path) -> None:
    pages = [published / "RESULTS.md", *(published / "results").glob("*.md")]
    assert len(pages) == 6
    for page in pages:
        links = re.findall(r"\]\((?!http)(.*?)\)", page.read_text())
        absent = {link for link in links if not (page.parent / link).exists()}
        assert absent <= {"../candidates.md", "LOG.md"}, page  # they are written by hand
    linked = re.findall(r"\(results/(\w+\.md)\)", pages[0].read_text())
    assert sorted(linked) == sorted(page.name for page in pages[1:])
    steps = (published / "results" / "steps.md").read_text()
    assert "## Model 6: regularise less, and lower the learning rate" in steps
    assert "Model 6 against 5: not enough seeds to tell" in pages[0].read_text()


def test_the_published_page_is_short() -> None:
    assert len((EXPERIMENTS / "RESULTS.md").read_text().splitlines()) <= 150


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_the_source_of_a_candidate_travels_along(published: Path, tmp_path: Path) -> None:
    (candidate,) = candidates.read_candidates(published / "results" / "candidates.jsonl")
    assert (candidate.source, candidate.helpers) == (CANDIDATE, HELPERS)
    assert (candidate.idea, candidate.nearest) == ("idea 4", 4)
    listed = (published / "results" / "candidates.md").read_text()
    assert f"| {candidate.code_sha256[:7]} |" in listed
    enter_runs(published)
    (entered,) = tracking.runs().query("split == 'validation'")["run_id"]
    assert tracking.source(entered, 4) == (CANDIDATE, HELPERS)

    MlflowClient().log_text(entered, "not (Python", "source/model_4.py")
    shutil.copytree(published / "results", tmp_path / "results")
    lost = dataclasses.replace(candidate, does_not_run="a class is gone")
    candidates.write([lost], tmp_path / "results" / "candidates.jsonl")
    publish(comparison.compare(), tmp_path)  # keeps what is published
    assert candidates.read_candidates(tmp_path / "results" / "candidates.jsonl") == [lost]
    publish(comparison.compare(), tmp_path / "new")
    assert candidates.read_candidates(tmp_path / "new" / "results" / "candidates.jsonl") == []


@pytest.mark.usefixtures("store")
def test_an_import_gives_the_runs_back_as_they_were(published: Path) -> None:
    assert enter_runs(published) == Imported(entered=4, present=0)
    runs = tracking.runs().set_index("imported_from")
    before = pd.read_csv(published / "runs.csv").set_index("run_id").loc[runs.index]
    assert runs["status"].tolist() == ["FINISHED"] * 4
    for column in (
        "run_name",
        "model",
        "seed",
        "parameters",
        "optimizer",
        "code_sha256",
        "verdict",
    ):
        if column in before:
            assert runs[column].astype(str).tolist() == before[column].astype(str).tolist()
    for column in ("start_time", "end_time"):
        assert (runs[column] == pd.to_datetime(before[column], format="ISO8601")).all()
    history = tracking.history().assign(run_id=lambda rows: rows["run_id"].map(
        dict(zip(runs["run_id"], runs.index, strict=True))
    ))  # fmt: skip
    recorded = pd.read_csv(published / "history.csv")
    recorded = recorded[recorded["run_id"].isin(runs.index)].reset_index(drop=True)
    recorded["time"] = pd.to_datetime(recorded["time"], format="ISO8601")
    pd.testing.assert_frame_equal(history, recorded[history.columns], check_dtype=False)
    for run_id in runs.query("split == 'test'")["run_id"]:
        table = tracking.table(run_id, "receptive_field")
        assert table["r_out"].tolist() == [1, 3]
    counting = comparison.compare().counting["run_id"]
    assert len(counting) == 3
    for run_id in counting:  # of each, whatever it came to
        assert tracking.image(run_id, "misclassified")[0, 28] == 255
        assert tracking.table(run_id, "misclassified")["guess"].tolist() == [9, 7]


@pytest.mark.usefixtures("store")
def test_imported_runs_are_judged_like_others_and_published_again(
    published: Path, tmp_path: Path
) -> None:
    enter_runs(published)
    found = comparison.compare()
    assert [verdict.answer for verdict in found.verdicts] == ["not met", "met on every seed"]
    assert found.candidates["model"].tolist() == [4]
    publish(found, tmp_path / "again")
    for file in ("runs.csv", "history.csv", "receptive_field.csv", "mistakes/runs.csv"):
        again = (tmp_path / "again" / "results" / file).read_text()
        assert again == (published / "results" / file).read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("store")
def test_receptive_fields_of_every_form_come_back(tmp_path: Path) -> None:
    networks = {
        4: nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)),
        5: nn.Conv2d(1, 2, (3, 5), padding=(1, 2)),
        6: nn.Conv2d(1, 2, (5, 3), stride=(2, 1)),
        7: nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2)),
        8: nn.Sequential(nn.Conv2d(1, 2, 5)),
    }
    for number, network in networks.items():
        known = {8: "unknown: layer 1 takes waves apart"}.get(number, "28")
        add_field(record_run(number, receptive_field=known), network)
    publish(comparison.compare(), tmp_path)
    page = (tmp_path / "results" / "receptive_fields.md").read_text()
    assert "| convolution | 3x5 | 28 | 1 | 3x5 | 1 | 1x2 | 1 | 28 | 1 |" in page
    assert "| 1 | 3 | 26 | 1 |  |  |  | 3 | 26 | 1 | yes |" in page
    assert "It is not known from there on: layer 1 takes waves apart." in page
    for run_id in tracking.runs()["run_id"]:
        tracking.remove_run(run_id)
    enter_runs(tmp_path)
    for run in tracking.runs().itertuples():
        table = receptive_field_table(networks[run.model], recipe.PIXELS)
        entered = tracking.table(run.run_id, "receptive_field")
        assert set(entered) == set(table)
        pd.testing.assert_frame_equal(entered[table.columns], table, check_dtype=False)


@pytest.mark.usefixtures("store")
def test_a_run_is_entered_once(published: Path) -> None:
    record_run(3)
    assert enter_runs(published) == Imported(entered=4, present=0)
    assert enter_runs(published) == Imported(entered=0, present=4)
    assert len(tracking.runs()) == 5


def test_nothing_is_entered_where_the_runs_are(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{published}/mlruns/mlflow.db")
    assert enter_runs(published) == Imported(entered=0, present=4)


@pytest.mark.usefixtures("store")
def test_a_published_run_that_was_deleted_is_entered_again(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    enter_runs(published)
    original = pd.read_csv(published / "runs.csv")["run_id"].iloc[0]
    assert main(["delete", f"RUN={original[:12]}"]) == 0
    assert "it was imported: make import enters it again" in capsys.readouterr().out
    assert enter_runs(published) == Imported(entered=1, present=3)
    assert tracking.find_run(original)["status"].item() == "FINISHED"


@pytest.mark.usefixtures("store")
def test_a_published_run_is_finished(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    enter_runs(published)
    original = pd.read_csv(published / "runs.csv")["run_id"].iloc[0]
    assert main(["resume", f"RUN={original}"]) == 2
    (here,) = tracking.find_run(original)["run_id"]
    assert f"run {here} is finished" in capsys.readouterr().err


@pytest.mark.usefixtures("store")
def test_an_interrupted_import_is_completed(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(enter, "_enter_evidence", interrupted)
        with pytest.raises(KeyboardInterrupt):
            enter_runs(published)
    assert tracking.runs()["status"].tolist() == ["RUNNING"]
    assert enter_runs(published) == Imported(entered=4, present=0)
    assert tracking.runs()["status"].tolist() == ["FINISHED"] * 4


@pytest.mark.usefixtures("store")
def test_results_that_cannot_be_read_are_one_line(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ExpectedError, match="cannot be imported") as raised:
        enter_runs(tmp_path)
    assert "\n" not in str(raised.value)
    for file, content in (
        ("runs.csv", b"\xff\xfe\x00"), ("runs.csv", b"run_id,run_name\na,b\n"),
        ("history.csv", b"a,b\n1,2,3\n"), ("mistakes/digits.csv", b""),
    ):  # fmt: skip
        folder = tmp_path / str(hash(content))
        shutil.copytree(published / "results", folder / "results")
        (folder / "results" / file).write_bytes(content)
        with pytest.raises(ExpectedError, match="cannot be imported"):
            enter_runs(folder)
    assert tracking.runs().empty


@pytest.mark.usefixtures("store")
def test_published_runs_are_not_lost(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published / "results", tmp_path / "results")
    record_run(6, seed=1)
    with pytest.raises(ExpectedError, match=r"3 published runs .* make import first"):
        publish(comparison.compare(), tmp_path)
    enter_runs(tmp_path)
    assert publish(comparison.compare(), tmp_path).is_file()


@pytest.mark.usefixtures("store")
def test_the_readme_says_what_came_of_each_iteration(tmp_path: Path) -> None:
    for seed, last in ((1, 60), (2, 61)):
        record_run(6, [*GOOD[:-1], last], seed=seed)
    record_run(5, tags={"code_sha256": "before the change"})
    found = comparison.compare()
    readme = tmp_path / "README.md"
    text = f"before\n{MARK}\nold\n{END}\nafter\n"
    readme.write_text(text)
    write_summary(found, readme)
    written = readme.read_text()
    title = "regularise less, and lower the learning rate"
    row = f"| [6](experiments/model_6.py) | {title} | 7,416 | 1 of 2 | 99.39 % |\n"
    assert row in written
    assert "| [2](experiments/model_2.py) " in written
    assert "| 6,379,786 | not run | – |" in written
    assert "| 7,448 | no run counts | – |" in written
    assert written.startswith(f"before\n{MARK}\n")
    assert written.endswith(f"{END}\nafter\n")
    assert "old" not in written
    readme.write_text("")
    with pytest.raises(ExpectedError, match="no place for the results"):
        write_summary(found, readme)


@pytest.mark.usefixtures("store")
def test_descriptions_are_made_again_for_the_run_that_was_entered(published: Path) -> None:
    enter_runs(published)
    client, experiment = tracking.open_store()

    def text(run_id: str) -> str:
        return str(client.get_run(run_id).data.tags["mlflow.note.content"])

    runs = tracking.runs()
    for run_id in runs.loc[runs["split"] == "test", "run_id"]:
        table = f"/#/experiments/{experiment}/runs/{run_id}/artifacts/receptive_field.json"
        assert f"Receptive field 28 ([table]({table}?workflowType=machine_learning)).\n" in text(
            run_id
        )
    # 70 of 10,000 digits are wrong in each epoch.
    title, result, *sections, verdict = text(runs.query("model == 5")["run_id"].iloc[0]).split(
        "\n\n"
    )
    assert title == "## Model 5: turn &lt;script>alert(1)&lt;/script>"
    assert result.startswith("Target not met. Final test accuracy 99.30 %. Receptive field 28 (")
    change = entries.read_entry(5).sections["Change"]
    assert sections[1] == f"**Change:** {change}"
    assert [line.split(" | ")[1:] for line in verdict.splitlines()[2:]] == [
        ["worst 99.30 %, in epoch 15", "**no** |"], ["15", "yes |"], ["7,416", "yes |"],
    ]  # fmt: skip
    # Of a candidate no table is published, and nothing is judged.
    title, result, *sections = text(runs.query("model == 4")["run_id"].iloc[0]).split("\n\n")
    assert title == "## Model 4: idea 4"
    assert result == "Final validation accuracy 99.40 %. Receptive field 28."
    assert sections[0] == f"**Target:** {entries.read_entry(4).sections['Target']}"
    assert len(sections) == 4


@pytest.mark.usefixtures("store")
def test_a_run_whose_file_is_lost_is_described_without_it(tmp_path: Path) -> None:
    record_run(6)
    record_run(102, split="validation", tags={"code_sha256": "lost", "idea": "16-d16-G"}, fold="2",
               receptive_field="unknown: it looks away")  # fmt: skip
    publish(comparison.compare(), tmp_path)
    for run_id in tracking.runs()["run_id"]:
        tracking.remove_run(run_id)
    enter_runs(tmp_path)
    client, _ = tracking.open_store()
    (run_id,) = tracking.runs().query("model == 102")["run_id"]
    text = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert text == "## Model 102: 16-d16-G\n\nFinal validation accuracy 99.40 % on fold 2."
    assert tracking.find_run(run_id)["fold"].item() == "2"


@pytest.mark.usefixtures("store")
def test_without_a_run_that_counts_there_is_no_result(tmp_path: Path) -> None:
    record_run(6, status="FAILED")
    with pytest.raises(ExpectedError, match="no run in the store counts"):
        publish(comparison.compare(), tmp_path)
    assert not (tmp_path / "RESULTS.md").exists()
