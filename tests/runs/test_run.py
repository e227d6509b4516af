"""What a run records: short real trainings, looked up in a real store."""

import dataclasses
import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
from conftest import REFERENCE
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from PIL import Image
from short_runs import EASY, carry_out, short
from torch.optim import SGD
from written import NUMBER, line, network, written

from mnist_exp import data, tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits
from mnist_exp.notebook import entries, loading
from mnist_exp.runs.plan import settle
from mnist_exp.runs.trial import NOT_RESUMED, UNSTEADY


@pytest.fixture(scope="module")
def recorded(
    fresh_store: Path, mnist: tuple[Digits, Digits], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """One run of model 6 that meets an easy target, and what the store holds of it."""
    import shutil

    folder = tmp_path_factory.mktemp("recorded") / "mlruns"
    shutil.copytree(fresh_store, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.setattr(data, "load", lambda *_: (mnist[0][:2000], mnist[1][:1000]))
        outcome = carry_out(short())
        client = MlflowClient(tracking.tracking_uri())
        kept = client.get_run(outcome.run_id)
        artifacts = Path(download_artifacts(run_id=outcome.run_id))
        yield SimpleNamespace(
            outcome=outcome, run=kept, client=client, artifacts=artifacts,
            data=kept.data, history=tracking.history(), runs=tracking.runs(),
        )  # fmt: skip


def test_name_status_and_experiment(recorded: SimpleNamespace) -> None:
    assert recorded.run.info.run_name == "model-6 · seed 1"
    assert recorded.run.info.status == "FINISHED"
    experiment = recorded.client.get_experiment(recorded.run.info.experiment_id)
    assert experiment.name == "mnist_exp"


def test_the_recipe_is_recorded_as_parameters(recorded: SimpleNamespace) -> None:
    expected = {
        "model": "6",
        "optimizer": "SGD",
        "learning_rate": "0.01",
        "optimizer.momentum": "0.9",
        "schedule": "StepLR",
        "schedule.step_size": "6",
        "augment": "RandomRotation",
        "augment.degrees": "7",
        "batch_size": "128",
        "epochs": "2",
        "seed": "1",
        "split": "test",
        "parameters": "7416",
        "receptive_field": "28",
        "threads": "1",
        "torch": "2.14.1",
        "test_images": "1000",
    }
    assert expected.items() <= recorded.data.params.items()
    environment = {"device", "machine", "processor", "instructions", "engine", "python"}
    assert environment | {"mlflow", "torchvision"} <= recorded.data.params.keys()
    assert recorded.data.metrics["parameters"] == 7_416
    assert recorded.data.metrics["model"] == 6  # what the run table is sorted by


def test_every_epoch_has_its_metrics_at_its_step(recorded: SimpleNamespace) -> None:
    history = recorded.history
    assert history["epoch"].tolist() == [1, 2]
    columns = {
        "train_accuracy", "test_accuracy", "train_loss", "test_loss", "test_errors",
        "learning_rate", "epoch_seconds",
    }  # fmt: skip
    assert columns | {"run_id", "epoch", "time"} == set(history.columns)
    assert history[list(columns)].notna().all().all()
    assert history["test_accuracy"].tolist() == pytest.approx(1 - history["test_errors"] / 1000)
    others = {
        name for name in recorded.data.metrics
        if name.endswith("_percent") or name.startswith("system/")
    } | {"parameters", "model"}  # fmt: skip
    per_epoch = recorded.data.metrics.keys() - others
    assert per_epoch <= set(tracking.EPOCH_METRICS)
    assert {"train/accuracy", "test/accuracy", "test/errors"} <= per_epoch


def test_summaries_are_told_apart_by_the_run_table(recorded: SimpleNamespace) -> None:
    accuracy = recorded.history["test_accuracy"]
    metrics = recorded.data.metrics
    assert metrics["best_test_accuracy_percent"] == pytest.approx(100 * accuracy.max())
    assert metrics["final_test_accuracy_percent"] == pytest.approx(100 * accuracy.iloc[-1])
    worst = metrics["worst_of_last_2_test_accuracy_percent"]
    assert worst == pytest.approx(100 * accuracy.min())


def test_tables_text_and_figures(recorded: SimpleNamespace) -> None:
    folder = recorded.artifacts
    published = pd.read_csv(REFERENCE / "receptive_field.csv")
    table = pd.read_csv(folder / "receptive_field.csv")
    pd.testing.assert_frame_equal(table[published.columns], published, check_dtype=False)
    shown = json.loads((folder / "receptive_field.json").read_text())
    assert shown["columns"][:4] == ["layer", "r_out", "n_out", "j_out"]
    assert all(cell is not None for row in shown["data"] for cell in row)
    assert shown["data"][1][:2] == ["conv1", 3]
    layers = (folder / "layers.txt").read_text()
    assert "conv4" in layers
    assert "[1, 16, 10, 10]" in layers
    assert "1,152" in layers
    assert (folder / "source" / "model_6.py").read_text() == entries.path(6).read_text()
    for figure in ("curves", "confusion_matrix", "digits"):
        png = (folder / "figures" / f"{figure}.png").read_bytes()
        assert png.startswith(b"\x89PNG")


def test_what_the_trained_network_gets_wrong(
    recorded: SimpleNamespace, mnist: tuple[Digits, Digits]
) -> None:
    folder, digits = recorded.artifacts, mnist[1][:1000]
    counts = pd.read_csv(folder / "confusion_matrix.csv", index_col="truth")
    assert counts.sum(axis=1).tolist() == digits.labels.bincount(minlength=10).tolist()
    wrong = pd.read_csv(folder / "misclassified.csv")
    assert len(wrong) == recorded.history["test_errors"].iloc[-1]
    assert len(wrong) == 1000 - np.trace(counts)
    assert wrong["truth"].tolist() == digits.labels[wrong["index"].tolist()].tolist()
    assert (wrong["truth"] != wrong["guess"]).all()
    assert wrong["probability"].between(0.1, 1).all()
    with Image.open(folder / "misclassified.png") as image:
        pixels = np.asarray(image)
    last = len(wrong) - 1
    top, left = 28 * (last // 10), 28 * (last % 10)
    expected = digits.images[wrong["index"][last], 0]
    assert (pixels[top : top + 28, left : left + 28] == expected.numpy()).all()


def test_where_it_came_from(recorded: SimpleNamespace) -> None:
    tags = recorded.data.tags
    assert tags["code_sha256"] == loading.load_iteration(6).code_sha256
    assert re.fullmatch("[0-9a-f]{40}", tags["git_commit"])
    assert tags["git_dirty"] in ("true", "false")
    uncommitted = recorded.artifacts / "source" / "uncommitted.diff"
    assert uncommitted.exists() == (tags["git_dirty"] == "true")
    for name, expected in data.SHA256.items():
        assert tags[f"sha256.{name}"] == expected
    datasets = {d.tags[0].value: d.dataset for d in recorded.run.inputs.dataset_inputs}
    assert set(datasets) == {"training", "evaluation"}


def test_the_description_tells_the_story(recorded: SimpleNamespace) -> None:
    text = recorded.data.tags["mlflow.note.content"]
    assert text.startswith("## Model 6: regularise less")
    for part in ("**Target:**", "**Change:**", "**Expect:**", "**Analysis:**", "Target met"):
        assert part in text
    info = recorded.run.info
    table = f"/#/experiments/{info.experiment_id}/runs/{info.run_id}/artifacts/receptive_field.json"
    assert f"Receptive field 28 ([table]({table}?workflowType=machine_learning))." in text


def test_the_verdict_is_tagged_and_the_network_registered(recorded: SimpleNamespace) -> None:
    assert recorded.outcome.verdict.met
    assert recorded.data.tags["verdict"] == "target met"
    (version,) = recorded.client.search_model_versions("name='model-6'")
    assert version.run_id == recorded.outcome.run_id


def test_the_registered_network_classifies_pixels(
    recorded: SimpleNamespace, mnist: tuple[Digits, Digits]
) -> None:
    network = mlflow.pytorch.load_model("models:/model-6/latest")
    images = mnist[1].images[:1000]
    errors = int((network(images).argmax(dim=1) != mnist[1].labels[:1000]).sum())
    assert errors == recorded.history["test_errors"].iloc[-1]
    signature = mlflow.models.get_model_info("models:/model-6/1").signature
    assert signature.inputs.inputs[0].shape == (-1, 1, 28, 28)
    assert signature.inputs.inputs[0].type == np.dtype("uint8")
    folder = Path(download_artifacts("models:/model-6/1"))
    assert [file.name for file in (folder / "data").iterdir()] == ["model.pt2"]
    assert not [file for file in folder.rglob("*") if file.suffix in (".pkl", ".pth", ".pickle")]


def test_the_address_opens_the_run(recorded: SimpleNamespace) -> None:
    info = recorded.run.info
    assert recorded.outcome.address == (
        f"http://127.0.0.1:5000/#/experiments/{info.experiment_id}/runs/{info.run_id}"
        "?workflowType=machine_learning"
    )


@pytest.mark.usefixtures("store", "few_digits")
def test_a_run_that_misses_the_target_is_not_registered() -> None:
    outcome = carry_out(short(target=dataclasses.replace(EASY, test_accuracy=1.0)))
    assert not outcome.verdict.met
    kept = tracking.runs().iloc[0]
    assert kept["verdict"] == "target not met"
    assert "test accuracy of at least 100.00 %" in kept["verdict_reason"]
    assert not MlflowClient(tracking.tracking_uri()).search_model_versions()


@pytest.mark.usefixtures("store", "few_digits")
def test_an_overridden_run_is_not_registered() -> None:
    plan = dataclasses.replace(settle(6, epochs=2, seed=3), target=EASY)
    assert plan.overrides == {"epochs": 2}
    assert carry_out(plan).verdict.met
    kept = tracking.runs().iloc[0]
    assert kept["overrides"] == "epochs=2"
    assert kept["seed"] == 3
    assert not MlflowClient(tracking.tracking_uri()).search_model_versions()


@pytest.mark.usefixtures("store", "few_digits")
def test_a_validation_run_is_recorded_as_one_and_not_judged() -> None:
    plan = dataclasses.replace(settle(3, epochs=1, split="validation"), target=EASY)
    assert carry_out(plan).verdict is None
    kept = tracking.runs().iloc[0]
    assert kept["split"] == "validation"
    assert "validation_accuracy" in kept
    assert "test_accuracy" not in kept
    assert "best_validation_accuracy_percent" in kept
    assert "verdict" not in kept


@pytest.mark.usefixtures("store", "few_digits")
def test_a_non_finite_loss_is_a_failed_run_that_says_so() -> None:
    with pytest.raises(ExpectedError, match="the loss became"):
        carry_out(short(2, optimizer=partial(SGD, lr=1e20)))
    kept = tracking.runs().iloc[0]
    assert kept["status"] == "FAILED"
    assert "the loss became" in kept["failure"]


@pytest.mark.usefixtures("store", "few_digits")
def test_a_network_that_cannot_be_followed_is_trained_and_says_why() -> None:
    waves = "return super().forward(torch.fft.fft2(self.first(x)).abs()[:, :1])"
    carry_out(settle(NUMBER, entry=written(network(forward=waves), epochs=1)))
    kept = tracking.runs().iloc[0]
    assert kept["status"] == "FINISHED"
    assert "followed through layer fft_" in kept["receptive_field"]
    assert tracking.table(kept["run_id"], "receptive_field")["r_out"].tolist() == [1, 3]


@pytest.mark.usefixtures("store", "few_digits")
def test_a_network_that_cannot_be_exported_in_the_end_is_recorded_without_it() -> None:
    later = network(
        "self.register_buffer('seen', torch.zeros((), dtype=torch.int64))",
        "self.seen += self.training\n"
        "if not torch.compiler.is_exporting() or LIMIT is None:\n    return super().forward(x)\n"
        "return super().forward(x if x.sum() > 0 else -x)",
    )
    plan = settle(NUMBER, entry=written("LIMIT = None\n\n\n" + later))
    plan.recipe.network.__init__.__globals__["LIMIT"] = 1  # type: ignore[misc]
    outcome = carry_out(plan)
    kept = tracking.runs().iloc[0]
    assert kept["status"] == "FINISHED"
    assert kept["verdict"] == str(outcome.verdict)
    description = MlflowClient().get_run(outcome.run_id).data.tags["mlflow.note.content"]
    assert "The network could not be exported" in description


@pytest.mark.usefixtures("store", "few_digits")
def test_a_mistake_that_a_later_step_makes_is_one_line_and_a_failed_run() -> None:
    forward = "self.steps += self.training\nreturn super().forward(x * [1, 1, 1, 1][self.steps])"
    entry = written(network("self.steps = 0", forward))
    with pytest.raises(ExpectedError) as refusal:
        carry_out(settle(NUMBER, entry=entry))
    at = line(entry, "[self.steps]")
    said = f"experiments/model_30.py, line {at}: network: IndexError: list index out of range"
    assert str(refusal.value) == said
    (run,) = tracking.runs().to_dict("records")
    assert run["status"] == "FAILED"
    assert said in run["failure"]


@pytest.mark.usefixtures("store", "few_digits")
def test_a_run_says_what_makes_its_numbers_less_certain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = "global STEPS\nSTEPS += 1\nreturn super().forward(F.dropout(x * STEPS))"
    entry = written("STEPS = 0\n\n\n" + network(forward=count))
    monkeypatch.setattr(entries, "read_entry", lambda _: entry)
    monkeypatch.setattr(loading, "load_target", lambda: EASY)
    assert main(["run", f"MODEL={NUMBER}"]) == 0
    said = capsys.readouterr().out
    assert f"take care: {NOT_RESUMED}" in said
    assert f"take care: {UNSTEADY}" in said
    (run,) = tracking.runs().to_dict("records")
    assert run["resumes"] == NOT_RESUMED
    assert run["cautions"] == UNSTEADY


@pytest.mark.usefixtures("store", "few_digits")
def test_the_same_seed_gives_the_same_record() -> None:
    for _ in range(2):
        carry_out(short(3))
    history = tracking.history().drop(columns=["epoch_seconds", "time"])
    first, second = (runs.drop(columns="run_id") for _, runs in history.groupby("run_id"))
    pd.testing.assert_frame_equal(
        first.reset_index(drop=True), second.reset_index(drop=True), check_exact=True
    )
