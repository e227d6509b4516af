"""A loop of one's own is tracked: what its run holds, how it ends, and what is refused before."""

import copy
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from sqlalchemy import Engine, event
from torch import nn

from mnist_exp import data, track, tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import Digits
from mnist_exp.runs import reproduce, resume


@pytest.fixture
def script() -> Iterator[None]:
    """Ctrl-C does what it does in a script, whatever a command that ran before has made of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Small(nn.Module):
    """Sees 3 pixels behind its convolution, and 30, with the padding, behind its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(self.conv(x)).relu()).mean((2, 3))


pytestmark = pytest.mark.usefixtures("store", "script")
PARAMETERS = 10 * 9 + 10 + 2 * 10


def only_run() -> Any:
    (run,) = tracking.runs().itertuples()
    return run


def test_a_run_holds_what_came_of_the_loop(
    tmp_path: Path, mnist: tuple[Digits, Digits], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    network = Small()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    digits = mnist[0][:64]
    settings = {"batch_size": 64, "optimizer.lr": 0.1, "head": nn.Sequential(nn.Identity())}
    with track(" my  idea ", network=network, seed=7, settings=settings) as run:
        for wrong in (600, 88):
            loss = nn.functional.cross_entropy(network(digits.images / 255), digits.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.epoch(train=(32, 64), test=(10_000 - wrong, 10_000), train_loss=loss.detach())
    row = tracking.runs().iloc[0]
    assert len(tracking.runs()) == 1
    assert row["run_id"] == run.run_id
    expected = {
        "run_name": "my idea · seed 7", "status": "FINISHED", "tracked": "my idea",
        "idea": "my idea", "network": "Small", "seed": 7, "split": "test", "test_images": 10_000,
        "parameters": PARAMETERS, "receptive_field": 30, "device": "cpu",
        "settings.batch_size": 64, "settings.optimizer.lr": 0.1,
        "settings.head": "Sequential( (0): Identity() )",
        "best_test_accuracy_percent": 99.12, "final_test_accuracy_percent": 99.12,
        "verdict": "target not met",
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert row["git_commit"] == tracking.runs()["git_commit"].item()
    history = tracking.history()
    assert history["epoch"].tolist() == [1, 2]
    assert history["test_errors"].tolist() == [600, 88]
    assert history["test_accuracy"].tolist() == [0.94, 0.9912]
    assert history["train_accuracy"].tolist() == [0.5, 0.5]
    assert (history["epoch_seconds"] > 0).all()
    table = tracking.table(run.run_id, "receptive_field")
    assert table["r_out"].tolist()[:2] == [1, 3]
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "my idea · seed 7: test accuracy 99.12 % after the last epoch"
    assert printed[1] == "Target not met:"
    assert printed[-1].startswith("See it: make ui, then http://127.0.0.1:5000/#/experiments/")


def test_the_network_is_kept_as_it_is_at_the_end_and_the_script_with_it() -> None:
    network = Small()
    with track("kept", network=network) as run:
        with torch.no_grad():
            network.conv.weight.fill_(0.25)
        run.epoch(train=1, test=1)
    kept = mlflow.pytorch.load_model(f"runs:/{run.run_id}/network")
    images = torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(kept(images), network.eval()(images))
    client, _ = tracking.open_store()
    script = Path(client.download_artifacts(run.run_id, "source/script.py"))
    assert script.read_text() == Path(__file__).read_text()
    assert {"curves.png", "receptive_field.png"} == {
        Path(file.path).name for file in client.list_artifacts(run.run_id, "figures")
    }


@pytest.mark.parametrize(("wrong", "met"), [(60, True), (61, False)])
def test_the_verdict_is_on_counts(wrong: int, met: bool) -> None:
    """99.40 % of 10,000 digits are 9,940, in each of the last five epochs."""
    with track("at the bar", network=Small()) as run:
        for epoch in range(1, 7):
            run.epoch(train=0.9, test=(10_000 - (wrong if epoch == 2 else 60)) / 10_000)
    assert run.verdict is not None
    assert run.verdict.met == met
    assert tracking.find_run(run.run_id)["verdict"].item() == str(run.verdict)


def test_the_validation_split_is_not_judged(capsys: pytest.CaptureFixture[str]) -> None:
    with track("choosing", network=Small(), split="validation", fold="last") as run:
        run.epoch(train=0.9, validation=0.95, validation_loss=0.2)
        with pytest.raises(TypeError, match=r"epoch\(train=\.\.\., validation=\.\.\.\)"):
            run.epoch(train=0.9, test=0.95)
    assert run.verdict is None
    assert only_run().validation_images == 10_000
    assert only_run().fold == "last"
    assert only_run().best_validation_accuracy_percent == 95
    assert "Not judged" in capsys.readouterr().out


def test_accuracies_are_of_as_many_digits_as_the_fold_has() -> None:
    with track("choosing", network=Small(), split="validation", fold=3) as run:
        run.epoch(train=0.9, validation=(9_041, 9_941))
        with pytest.raises(ValueError, match=r"of 9,941 digits.*validation=\(9912, 9941\)"):
            run.epoch(train=0.9, validation=(9_500, 10_000))
        with pytest.raises(ValueError, match="no whole number of 9,941 digits"):
            run.epoch(train=0.9, validation=0.95)
    kept = only_run()
    assert (kept.fold, kept.validation_images, kept.validation_errors) == ("3", 9_941, 900)
    # By default it is the first, as load_digits gives it.
    with track("choosing", network=Small(), split="validation") as run:
        run.epoch(train=0.9, validation=(10_016, 10_016))
    assert tracking.find_run(run.run_id)["fold"].item() == "1"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"name": ""}, r'a name has 1 to 100 letters .*track\("my idea"'),
        ({"name": " \n"}, "a name has"),
        ({"name": "x" * 101}, "a name has"),
        ({"name": "a\x1b[31mb"}, "a name has"),
        ({"name": 5}, "give the idea a name"),
        ({"network": Small}, r"a class: call it, as in Small\(\)"),
        ({"network": "Small"}, "is a torch module"),
        ({"network": nn.Sequential(nn.LazyLinear(10))}, "lazy layers"),
        ({"network": nn.Linear(3, 10)}, r"black images of \(1, 28, 28\)"),
        ({"input_shape": (28, 28)}, r"as in \(1, 28, 28\)"),
        ({"input_shape": 28}, r"as in \(1, 28, 28\)"),
        ({"seed": -1}, "choose one from 0"),
        ({"seed": 1.5}, "a whole number is needed, as in seed=1"),
        ({"split": "train"}, "SPLIT=train: choose one of test, validation"),
        ({"split": "validation", "fold": 7}, "FOLD=7: choose one of 1, 2, 3"),
        ({"fold": 1}, "FOLD=1: folds are of the training digits"),
        ({"settings": [1]}, "names and values, as in"),
        ({"settings": {"batch size": 1}}, "a name has letters, digits"),
        ({"settings": {"x": "y" * 1001}}, "has 1,001 letters"),
    ],
)
def test_what_cannot_be_tracked_leaves_no_run(given: dict[str, Any], why: str) -> None:
    words = {"name": "an idea", "network": Small()} | given
    with pytest.raises((TypeError, ValueError, ExpectedError), match=why) as raised:
        track(words.pop("name"), **words)
    assert "\n" not in str(raised.value)
    assert tracking.runs().empty


