"""What runs hold has a name and a meaning, all of it, and nothing else has."""

import dataclasses
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from short_runs import EASY, carry_out, short
from torch import Tensor, nn
from torch.optim import SGD
from written import NUMBER, network, written

from mnist_exp import ROOT, data, track, tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits
from mnist_exp.notebook import entries, loading
from mnist_exp.runs import checkout, group, resume, run, sweep, trial
from mnist_exp.runs.plan import settle
from mnist_exp.runs.trial import Findings
from mnist_exp.tracking import PrunedError, names
from mnist_exp.views import Rotations

Held = dict[str, set[str]]


@dataclass(frozen=True)
class Scaled:
    """A preprocessing with a setting."""

    factor: float

    def __call__(self, images: Tensor) -> Tensor:
        return images * self.factor


def met(seed: int) -> str:
    return carry_out(dataclasses.replace(short(6), seed=seed)).run_id


def validated() -> str:
    """A run on the validation split of a recipe that has every part; its id."""
    plan = dataclasses.replace(settle(21, split="validation"), target=EASY)
    partly = dataclasses.replace(plan.findings, through_torch=("F.fold",))
    plan = dataclasses.replace(plan, findings=partly)
    changes = {"epochs": 1, "preprocess": Scaled(0.5), "views": Rotations((0, 5))}
    plan = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, **changes))
    return carry_out(plan).run_id


def taught(teacher: str) -> None:
    """A run that learns from the network of another, with a loss, a metric and a field of its
    own."""
    own = (
        "class Own(Recipe):\n    weight: float = 0.1\n\n\n"
        "def near(output, labels, taught, scale):\n"
        "    return scale * F.mse_loss(output, taught)\n\n\n"
    )
    entry = written(
        own, teacher=repr(teacher), loss="partial(near, scale=2.0)",
        metrics="{'sum': lambda output, labels: output.sum()}",
    )  # fmt: skip
    entry = entries.parse(entry.source.replace("RECIPE = Recipe(", "RECIPE = Own("), NUMBER)
    carry_out(dataclasses.replace(settle(NUMBER, entry=entry, epochs=1), target=EASY))


def resumed() -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    plan = dataclasses.replace(settle(3, epochs=2), target=EASY)
    with pytest.raises(KeyboardInterrupt):
        run.carry_out(plan, on_batch=lambda _: None, on_epoch=stop)
    (run_id,) = tracking.runs().query("status == 'KILLED'")["run_id"]
    carry_out(resume.resume(run_id))


def pruned() -> None:
    """A trial that its study ends early."""

    def stop(_: object) -> None:
        raise PrunedError("after epoch 1 of 2")

    tags = {names.STUDY: "of", names.TRIAL: "1", names.SETTINGS: "optimizer.lr=0.1"}
    with pytest.raises(PrunedError):
        run.carry_out(
            settle(3, epochs=2, split="validation"), on_batch=lambda _: None, on_epoch=stop,
            tags=tags,
        )  # fmt: skip


def failed() -> None:
    with pytest.raises(ExpectedError, match="the loss became"):
        carry_out(short(2, optimizer=partial(SGD, lr=1e20)))


def missed() -> None:
    """A run that does not meet the target, of an iteration that imports a helper."""
    random = network(forward="return super().forward(F.dropout(x))")
    plan = settle(NUMBER, entry=written(random))
    entry = dataclasses.replace(plan.entry, helpers={"blocks/__init__.py": ""})
    target = dataclasses.replace(EASY, test_accuracy=1.0)
    carry_out(dataclasses.replace(plan, entry=entry, target=target))


def imported(run_id: str) -> None:
    """As an earlier version recorded it."""
    (row,) = tracking.archive([run_id]).to_dict("records")
    row |= {"params.distillation": "Distillation", "params.distillation.weight": "0.5"}
    with tracking.enter_run(tracking.archived_run(row, tracking.history([run_id]))) as writer:
        writer.log_text("RECIPE = ...", names.source_file(21))


def tracked() -> None:
    """A run of a script of one's own."""
    pooled = nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with track("an idea", network=pooled, settings={"batch_size": 64}) as under_way:
        under_way.epoch(train=0.5, test=0.5)


def met_together() -> None:
    plan = settle(6, seed=3, epochs=1, device="cpu", engine="torch")
    group.carry_out_together(group.of_seeds(plan, [3, 4]))


def swept() -> None:
    """The run above those of two seeds of model 6."""
    asked = sweep.settle_sweep([6], [1, 2], epochs=2)
    assert asked.missing == ()
    sweep.train_missing(
        asked, workers=1, threads=1, scheduler="", on_start=lambda _: None, on_result=lambda _: None
    )


def uncommitted(folder: Path) -> Path:
    """A checkout with one commit, and a file that is not in it."""
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    subprocess.run([*git, "commit", "-qm", "first", "--allow-empty"], check=True)
    (folder / "new").touch()
    return folder


