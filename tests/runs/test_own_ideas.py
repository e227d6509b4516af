"""Ideas as people write them, in tests/ideas: each is settled, trained, interrupted, resumed and
reproduced."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import pytest
from handmade import record_run
from short_runs import carry_out, short
from written import NUMBER as WRITTEN
from written import network, written

from mnist_exp import ROOT, data, tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits, Split
from mnist_exp.evidence import scores
from mnist_exp.notebook import entries
from mnist_exp.notebook.entries import Entry
from mnist_exp.runs import reproduce, resume, run
from mnist_exp.runs.fields import Value
from mnist_exp.runs.plan import Plan, settle
from mnist_exp.tracking import EPOCH_METRICS, networks
from mnist_exp.training.loop import TrainDigits

pytestmark = pytest.mark.usefixtures("store", "few_digits")
NUMBER = 40
EPOCHS = 2
FOLDER = ROOT / "tests" / "ideas"
Mnist = tuple[Digits, Digits]


@dataclass(frozen=True)
class Idea:
    """What a run of an idea is to record: parameters, which digits its train accuracy is of, and
    metrics besides the usual ones."""

    recorded: Mapping[str, object]
    train_accuracy_of: str = "augmented digits"
    metrics: tuple[str, ...] = ()
    split: Split = "test"


IDEAS = {
    "squeeze_excite": Idea({"network": "Network", "parameters": 7_754, "receptive_field": 28}),
    "warm_up_and_cosine": Idea(
        {"optimizer": "AdamW", "optimizer.weight_decay": 0.01, "learning_rate": 0.005}
    ),
    "label_smoothing": Idea({"loss": "CrossEntropyLoss", "loss.label_smoothing": 0.1}),
    "mixup": Idea(
        {"augment": "RandomAffine, MixUp", "augment.MixUp.alpha": 0.2},
        "mixed digits, each counted as the one with the greatest share",
    ),
    "random_erasing": Idea(
        {"augment": "RandomRotation, RandomErasing", "augment.RandomErasing.p": 0.5}
    ),
    "repeated_augmentation": Idea({"augment": "Repeat, RandomAffine", "augment.Repeat.times": 4}),
    "reduce_on_plateau": Idea(
        {"schedule": "ReduceLROnPlateau", "schedule.patience": 1}, split="validation"
    ),
    "own_metric": Idea({}, metrics=("test/worst_recall", "test/top_2_accuracy")),
    "distillation": Idea({"loss": "Distillation", "loss.temperature": 4, "teacher": 14}),
    "two_passes": Idea({"step.likeness": 1.0}),
}
RESUMED = ["mixup", "reduce_on_plateau"]
"""Ideas of which a run needs most; the others go the whole way in a slow test."""


def entry_of(name: str) -> Entry:
    """An idea, as if its file were experiments/model_40.py."""
    return entries.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"), NUMBER)


@pytest.fixture
def idea(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an idea whose file is there as model 40."""
    entry, read = entry_of(request.param), entries.read_entry
    monkeypatch.setattr(
        entries, "read_entry", lambda number: entry if number == NUMBER else read(number)
    )
    return str(request.param)


def interrupted(plan: Plan) -> str:
    """Carry out a run that is interrupted after an epoch; returns its id."""
    ids: list[str] = []

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.carry_out(plan, on_batch=lambda _: None, on_epoch=stop, on_start=ids.append)
    return ids[0]


def settled(name: str) -> Plan:
    """A run of an idea, with nothing to be cautious about."""
    if name == "distillation":
        carry_out(short(14))
    plan = settle(NUMBER, epochs=EPOCHS, split=IDEAS[name].split)
    assert (plan.findings.not_exact, plan.findings.cautions) == ("", ())
    return plan


def reproduced(run_id: str) -> pd.Series:
    """Train a run again: the same in every epoch. Returns the run as the store has it."""
    reproduction = reproduce.prepare(run_id)
    assert (reproduction.differences, reproduction.cautions) == ([], [])
    assert [pair.identical for pair in reproduce.repeat(reproduction)] == [True] * EPOCHS
    return tracking.runs().set_index("run_id").loc[run_id]