def test_the_store_is_checked_before_a_run_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere")
    with pytest.raises(ExpectedError, match="nowhere is no store"), track("x", network=Small()):
        raise AssertionError


def test_the_network_and_the_random_state_stay_as_they_are() -> None:
    network = Small().train()
    before = copy.deepcopy(network.state_dict())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]  # noqa: NPY002
    with track("as it is", network=network) as run:
        run.epoch(train=0.5, test=0.5)
    assert network.training
    assert network.norm.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002


def stopped_by(error: BaseException | None, epochs: int = 1) -> None:
    """Track a run whose block ends after so many epochs, with the error if there is one."""
    with track("stopped", network=Small()) as run:
        for _ in range(epochs):
            run.epoch(train=0.5, test=0.5)
        if error:
            raise error


def test_an_exception_fails_the_run() -> None:
    with pytest.raises(ZeroDivisionError):
        stopped_by(ZeroDivisionError("by zero"))
    assert only_run().status == "FAILED"
    assert only_run().failure == "ZeroDivisionError: by zero"
    stopped_by(None)  # nothing is left behind
    assert tracking.runs()["status"].tolist() == ["FAILED", "FINISHED"]


def test_no_epoch_is_a_failure() -> None:
    with pytest.raises(ExpectedError, match="no epoch of stopped · seed 1"):
        stopped_by(None, epochs=0)
    assert only_run().status == "FAILED"


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def pressed() -> None:
    with track("stopped", network=Small()) as run:
        run.epoch(train=0.5, test=0.5)
        press_ctrl_c()
        time.sleep(10)


