"""What is drawn on a terminal, a real one, and what stands in its place without one."""

import contextlib
import io
import os
import pty
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from handmade import GOOD, record_run
from rich.console import Console

from mnist_exp import tracking
from mnist_exp.commands import drawing, terminal, watching
from mnist_exp.commands.cli import main
from mnist_exp.commands.display import ProgressDisplay, SweepDisplay
from mnist_exp.evidence.verdict import TARGET_MET
from mnist_exp.runs.job import Job
from mnist_exp.runs.progress import Pace, Standing
from mnist_exp.runs.stopping import Stopping
from mnist_exp.runs.sweep import Sweep
from mnist_exp.runs.worker import JobResult, Report
from mnist_exp.tracking import Ongoing, liveness
from mnist_exp.training.loop import EpochResult, Progress, Score

BAR = 0.994
GREEN = "38;2;2;158;115"
"""What a terminal is sent for the green of figures."""


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object], int], str]:
    """What a terminal of so many characters is sent while something is done."""
    for name, value in {"TERM": "xterm-256color", "COLORTERM": "truecolor"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", terminal.NOTEBOOK):
        monkeypatch.delenv(name, raising=False)

    def sent(do: Callable[[], object], columns: int = 80) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        above, below = pty.openpty()
        said = bytearray()

        def read() -> None:
            try:
                while more := os.read(above, 4096):
                    said.extend(more)
            except OSError:  # its other end is closed
                pass

        reader = threading.Thread(target=read)
        reader.start()
        with open(below, "w") as terminal, pytest.MonkeyPatch.context() as patch:  # noqa: PTH123
            patch.setattr(sys, "stdout", terminal)
            patch.setattr(sys, "stderr", terminal)
            do()
        reader.join()
        os.close(above)
        return said.decode().replace("\r\n", "\n")

    return sent


def plain(sent: str) -> str:
    """The text without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", sent)


def drawn(what: object, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    return console.file.getvalue().splitlines()


def test_a_curve_shows_each_epoch_against_the_bar() -> None:
    accuracies = {1: 0.90, 2: 0.974, 3: 0.9939, 4: 0.994, 5: 0.996}
    lines = drawn(drawing.curve(accuracies, 6, BAR, 80))
    assert len(lines) == drawing.ROWS + 1
    # 60 characters for 6 epochs: the middle of each ten.
    assert lines[0] == "99.60 % " + " " * 45 + "●" + " " * 14
    assert lines[2] == "99.40 % " + "╌" * 35 + "●" + "╌" * 24
    assert lines[3].rstrip() == " " * 8 + " " * 25 + "○"  # by a tenth of a point
    assert lines[9].rstrip() == "97.40 % " + " " * 5 + "↓" + " " * 9 + "○"
    assert lines[10].split() == ["1", "6"]


def test_a_curve_far_below_the_bar_and_one_of_many_epochs() -> None:
    lines = drawn(drawing.curve({1: 0.1, 2: 0.5}, 2, BAR, 80))
    assert lines[0].startswith("99.40 % ╌╌")
    assert lines[9].startswith("10.00 % ")
    assert [line.count("○") for line in lines].count(1) == 2
    long = drawn(drawing.curve(dict.fromkeys(range(1, 301), BAR), 300, BAR, 80))
    assert max(map(len, long)) == 80
    assert long[0] == "99.40 % " + "●" * 72


def test_the_time_left_is_that_of_what_was_trained_here(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.5, 110.0])
    monkeypatch.setattr("mnist_exp.runs.progress.time.monotonic", lambda: next(clock))
    pace, some = Pace(4, every=1), Score(1, 2, 0.5)
    begun = pace.batch(Progress(2, 5, 10, some))  # resumed: 1.5 of 4 epochs are done
    assert begun is not None
    assert (begun.place, begun.done) == ("2/4", 0.375)
    assert begun.left != begun.left
    assert pace.batch(Progress(2, 6, 10, some)) is None  # said half a second ago
    pace.epoch(EpochResult(2, some, Score(98, 100, 0.1), 0.1, 5, 0))
    later = pace.batch(Progress(3, 5, 10, some))
    assert later == Standing(3, 4, 0.625, 0.98, 15)  # an epoch in ten seconds, and 1.5 are left


def test_what_is_told_stands_above_what_is_drawn_and_is_wrapped(
    screen: Callable[[Callable[[], object], int], str],
) -> None:
    def tell() -> None:
        with terminal.Screen(lambda _: "drawn") as drawing_now:
            drawing_now.refresh()
            terminal.tell("told " * 20, indent=4)

    sent = screen(tell, 80)
    wiped = "drawn\r\x1b[2K"
    assert f"{wiped}{'told ' * 15}told\n" in sent
    assert f"{wiped}    told told told told\n" in sent


@pytest.mark.usefixtures("store")
def test_compare_fits_the_terminal_and_says_more_on_a_wide_one(
    screen: Callable[[Callable[[], object], int], str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record_run(3, errors=[*[80] * 14, 50])
    record_run(6, seed=1)
    record_run(6, seed=2)
    record_run(8, seed=1)
    record_run(8, [90] * 15, seed=2)
    sent = screen(lambda: main(["compare"]), 80)
    lines = plain(sent).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == (
        ["model", "seeds", "worst", "of", "5", "final", "test", "luck", "parameters", "idea"]
    )
    assert lines[2].split()[11:13] == ["0.08", "7,416"]
    assert "luck: the ± in points if each digit's being wrong were chance alone" in lines
    assert [line.split()[:5] for line in lines[1:4]] == [
        ["○", "3", "0", "of", "1"], ["●", "6", "2", "of", "2"], ["◐", "8", "1", "of", "2"],
    ]  # fmt: skip
    assert f"\x1b[{GREEN}m●" in sent
    assert "● met on every seed  ◐ on some  ○ on none" in lines
    wide = plain(screen(lambda: main(["compare"]), 160)).splitlines()
    assert "worst of 5, seed/epoch" in wide[0]
    assert "99.40 %, 1/15" in wide[2]
    assert max(map(len, wide)) <= 160
    monkeypatch.setenv("NO_COLOR", "1")
    grey = screen(lambda: main(["compare"]), 80)
    assert "38;" not in grey
    assert plain(grey) == plain(sent)
    assert main(["compare"]) == 0
    assert "\x1b" not in (out := capsys.readouterr().out)
    assert "●" not in out


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), (terminal.NOTEBOOK, "123")])
def test_where_nothing_is_drawn_anew_it_is_plain_text(
    name: str, value: str, screen: Callable[[Callable[[], object], int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    record_run(6)
    monkeypatch.setenv(name, value)
    sent = screen(lambda: main(["compare"]), 80)
    assert "\x1b" not in sent
    assert "Model 6: met on every seed; " in sent


def result(epoch: int, accuracy: float) -> EpochResult:
    score = Score(round(10_000 * accuracy), 10_000, 0.1)
    return EpochResult(epoch, score, score, 0.1, 5, 0)


def test_a_run_shows_its_curve_and_leaves_it_there(
    screen: Callable[[Callable[[], object], int], str], capsys: pytest.CaptureFixture[str]
) -> None:
    def train() -> None:
        with ProgressDisplay(3, "test", BAR) as display:
            display.batch(Progress(1, 5, 10, Score(1, 2, 0.5)))
            display.epoch(result(1, 0.99))
            display.batch(Progress(2, 5, 10, Score(1, 2, 0.5)))
            display.epoch(result(2, 0.995))

    said = plain(screen(train, 80))
    assert "epoch 1/3" in said
    assert "loss 0.5000, train 50.00 %, – left" in said
    line = "epoch  1/3  loss 0.1000  train 99.00 %  test 99.00 %  5.0 s\n"
    assert line in said
    last = said[said.rindex("test accuracy by epoch, and the bar of 99.40 %") :].splitlines()
    assert "".join(last).count("●") == 1
    assert "".join(last).count("○") == 1
    assert "left" not in "".join(last)
    train()
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "epoch  1/3  loss 0.1000  train 99.00 %  test 99.00 %  5.0 s",
        "epoch  2/3  loss 0.1000  train 99.50 %  test 99.50 %  5.0 s",
    ]
    assert captured.err == ""


def test_a_sweep_shows_each_training_and_the_seeds_that_pass() -> None:
    first, second = (Job(2, seed, "test", None, "abc") for seed in (1, 2))
    sweep = Sweep((2,), (1, 2), "test", None, {}, {}, (first, second), {})
    display = SweepDisplay(sweep)
    here = Report(first, "tcp://127.0.0.1:4001", Standing(3, 15, 0.2, 0.98, 192))
    display.report(here)
    display.report(Report(second, "tcp://192.0.2.7:4001", None))
    lines = drawn(display._drawn(80))
    assert lines[:2] == ["0 of 2 trained", "seeds that pass so far: · model 2: 0 of 0"]
    assert [re.split("  +", line.strip()) for line in lines[3:]] == [
        ["model-2 · seed 1", "3/15", "98.00 %", "3 min 12 s", "worker 1"],
        ["model-2 · seed 2", "starts", "–", "–", "192.0.2.7:4001"],
    ]
    assert any("━" in line for line in drawn(display._drawn(160), 160))
    display.result(JobResult(first, "a", 60, 0.995, TARGET_MET))
    display.report(here)  # which comes late
    lines = drawn(display._drawn(80))
    assert lines[:2] == ["1 of 2 trained", "seeds that pass so far: ● model 2: 1 of 1"]
    assert len(lines) == 4


def test_a_sweep_says_when_no_further_seed_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job(model, seed, "test", None, "0" * 64) for model in (2, 3) for seed in range(1, 8)]
    asked = Sweep((2, 3), tuple(range(1, 8)), "test", None, {}, {}, tuple(jobs), {},
                  stopping=Stopping(0.3))  # fmt: skip
    with SweepDisplay(asked) as display:
        display.start(2)
        for job in jobs[:4]:
            display.report(Report(job, "tcp://127.0.0.1:4001", Standing(1, 15, 0.1)))
            if job is jobs[3]:  # under way when it is settled
                break
        for job in jobs[:3]:
            ended = JobResult(job, "a", 60, 0.995, TARGET_MET)
            asked.ends_with(ended)
            display.result(ended)
        display.result(JobResult(jobs[4], "", 0, spared=True))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "14 to train, 2 at once"
    assert "12 left" in said[2]
    assert "; 8 left, about" in said[3]  # the fourth, and those of model 3
    assert said[4:] == ["model 2: passed, 3 of 3; no further seed of it is trained"]


@contextlib.contextmanager
def under_way(seed: int, parent: str) -> Iterator[None]:
    """A run of this process, after two of three epochs."""
    own = {"model": 6, "seed": seed, "split": "test", "epochs": 3, "test_images": 10_000}
    with tracking.start_run(f"model-6 · seed {seed}", own, {}, parent=parent) as run:
        for epoch, accuracy in enumerate((0.98, 0.9951), start=1):
            run.log_metrics({"test/accuracy": accuracy, "epoch_seconds": 30}, step=epoch)
        yield


def test_watch_says_what_goes_on_and_writes_nothing(
    store: Path,
    screen: Callable[[Callable[[], object], int], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["watch"]) == 0
    assert capsys.readouterr().out == "No run is under way.\n"
    with tracking.continue_run("sweep of models 6") as sweep, under_way(2, sweep.run_id):
        tracking.adopt([record_run(6, GOOD, tags={"verdict": TARGET_MET})], sweep.run_id)
        before = (store / "mlflow.db").read_bytes()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(liveness, "is_gone", lambda _: True)
            assert main(["watch"]) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "sweep of models 6; seeds that pass so far: model 6: 1 of 1"
        assert said[1].startswith("model-6 · seed 2: its process is gone, epoch 3/3, test 99.51 %")
        assert main(["watch"]) == 0
        assert "seed 2: epoch 3/3, test 99.51 %, 30 s left, on " in capsys.readouterr().out

        def leave() -> None:
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGINT)).start()
            assert main(["watch"]) == 0

        shown = plain(screen(leave, 80))
        assert "seeds that pass so far: ● model 6: 1 of 1" in shown
        assert re.search(r"model-6 · seed 2 +3/3 +99.51 % +30 s", shown)
        assert re.search("╌●╌|99.51 % .*●", shown)
        assert (store / "mlflow.db").read_bytes() == before
        assert set(tracking.under_way().runs["status"]) == {"RUNNING"}


def test_the_time_left_of_seeds_that_are_trained_as_one_is_that_of_all() -> None:
    """Of each, the seconds of an epoch are its share. Other folds are other networks."""
    own = {"model": 6, "epochs": 3, "machine": "here", "gone": False}
    named = [("1-2", 1, None), ("1-2", 2, None), (None, 3, None), ("1-2", 1, "1"), ("1-2", 1, "2")]
    rows = [
        own | {
            "run_id": f"{seed} {fold}", "run_name": f"seed {seed}", "seeds_together": together,
            "split": "validation" if fold else "test", "fold": fold,
        }
        for together, seed, fold in named
    ]  # fmt: skip
    history = pd.DataFrame(
        [{"run_id": row["run_id"], "epoch": 1, f"{row['split']}_accuracy": 0.9, "epoch_seconds": 10}
         for row in rows]
    )  # fmt: skip
    lines = list(watching._lines(Ongoing(pd.DataFrame(rows), history, {})))
    assert ["40 s left" in line for line in lines] == [True, True, False, False, False]
    assert all("20 s left" in line for line in lines[2:])
    assert lines[3].startswith("seed 1 · validation, fold 1: epoch 2/3, validation 90.00 %")


def test_watch_counts_the_newest_run_of_a_seed_with_the_code_of_now() -> None:
    met = TARGET_MET
    rows = [("old", 1, met), ("old", 2, met), ("new", 1, "target not met"), ("new", 1, met)]
    ended = pd.DataFrame(
        [{"model": 6, "code_sha256": code, "seed": seed, "verdict": verdict, "start_time": time}
         for time, (code, seed, verdict) in enumerate(rows)]
    )  # fmt: skip
    found = Ongoing(pd.DataFrame(), pd.DataFrame(), {"a sweep": ended})
    assert list(watching._lines(found)) == ["a sweep; seeds that pass so far: model 6: 1 of 1"]


def test_watch_makes_no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/none/mlflow.db")
    assert list(watching._lines(tracking.under_way())) == [watching.NOTHING]
    assert not (tmp_path / "none").exists()