def check_recorded(idea: Idea, recorded: pd.Series) -> None:
    assert recorded["resumes"] == scores.EXACTLY
    assert recorded["resumed"] == "after epoch 1"
    assert {name: recorded[name] for name in idea.recorded} == idea.recorded
    assert recorded["train_accuracy_of"] == idea.train_accuracy_of


def test_every_idea_is_tried() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == IDEAS.keys()


@pytest.mark.parametrize("idea", RESUMED, indirect=True)
def test_an_idea_is_resumed_and_reproduced_bit_for_bit(idea: str) -> None:
    run_id = interrupted(settled(idea))
    assert interrupted(resume.resume(run_id)) == run_id  # after its last epoch
    check_recorded(IDEAS[idea], reproduced(run_id))
    own = tracking.history([run_id], IDEAS[idea].metrics)
    assert len(own) == (EPOCHS if IDEAS[idea].metrics else 0)


@pytest.mark.slow
@pytest.mark.parametrize("idea", IDEAS, indirect=True)
def test_an_idea_learns_and_a_resumed_run_is_the_same_as_a_whole_one(
    idea: str, mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "load", lambda *_: (mnist[0][:3000], mnist[1][:1000]))
    expected, plan = IDEAS[idea], settled(idea)
    whole, stopped = carry_out(plan).run_id, interrupted(plan)
    assert carry_out(resume.resume(stopped)).run_id == stopped
    recorded = reproduced(stopped)
    check_recorded(expected, recorded)
    assert recorded["status"] == "FINISHED"
    assert networks.kept_network(stopped) is not None
    metrics = [*EPOCH_METRICS, *expected.metrics]
    one, other = (
        tracking.history([run_id], metrics).drop(columns=["run_id", "time", "epoch_seconds"])
        for run_id in (stopped, whole)
    )
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    accuracy = one[f"{expected.split}_accuracy"]
    assert accuracy.iloc[-1] > max(0.3, accuracy.iloc[0])
    assert one["train_loss"].is_monotonic_decreasing


@pytest.mark.slow
@pytest.mark.parametrize("idea", ["own_metric"], indirect=True)
@pytest.mark.usefixtures("idea")
def test_own_metrics_are_what_the_kept_network_gives() -> None:
    _, test = data.load("test")
    run_id = carry_out(settle(NUMBER, epochs=1)).run_id
    guesses = networks.kept_network(run_id)(test.images).argsort(dim=1, descending=True)
    pairs = list(zip(guesses.tolist(), test.labels.tolist(), strict=True))
    of_digit = [[guess[0] == label for guess, label in pairs if label == n] for n in range(10)]
    last = tracking.history([run_id], IDEAS["own_metric"].metrics).iloc[-1]
    assert last["test_top_2_accuracy"] == pytest.approx(
        sum(label in guess[:2] for guess, label in pairs) / len(pairs)
    )
    assert last["test_worst_recall"] == pytest.approx(min(sum(x) / len(x) for x in of_digit))