def test_ctrl_c_ends_the_run_as_killed() -> None:
    with pytest.raises(KeyboardInterrupt):
        pressed()
    assert only_run().status == "KILLED"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_waits_for_the_end_of_a_transaction_and_may_be_caught() -> None:
    def press(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith("INSERT INTO metrics"):
            press_ctrl_c()

    with track("goes on", network=Small()) as run:
        event.listen(Engine, "before_cursor_execute", press)
        try:
            with pytest.raises(KeyboardInterrupt):
                run.epoch(train=0.5, test=0.5)
        finally:
            event.remove(Engine, "before_cursor_execute", press)
        run.epoch(train=0.5, test=0.6)
    assert only_run().status == "FINISHED"
    assert tracking.history()["test_accuracy"].tolist() == [0.5, 0.6]


def test_a_run_is_within_its_block_and_alone() -> None:
    network = Small()
    run = track("late", network=network)
    with pytest.raises(ExpectedError, match="inside of the block `with track"):
        run.epoch(train=0.5, test=0.5)
    with run:
        with (
            pytest.raises(ExpectedError, match="another run is being tracked"),
            track("second", network=network),
        ):
            raise AssertionError
        run.epoch(train=0.5, test=0.5)
    with pytest.raises(ExpectedError, match="inside of the block"):
        run.epoch(train=0.5, test=0.5)
    with pytest.raises(ExpectedError, match="was tracked already"):
        run.__enter__()
    assert only_run().tracked == "late"


def grown() -> None:
    network = Small()
    with track("grows", network=network) as run:
        network.head = nn.Linear(10, 10)
        run.epoch(train=0.5, test=0.5)


def test_a_network_that_grows_is_not_the_one_that_was_counted() -> None:
    with pytest.raises(ExpectedError, match=r"has 230 trainable parameters, and had 120"):
        grown()
    assert only_run().status == "FAILED"


class AnyArguments(nn.Module):
    """Cannot be exported for any number of images, since its arguments have no names."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        return self.conv(images[0]).mean((2, 3))


class Branches(nn.Module):
    """Cannot be exported, since what it does depends on what it sees; nor can it be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return (x if x.sum() > 0 else -x).sort(dim=2).values.mean((2, 3))


def test_a_compiled_network_is_that_which_is_compiled() -> None:
    with track("compiled", network=torch.compile(Small())) as run:
        run.epoch(train=0.5, test=0.5)
    assert (only_run().network, only_run().parameters) == ("Small", PARAMETERS)
    assert mlflow.pytorch.load_model(f"runs:/{run.run_id}/network")


def test_what_cannot_be_exported_is_recorded_without_its_network() -> None:
    with track("any", network=AnyArguments()) as run:
        run.epoch(train=0.5, test=0.5)
    described = tracking.open_store()[0].get_run(run.run_id).data.tags["mlflow.note.content"]
    assert "could not be exported" in described
    assert only_run().status == "FINISHED"


def test_what_cannot_be_followed_or_exported_says_so() -> None:
    with track("branches", network=Branches()) as run:
        run.epoch(train=0.5, test=0.5)
    assert only_run().status == "FINISHED"
    assert only_run().receptive_field.startswith("unknown: ")
    client, _ = tracking.open_store()
    described = client.get_run(run.run_id).data.tags["mlflow.note.content"]
    assert described.startswith("## branches\n\nTarget not met. Final test accuracy 50.00 %.")
    assert "could not be exported" in described


def test_only_its_script_trains_it_again() -> None:
    with track("mine", network=Small()) as run:
        run.epoch(train=0.5, test=0.5)
    for again in (reproduce.prepare, resume.resume):
        with pytest.raises(ExpectedError, match=r"has no iteration: a script tracked it"):
            again(run.run_id)


def test_load_digits_are_the_digits(mnist: tuple[Digits, Digits]) -> None:
    import mnist_exp

    assert mnist_exp.load_digits is data.load
    train, held_out = mnist_exp.load_digits("validation", fold="last")
    assert (len(train), len(held_out)) == (50_000, 10_000)
    assert torch.equal(held_out.images, mnist[0].images[50_000:])