@pytest.fixture(scope="module")
def held(
    fresh_store: Path, mnist: tuple[Digits, Digits], try_out_once: Callable[..., Findings],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Held]:  # fmt: skip
    """By kind, the names of all that a run of each sort holds."""
    folder = tmp_path_factory.mktemp("named")
    shutil.copytree(fresh_store, folder / "mlruns")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        patch.setattr(data, "load", lambda *_: (mnist[0][:500], mnist[1][:500]))
        patch.setattr(trial, "try_out", try_out_once)
        patch.setattr(checkout, "ROOT", uncommitted(tmp_path_factory.mktemp("checkout")))
        patch.setattr(loading, "load_target", lambda: EASY)
        taught(met(seed=1))
        met(seed=2)
        resumed()
        failed()
        pruned()
        missed()
        imported(validated())
        tracked()
        met_together()
        swept()
        client, experiment = tracking.open_store()
        by_kind: Held = defaultdict(set)
        for each in client.search_runs([experiment]):
            for kind, name in contents(client, each):
                by_kind[kind].add(name)
        yield by_kind


def contents(client: MlflowClient, each: Run) -> Iterator[tuple[str, str]]:
    """Kind and name of all that a run holds."""
    yield from (("parameter", name) for name in each.data.params)
    yield from (("metric", name) for name in each.data.metrics)
    # Of MLflow's own tags, those that we write.
    tags = (tag for tag in each.data.tags if tag in names.TAGS or not tag.startswith("mlflow."))
    yield from (("tag", name) for name in tags)
    yield from (("digits", entered.tags[0].value) for entered in each.inputs.dataset_inputs)
    for output in each.outputs.model_outputs:
        yield "network", client.get_logged_model(output.model_id).name
    yield from (("file", path) for path in files(client, each.info.run_id))


def files(client: MlflowClient, run_id: str, folder: str | None = None) -> Iterator[str]:
    for artifact in client.list_artifacts(run_id, folder):
        if artifact.is_dir:
            yield from files(client, run_id, artifact.path)
        else:
            yield artifact.path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parameter", "tag", "metric", "text", "digits", "network"])
def test_all_that_is_held_is_named_and_nothing_else(kind: names.Kind, held: Held) -> None:
    of_tables_and_images = {
        *(file for table in names.Table for file in (table.csv, table.json)),
        *(image.file for image in (*names.Figure, *names.Image)),
    }
    assert of_tables_and_images <= held["file"]
    texts = held["file"] - of_tables_and_images
    here = texts if kind == "text" else held[kind]
    assert {names.entry(kind, name) for name in here} == set(names.REGISTER[kind])


def test_the_published_runs_hold_what_is_named() -> None:
    columns = pd.read_csv(ROOT / "experiments" / "results" / "runs.csv", nrows=0).columns
    kinds = {"params": "parameter", "tags": "tag", "metrics": "metric"}
    named = [column.partition(".") for column in columns if "." in column]
    assert len(named) > 50
    for part, _, name in named:
        assert names.entry(kinds[part], name)


def test_only_tracking_holds_the_words_of_mlflow() -> None:
    package = ROOT / "mnist_exp"
    words = re.compile(
        r"MLFLOW_|mlflow\.|mlflow import|import mlflow|sharedView|viewState|workflow"
    )
    files = [file for file in package.rglob("*.py") if "tracking" not in file.parts[-2:]]
    assert len(files) > 30
    holding = [file for file in files if words.search(file.read_text(encoding="utf-8"))]
    assert holding == []


@pytest.mark.parametrize(
    ("kind", "name", "entered"),
    [
        ("parameter", "optimizer.momentum", "optimizer.<argument>"),
        ("parameter", "validation_images", "<split>_images"),
        ("tag", "sha256.t10k-images-idx3-ubyte", "sha256.<file>"),
        ("metric", "worst_of_last_5_test_accuracy_percent",
         "worst_of_last_<n>_<split>_accuracy_percent"),
        ("metric", "train/accuracy", "<part>/accuracy"),
        ("metric", "model-12/seeds", "model-<model>/seeds"),
        ("text", "source/model_12.py", "source/model_<model>.py"),
        ("text", "source/blocks/__init__.py", "source/<helper>"),
    ],
)  # fmt: skip
def test_a_name_that_depends_on_the_run(kind: names.Kind, name: str, entered: str) -> None:
    assert names.entry(kind, name) == entered


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("parameter", "teacher.degrees"),
        ("parameter", "train_images"),
        ("parameter", "seeds"),
        ("metric", "worst_of_last_five_test_accuracy_percent"),
        ("metric", "train/errors"),
        ("metric", "test_accuracy"),
        ("text", "source/model_12.txt"),
        ("text", "source/model_12-py"),
        ("table", "digits"),
    ],
)
def test_what_has_no_name(kind: names.Kind, name: str) -> None:
    with pytest.raises(ValueError, match="enter it in"):
        names.entry(kind, name)


def test_every_epoch_metric_is_a_metric() -> None:
    names.require("metric", names.EPOCH_METRICS)
    assert len(names.EPOCH_METRICS) == len(set(names.EPOCH_METRICS)) == 10


def test_the_names_are_in_the_documentation() -> None:
    page = (ROOT / "docs" / "names.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- names -->\n")[2].partition("\n<!-- end of names -->")[0]
    make = (
        '.venv/bin/python -c "from mnist_exp.tracking import names; print(names.register_table())"'
    )
    assert shown == names.register_table(), f"{make} makes it anew"