def refused(split: Split = "test", **overrides: Value) -> str:
    """What is said of model 40 with these overrides, in a line, without a run."""
    runs = len(tracking.runs())
    with pytest.raises(ExpectedError) as refusal:
        settle(NUMBER, split=split, overrides=overrides)
    assert len(tracking.runs()) == runs
    said = str(refusal.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("idea", ["reduce_on_plateau"], indirect=True)
@pytest.mark.usefixtures("idea")
def test_no_schedule_looks_at_the_test_set() -> None:
    said = refused()
    assert said.startswith("experiments/model_40.py, line 61: ")
    assert "would so choose on the test set: SPLIT=validation trains with it" in said


@pytest.mark.slow
@pytest.mark.parametrize("idea", ["distillation"], indirect=True)
@pytest.mark.usefixtures("idea")
def test_a_run_keeps_its_teacher_though_there_is_a_newer_one() -> None:
    assert "no network of model 14" in refused()
    assert "no run abcd" in refused(teacher="abcd")
    first = carry_out(short(14)).run_id
    stopped = interrupted(settle(NUMBER, epochs=EPOCHS))
    # On the validation split a teacher is refused that was trained on the validation digits.
    assert "make run MODEL=14 SPLIT=validation" in refused("validation")
    assert "was trained on the validation digits, too" in refused("validation", teacher=first)

    second = carry_out(dataclasses.replace(short(14), seed=2)).run_id
    assert settle(NUMBER).teacher.run_id == second
    carry_out(resume.resume(stopped))
    recorded = tracking.runs().set_index("run_id").loc[stopped]
    assert recorded["teacher_run"] == first
    reproduction = reproduce.prepare(stopped)
    assert reproduction.teacher.run_id == first
    assert reproduction.teacher.sha256 == recorded["teacher_sha256"]
    assert all(pair.identical for pair in reproduce.repeat(reproduction))
    assert settle(NUMBER, overrides={"teacher": first}).teacher.run_id == first

    scripted = record_run(6, tags={"tracked": "mine"})
    assert "a script tracked that run" in refused(teacher=scripted)
    assert "teacher=40 is the iteration itself" in refused(teacher=NUMBER)
    assert "there is no experiments/model_999.py" in refused(teacher=999)


def test_preprocessing_may_change_the_size_and_the_channels() -> None:
    """The receptive field speaks of the prepared image, and the kept network takes digits."""
    entry = written(
        network("self.first = nn.Conv2d(3, 8, 5, stride=2)"),
        preprocess="[v2.Resize(32), v2.Grayscale(3)]",
    )
    plan = settle(WRITTEN, entry=entry, epochs=1)
    assert (plan.findings.not_exact, plan.findings.cautions) == ("", ())
    assert plan.settings()["input_shape"] == "3x32x32"
    run_id = carry_out(plan).run_id
    first = tracking.table(run_id, "receptive_field").iloc[0]
    assert first["n_out"] == 32
    _, test = data.load("test")
    wrong = networks.kept_network(run_id)(test.images).argmax(dim=1) != test.labels
    assert tracking.history([run_id])["test_errors"].tolist() == [int(wrong.sum())]


COUNTS = """class Fading(nn.Module):
    calls = 0

    def forward(self, images):
        self.calls += 1
        return images / self.calls


"""


def test_what_an_augmentation_counts_is_the_same_when_it_is_reproduced() -> None:
    plan = settle(WRITTEN, entry=written(COUNTS, augment="Fading()"), epochs=1)
    reproduction = reproduce.prepare(carry_out(plan).run_id)
    assert [pair.identical for pair in reproduce.repeat(reproduction)] == [True]


def test_what_seldom_mixes_digits_is_said_to() -> None:
    augment = "v2.RandomApply([v2.MixUp(num_classes=10)], p=1e-9)"
    findings = settle(WRITTEN, entry=written(augment=augment)).findings
    assert findings.train_accuracy_of == TrainDigits.MIXED


@pytest.mark.parametrize("mixed", ["", ", v2.MixUp(num_classes=10)"])
def test_a_run_on_copies_of_digits_is_reproduced(mixed: str) -> None:
    augment = f"[Repeat(3), RandomRotation(9){mixed}]"
    plan = settle(WRITTEN, entry=written(augment=augment), epochs=1)
    reproduction = reproduce.prepare(carry_out(plan).run_id)
    assert [pair.identical for pair in reproduce.repeat(reproduction)] == [True]


def test_weights_that_no_group_has_are_told() -> None:
    entry = written(parameter_groups="lambda network: network.first.parameters()")
    (caution,) = settle(WRITTEN, entry=entry).findings.cautions
    # Of the second convolution 8 * 9 * 10 weights and 10 biases, of the normalisation 16.
    assert caution == "no parameter group has 746 of its weights: they stay as is"


def test_autocast_is_recorded() -> None:
    plan = settle(WRITTEN, entry=written(autocast="'bfloat16'"))
    assert plan.settings()["autocast"] == "bfloat16"
    assert (plan.findings.not_exact, plan.findings.cautions) == ("", ())
