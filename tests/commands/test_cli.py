"""What a person types, sees and gets as an exit code."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import psutil
import pytest
from handmade import GOOD, record_run

from mnist_exp import ROOT, tracking
from mnist_exp.commands.arguments import bind
from mnist_exp.commands.cli import COMMANDS, main
from mnist_exp.commands.display import print_table
from mnist_exp.common.words import ranges
from mnist_exp.notebook import entries, new


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that exits with 2 and prints nothing else."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "MODEL=99"], "there is no experiments/model_99.py; the iterations are 1, 2"),
        (["run", "MODEL=abc"], "MODEL=abc: a whole number"),
        (["run", "MODEL=../x"], "MODEL=../x: a whole number"),
        (["run", "MODEL=5; touch x"], "MODEL=5; touch x: a whole number"),
        (["run", "MODEL=٥"], "a whole number"),
        (["run", "MODEL="], "MODEL=: a whole number from 1 to 9999 is needed, as in MODEL=5"),
        (["run", "MODEL=5\n6"], "a whole number"),
        (["run", "MODEL=" + "9" * 5000], "a whole number"),
        (["run", "MODEL=5", "EPOCHS=0"], "EPOCHS=0: a whole number from 1"),
        (["run", "MODEL=5", "EPOCHS=1.5"], "EPOCHS=1.5"),
        (["run", "MODEL=5", "EPOCH=1"], "run takes no EPOCH; it takes MODEL SEED EPOCHS"),
        (["run", "MODEL=5", "SEED=-1"], "SEED=-1: a whole number from 0"),
        (["run", "MODEL=5", "SEED=4294967296"], "SEED=4294967296"),
        (["run", "MODEL=5", "DEVICE=gpu"], "DEVICE=gpu: this machine has"),
        (["run", "MODEL=5", "ENGINE=fast"], "ENGINE=fast: auto, compiled or torch is needed"),
        (["run", "MODEL=5", "SPLIT=all"], "SPLIT=all: choose one of test, validation"),
        (["check", "MODEL=99"], "there is no experiments/model_99.py"),
        (["check", "MODEL=6"], "the store holds no run of model 6: make run MODEL=6"),
        (["check"], "no run of an iteration: make run MODEL=6, or make import for the published"),
        (["check", "MODEL=6", "SEEDS=0"], "SEEDS=0: a whole number from 1"),
        (["check", "MODEL=6", "BASELINE=x"], "BASELINE=x: a whole number"),
        (["check", "RATE=90"], "RATE=90: a number between 0 and 1 is needed, as in RATE=0.9"),
        (["check", "RATE=0.0"], "RATE=0.0: a number between 0 and 1"),
        (["check", "MODEL=6", "BASELINE=5", "RATE=0.9"], "choose one"),
        (["sweep", "MODELS=99", "SEEDS=1"], "there is no experiments/model_99.py"),
        (["sweep", "MODELS=2", "SEEDS=0"], "SEEDS=0: a whole number from 1"),
        (["sweep", "MODELS=2", "SEEDS=1-"], "SEEDS=1-: a whole number from 0"),
        (["sweep", "MODELS=2", "SEEDS="], "SEEDS=: a whole number"),
        (["sweep", "MODELS=2"], "SEEDS=: a whole number from 0 to 4294967295 is needed"),
        (["sweep", "MODELS=2", "SEEDS=1", "SPLIT=all"], "SPLIT=all: choose one of"),
        (["sweep", "MODELS=2", "SEEDS=1", "WORKERS=0"], "WORKERS=0: a whole number"),
        (["compare"], "the store holds no run of an iteration"),
        (["compare", "RUNS=3f2"], "RUNS=3f2: the id of a run, or 4 or more of its first digits"),
        (["compare", "RUNS=3f2a ../x"], 'RUNS=../x: the id of a run'),
        (["compare", "RUNS=3f2a, 9C1D"], "the store holds no run 3f2a: make runs lists"),
        (["compare", "RUNS=3f2a", "MODELS=3"], "leave MODELS=, SPLIT= and FOLD= out"),
        (["compare", "RUNS=3f2a", "SPLIT=test"], "leave MODELS=, SPLIT= and FOLD= out"),
        (["runs"], "the store holds no run: make run MODEL=6"),
        (["runs", "MODELS=3"], "the store holds no run of model 3: make run MODEL=3"),
        (["delete", "RUN=*"], "RUN=*: the id of a run, or 4 or more of its first digits"),
        (["delete"], "is needed, as in RUN=3f2a9c1d: make runs lists them"),
        (["delete", "RUN=3f2a"], "the store holds no run 3f2a: make runs lists"),
        (["runs", "COUNT=0"], "COUNT=0: a whole number from 1"),
        (["compare", "MODELS=3 x"], "MODELS=x: a whole number"),
        (["compare", "MODELS= "], "MODELS=: a whole number"),
        (["compare", "MODELS=6-3"], "MODELS=6-3: a range goes up"),
        (["compare", "MODELS=3,,6"], "MODELS=3,,6: a whole number"),
        (["compare", "MODELS=0-3"], "MODELS=0-3: a whole number from 1 to 9999"),
        (["report", "MODELS=99"], "there is no experiments/model_99.py"),
        (["report", "BASELINE=no"], "BASELINE=no: a whole number from 1 to 9999 is needed, as in"),
        (["report", "BASELINE=98"], "the store holds no run of an iteration"),
        (["report", "SPLIT=all"], "SPLIT=all: choose one of test, validation"),
        (["report", "NAME=a\nb"], "NAME=a\\nb: 1 to 60 letters in one line are needed"),
        (["report", "OUT=reports"], "OUT=reports: the name of a page is needed, as in OUT=reports"),
        (["report", "OUT=/dev/null/x.html"], "OUT=/dev/null/x.html: the name of a page"),
        (["report", "OUT=page.pdf"], "OUT=page.pdf: the name of a page is needed"),
        (["ui", "PORT=0"], "PORT=0: a whole number from 1 to 65535"),
        (["ui", "PORT=http"], "PORT=http"),
        (["new", "MODEL=6", "FROM=5"], "experiments/model_6.py is there already"),
        (["new", "MODEL=99", "FROM=98"], "FROM=98: the iterations to copy from are 1, 2"),
        (["new", "MODEL=99", "FROM="], "FROM=: a whole number"),
        (["new", "MODEL=99"], "FROM=: a whole number"),
        (["new", "MODEL=99", "FROM=12345"], "or 7 or more digits of a candidate's hash"),
        (["new", "MODEL=99", "FROM=abcdef"], "FROM=abcdef: a whole number"),
        (["check", "SEED=50"], "check takes no SEED; it takes MODEL SEEDS BASELINE RATE SPLIT "),
        (["check", "SPLIT=all", "MODEL=6", "BASELINE=5"], "SPLIT=all: choose one of test, valid"),
        (["check", "SPLIT=all"], "SPLIT=all: choose one of test, validation"),
        (["compare", "SPLIT=all"], "SPLIT=all: choose one of test, validation"),
        (["run", "MODEL=5", "FOLD=2"], "FOLD=2: folds are of the training digits, and SPLIT=test"),
        (["run", "MODEL=5", "SPLIT=test", "FOLD=last"], "SPLIT=validation does"),
        (["run", "MODEL=5", "SPLIT=validation", "FOLD=7"], "choose one of 1, 2, 3, 4, 5, 6, last"),
        (["run", "MODEL=5", "SPLIT=validation", "FOLD=all", "RESUME=1"], "RESUME= goes on with"),
        (["sweep", "MODELS=2", "SEEDS=1", "FOLD=all"], "FOLD=all: folds are of the training"),
        (["tune", "MODEL=2", "TRIALS=1", "SPACE=batch_size=32,64", "FOLD=all"], "one fold is"),
        (["compare", "FOLD=1"], "FOLD=1: folds are of the training digits"),
        (["compare", "RUNS=3f2a", "FOLD=1"], "leave MODELS=, SPLIT= and FOLD= out"),
        (["check", "MODEL=6", "FOLD=1"], "FOLD=1: folds are of the training digits"),
        (["check", "MODEL=6", "BASELINE=5", "FOLD=1"], "FOLD=1: folds are of the training"),
        (["report", "FOLD=all"], "FOLD=all: folds are of the training digits"),
        (["check", "model=6"], "check takes no model; it takes MODEL"),
        (["import", "MODEL=6"], "import takes no MODEL; it takes nothing"),
        (["check", "6"], "6: NAME=value is needed, as in MODEL=5"),
        (["check", "--json"], "--json: NAME=value is needed"),
        (["check", "JSON=yes"], "JSON=yes: to switch it on, set 1"),
        (["fly"], "a command is needed, not 'fly': run, resume, "),
        ([], "a command is needed"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("store")
def test_a_wrong_request_is_one_line_and_leaves_no_run(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in refused(arguments, capsys)
    assert tracking.runs().empty


@pytest.mark.usefixtures("store")
def test_a_report_goes_where_it_is_asked_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2, 3):
        record_run(5, seed=seed)
    record_run(6)
    page = tmp_path / "new folder" / "class.html"
    before = ROOT / "reports"
    made = set(before.iterdir()) if before.is_dir() else None
    said = refused(["report", "MODELS=5", "BASELINE=7", f"OUT={page}"], capsys)
    assert "the store holds no run of model 7" in said
    for words in (["MODELS=5"], []):
        said = refused(["report", *words, "BASELINE=98", f"OUT={page}"], capsys)
        assert "there is no experiments/model_98.py" in said
    assert not page.parent.exists()
    words = ["MODELS=5", "BASELINE=6", "NAME=Class 3b", f"OUT={page}"]
    assert main(["report", *words]) == 0
    assert capsys.readouterr().out == f"Written: {page}; open it in a browser\n"
    assert "<h1>Class 3b</h1>" in page.read_text()
    assert "against model 6" in page.read_text()
    assert {path.name for path in page.parent.iterdir()} == {"class.html", "class_files"}
    assert (set(before.iterdir()) if before.is_dir() else None) == made


@pytest.mark.parametrize("text", ["3 5 6 7", "3,5-7", "7,6, 5 ,3", " 5-7\t3 3-3 ", "3,5,6-6 7"])
def test_numbers_are_listed_and_ranged(text: str) -> None:
    assert bind("sweep", COMMANDS["sweep"], [f"MODELS={text}", f"SEEDS={text}"]) == {
        "models": [3, 5, 6, 7],
        "seeds": [3, 5, 6, 7],
    }


def test_one_number_of_seeds_is_how_many() -> None:
    for text, seeds in {"3": [1, 2, 3], "3-3": [3], "0,3": [0, 3], " 2 ": [1, 2]}.items():
        assert bind("sweep", COMMANDS["sweep"], ["MODELS=3", f"SEEDS={text}"])["seeds"] == seeds


@pytest.mark.usefixtures("store")
@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_cuda_without_a_device_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["run", "MODEL=5", "DEVICE=cuda"], capsys)
    assert "DEVICE=cuda: this machine has cpu; DEVICE=auto chooses" in said
    assert tracking.runs().empty


def test_a_store_that_cannot_be_used_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    assert "cannot be used" in refused(["check", "MODEL=6"], capsys)


def test_a_busy_port_is_one_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert f"port {port} cannot be used" in refused(["ui", f"PORT={port}"], capsys)
    assert store.is_dir()


@pytest.mark.usefixtures("store")
def test_check_exits_0_when_every_seed_meets_the_target(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record_run(errors=[900] * 15)  # superseded by the next
    record_run()
    record_run(seed=2)
    assert main(["check", "MODEL=6"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Model 6, regularise less, and lower the learning rate: met on every seed, 2 of 2",
        "  lowest of the last 5 epochs 99.40 % (seed 1, epoch 15)",
    ]


@pytest.mark.usefixtures("store")
def test_check_exits_1_when_one_seed_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    record_run(seed=1)
    record_run(seed=2, errors=[500] * 10 + [61] + [60] * 4, tags={"verdict": "target met"})
    assert main(["check", "MODEL=6"]) == 1  # a tag is no evidence
    assert capsys.readouterr().out.splitlines() == [
        "Model 6, regularise less, and lower the learning rate: met on some seeds, 1 of 2",
        "  lowest of the last 5 epochs 99.39 % (seed 2, epoch 11); not met by seed 2",
    ]


@pytest.mark.usefixtures("store")
def test_check_without_a_model_judges_every_iteration(capsys: pytest.CaptureFixture[str]) -> None:
    record_run(6)
    record_run(3)
    record_run(2, status="FAILED")
    assert main(["check"]) == 2  # of model 2 nothing can be said
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines[::2]] == [
        "Model 3",
        "Model 6",
        "Model 2: not judged",
    ]
    assert lines[-1] == "  no run counts (1 not finished)"
    record_run(4, errors=[100] * 15)
    assert main(["check"]) == 1


@pytest.mark.usefixtures("store")
def test_candidates_alone_are_nothing_to_judge(capsys: pytest.CaptureFixture[str]) -> None:
    record_run(990, split="validation", tags={"code_sha256": "0" * 64})
    for command in ("check", "compare"):
        assert main([command]) == 2
        assert "only candidates that are not in the notebook" in capsys.readouterr().err


@pytest.mark.usefixtures("store")
def test_check_can_demand_a_number_of_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    record_run(seed=1)
    record_run(seed=2)
    assert main(["check", "MODEL=6", "SEEDS=2"]) == 0
    assert main(["check", "MODEL=6", "SEEDS=3"]) == 1
    out = capsys.readouterr().out
    assert "too few seeds, 2 of 2\n  3 seeds are asked for, 2 were run" in out
    record_run(seed=2, errors=[100] * 15)
    assert main(["check", "MODEL=6", "SEEDS=3"]) == 1
    assert (
        "met on some seeds, 1 of 2\n  3 seeds are asked for, 2 were run" in capsys.readouterr().out
    )


@pytest.mark.usefixtures("store")
def test_check_at_a_rate_may_be_asked_after_each_seed(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(1, 5):
        record_run(6, seed=seed)
    assert main(["check", "MODEL=6", "RATE=0.5"]) == 2
    said = capsys.readouterr().out
    assert "regularise less, and lower the learning rate: go on, 4 of 4" in said
    assert "1 further seed would settle it, if all passed: make sweep MODELS=6 SEEDS=5-5" in said
    record_run(6, seed=5)
    assert main(["check", "MODEL=6", "RATE=0.5"]) == 0  # 1 / 2 ** 5 is less than 1 / 20
    assert "passed, 5 of 5\n  at least 50.00 % of seeds pass" in capsys.readouterr().out
    assert main(["check", "MODEL=6", "RATE=0.5", "SEEDS=7"]) == 2
    assert "SEEDS=6-7" in capsys.readouterr().out
    for seed in range(6, 9):
        record_run(6, errors=[100] * 15, seed=seed)
    assert main(["check", "MODEL=6", "RATE=.99", "JSON=1"]) == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert main(["check", "MODEL=6", "RATE=.99", "SEEDS=20"]) == 1  # further seeds change nothing
    assert "failed, 5 of 8" in capsys.readouterr().out
    assert (told["answer"], told["passed"], told["failed"]) == ("failed", 5, 3)
    assert told["further_if_all_pass"] is None or told["further_if_all_pass"] > 300


@pytest.mark.usefixtures("store")
def test_check_against_a_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    for seed, gain in enumerate((10, 20, 30), start=1):
        record_run(5, errors=[100 + gain] * 15, seed=seed)
        record_run(6, errors=[100] * 15, seed=seed)
    assert main(["check", "MODEL=6", "BASELINE=5"]) == 0
    assert "Model 6 is better than model 5" in capsys.readouterr().out
    assert main(["check", "MODEL=5", "BASELINE=6"]) == 1
    out = capsys.readouterr().out
    assert "Model 5 is worse than model 6:" in out
    assert "-0.20 points, 95 % interval -0.30 to -0.10 (3 pairs)" in out
    assert main(["check", "MODEL=5", "BASELINE=6", "JSON=1"]) == 1
    assert json.loads(capsys.readouterr().out)["worse"] is True
    said = refused(["check", "MODEL=6", "BASELINE=5", "SEEDS=4"], capsys)
    assert "models 6 and 5 have 3 seeds in common, and 4 are needed" in said
    record_run(6, errors=[500] * 15, seed=1)
    assert main(["check", "MODEL=6", "BASELINE=5"]) == 0
    assert "is not shown to be worse" in capsys.readouterr().out
    assert "no run of model 3" in refused(["check", "MODEL=6", "BASELINE=3"], capsys)
    assert "as in MODEL=8 BASELINE=6" in refused(["check", "BASELINE=3"], capsys)
    assert "as in MODEL=8 BASELINE=6" in refused(["check", "MODEL=6", "BASELINE=6"], capsys)


@pytest.mark.usefixtures("store")
def test_check_prints_json_for_other_programs(capsys: pytest.CaptureFixture[str]) -> None:
    record_run(6, errors=[*GOOD[:-1], 61])
    assert main(["check", "JSON=1"]) == 1
    (verdict,) = json.loads(capsys.readouterr().out)
    assert verdict["model"] == 6
    assert verdict["met"] is False
    assert verdict["verdict"] == "not met"
    assert (verdict["seeds"], verdict["passing"]) == (1, 0)
    assert verdict["worst_accuracy"] == 0.9939
    assert verdict["final_accuracy_std"] is None


@pytest.mark.usefixtures("store")
def test_check_exits_2_when_nothing_speaks_for_the_iteration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record_run(status="FAILED")
    record_run(tags={"overrides": "epochs=15"})
    record_run(tags={"code_sha256": "of something else"})
    said = refused(["check", "MODEL=6"], capsys)
    assert "model 6: no run counts (1 not finished, 1 overridden, 1 stale: of an earlier" in said
    assert refused(["check"], capsys) == said
    assert refused(["compare"], capsys) == said


@pytest.mark.usefixtures("store")
def test_compare_prints_a_row_per_iteration_and_the_reasons(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")  # a worker of pytest has 80
    record_run(3, errors=[*[80] * 14, 50])
    record_run(6, seed=1)
    record_run(6, seed=2)
    record_run(5, status="KILLED")
    assert main(["compare"]) == 0
    head, three, six, blank, *reasons = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["model", "seeds", "passing"]
    assert three.split()[:6] == ["3", "0", "of", "1", "(0–98", "%)"]
    assert "2 of 2 (16–100 %)          99.40 %  99.40 ± 0.00 %  0.08       7,416  regul" in six
    assert blank == ""
    lucky = "its best epoch, 99.50 % (seed 1, epoch 15), is at the bar, but one epoch is no pass"
    assert reasons == [
        f"Model 3: not met; lowest of the last 5 epochs 99.20 % (seed 1, epoch 14); {lucky}",
        "Model 6: met on every seed; lowest of the last 5 epochs 99.40 % (seed 1, epoch 15)",
        f"Models {ranges({*entries.numbers()} - {3, 5, 6})}: not run",
        "Model 5: no run counts (1 not finished)",
        "",
        "Differences of test accuracy in points, paired by seed, with 95 % intervals:",
        "model  against        worst of last 5             final test  seeds",
        # Of seed 1: 60 errors are 20 fewer than 80 at the worst, and 10 more than 50 at the end.
        "    6        3  +0.20 (too few seeds)  -0.10 (too few seeds)      1",
    ]
    assert main(["compare", "MODELS=6"]) == 0
    assert "batch normalisation" not in capsys.readouterr().out


@pytest.mark.usefixtures("store")
def test_on_the_validation_split_people_choose_and_nothing_is_judged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    record_run(6, errors=[1] * 15)
    record_run(8)
    for seed, gain in enumerate((10, 20, 30), start=1):
        record_run(6, errors=[100] * 15, seed=seed, split="validation")
        record_run(8, errors=[100 - gain] * 15, seed=seed, split="validation")
    assert main(["compare", "SPLIT=validation"]) == 0
    out = capsys.readouterr().out
    others = ranges({*entries.numbers()} - {6, 8})
    chosen = ", by which people choose; the target is about the test split."
    assert out.splitlines() == [
        f"On the validation split, fold 1{chosen}",
        "",
        "model  which seeds  worst of last 5  final validation  luck  parameters  idea",
        "    6          1-3          99.00 %    99.00 ± 0.00 %  0.10       7,416  regula…",
        "    8          1-3          99.10 %    99.20 ± 0.10 %  0.09       7,416  vary t…",
        "",
        f"Models {others}: not run on the validation split, fold 1",
        "",
        "Final validation accuracy, paired by seed:",
        "  model 8 against model 6: +0.20 points, 95 % interval +0.10 to +0.30 (3 pairs)",
    ]
    against = ["MODEL=8", "BASELINE=6", "SPLIT=validation"]
    assert main(["check", *against]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Model 8 is better than model 6 on the validation split, fold 1:",
        "  final validation accuracy +0.20 points, 95 % interval +0.10 to +0.30 (3 pairs)",
    ]
    assert main(["check", "MODEL=6", "BASELINE=8", "SPLIT=validation", "JSON=1"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["split"], record["fold"], record["seeds"]) == ("validation", "1", [1, 2, 3])
    assert record["worse"]


@pytest.mark.usefixtures("store")
@pytest.mark.slow  # records forty runs
def test_each_fold_is_compared_for_itself_or_all_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed in (1, 2, 3):
        record_run(6, [60] * 15, seed=seed, split="validation", fold=None)  # of old
        for fold in "123456":
            wrong = {6: 100, 8: 90 + 10 * (fold == "1")}
            for model in (6, 8):
                record_run(model, [wrong[model]] * 15, seed=seed, split="validation", fold=fold)
    record_run(8, [10] * 15, seed=4, split="validation", fold="2")
    said = refused(["compare", "MODELS=8", "SPLIT=validation", "FOLD=last"], capsys)
    assert said == (
        "mnist-exp: model 8: not run on the validation split, fold last: make run MODEL=8 SEED=.. "
        "SPLIT=validation FOLD=last, or compare SPLIT=validation\n"
    )
    assert main(["compare", "MODELS=6 8", "SPLIT=validation", "FOLD=all"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("On the validation split, all folds, by which people choose;")
    assert out[1] == "There are runs on fold last, too: FOLD= chooses."
    table = [line.split()[:8] for line in out[4:6]]
    assert table == [
        ["6", "1-3", "99.00", "%", "99.00", "±", "0.00", "%"],
        ["8", "1-3", "99.08", "%", "99.08", "±", "0.00", "%"],
    ]
    assert (
        "Model 8 is compared without seed 4 without folds 1 3-6: make sweep MODELS=8 SEEDS=.. "
        "SPLIT=validation FOLD=all"
    ) in out
    assert out[-1].endswith("+0.08 points, 95 % interval +0.08 to +0.08 (3 pairs)")
    against = ["check", "MODEL=8", "BASELINE=6", "SPLIT=validation"]
    for fold, answer in (("all", "is better than"), ("1", "is not shown to be worse than")):
        assert main([*against, f"FOLD={fold}"]) == 0
        assert answer in capsys.readouterr().out
    alone, of_old = tracking.runs()["run_id"].iloc[[-1, 0]]
    said = refused(["compare", f"RUNS={alone} {of_old}"], capsys)
    assert "(validation split, fold 2) and" in said
    assert "(validation split, fold last) were scored on different digits" in said
    record_run(6, split="test")
    record_run(5, split="validation", fold=None)
    said = refused(["compare", "MODELS=5"], capsys)
    assert "SPLIT=validation FOLD=last compares the runs there" in said


@pytest.mark.usefixtures("store")
def test_nothing_on_the_validation_split_leads_to_the_test_set(
    capsys: pytest.CaptureFixture[str],
) -> None:
    choosing = "SPLIT=validation"
    assert refused(["compare", choosing], capsys) == (
        "mnist-exp: the store holds no run of an iteration: make run MODEL=6 SEED=.. "
        "SPLIT=validation\n"
    )
    record_run(6)
    record_run(8)
    lacks_one = (
        "model 6: not run on the validation split, fold 1: make run MODEL=6 SEED=.. "
        "SPLIT=validation"
    )
    assert lacks_one in refused(["compare", "MODELS=6", choosing], capsys)
    record_run(6, split="validation")
    said = refused(["check", "MODEL=8", "BASELINE=6", choosing], capsys)
    assert lacks_one.replace("6", "8") in said
    record_run(8, split="validation")
    said = refused(["check", "MODEL=8", "BASELINE=6", choosing], capsys)
    assert said == (
        "mnist-exp: models 8 and 6 have 1 seed in common, and 3 are needed: "
        "make run MODEL=8 SEED=.. SPLIT=validation\n"
    )
    said = refused(["check", "BASELINE=6", choosing], capsys)
    assert said.endswith("as in MODEL=8 BASELINE=6 SPLIT=validation\n")
    record_run(5, split="validation")
    for command in (["compare", "MODELS=5"], ["check", "MODEL=6", "BASELINE=5"]):
        assert "(1 on the validation split): SPLIT=validation compares" in refused(command, capsys)
    said = refused(["check", "MODEL=8", choosing], capsys)
    assert "the target is about the test split" in said
    assert "MODEL=8 BASELINE=6 SPLIT=validation" in said


@pytest.mark.usefixtures("store")
def test_runs_are_listed_and_put_side_by_side(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    other = record_run(6, [80] * 15, split="validation", tags={"overrides": "batch_size=32"})
    assert refused(["compare", "SPLIT=validation"], capsys) == (
        "mnist-exp: model 6: no run counts (1 overridden): make run MODEL=6 SEED=.. "
        'SPLIT=validation; make compare RUNS="3f2a 9c1d" compares any runs, and make runs lists '
        "their ids\n"
    )
    first = record_run(6, [100] * 15, split="validation")
    tracking.remove_run(other)
    other = record_run(6, [80] * 15, split="validation", tags={"overrides": "batch_size=32"})
    assert main(["runs", "COUNT=1"]) == 0
    head, line, below, blank, more = capsys.readouterr().out.splitlines()
    assert head.split() == [
        "run",
        "model",
        "seed",
        "split",
        "status",
        "epochs",
        "worst",
        "of",
        "5",
        "final",
        "counts",
    ]
    assert line == f"{other[:8]}  6         1  fold 1  FINISHED      15     99.20 %  99.20 %"
    assert below == "    batch_size=32"
    assert (blank, more) == ("", "The newest 1 of 2: COUNT=2 lists all")
    assert main(["compare", f"RUNS={first[:8].upper()},{other[:8]}"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert out.splitlines() == [
        "Scores of the validation split, fold 1",
        "",
        "group       run  model  seed  status    epochs  worst of 5    final  not paired",
        f"    A  {first[:8]}  6         1  FINISHED      15     99.00 %  99.00 %",
        f"    B  {other[:8]}  6         1  FINISHED      15     99.20 %  99.20 %",
        "",
        "Runs of a group differ in their seeds alone:",
        "",
        "group                   A              B",
        "seeds                   1              1",
        "final validation  99.00 %        99.20 %",
        "overrides            none  batch_size=32",
        "",
        "Final validation accuracy, paired by seed:",
        "  B against A: not enough seeds to tell (1 pair, mean +0.20)",
    ]
    tested = record_run(6, tags={"overrides": "\x1b[2J"})  # which would clear the screen
    assert main(["runs"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("  99.40 %  \\x1b[2J")
    assert main(["compare", f"RUNS={tested}"]) == 0
    assert "Choose on the validation split" in capsys.readouterr().out
    assert "say nothing of each other" in refused(["compare", f"RUNS={tested} {first}"], capsys)


def test_a_table_loses_no_number_where_there_is_no_room(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    table = pd.DataFrame(
        {"group": ["final", "metrics"], "A": ["97.65 ± 0.12 %", "-"], "B": ["98.04 %", "x" * 50]}
    )
    print_table(table, ["group"])
    assert capsys.readouterr().out.splitlines() == [
        "group                 A                B",
        "final    97.65 ± 0.12 %          98.04 %",
        f"metrics               -  {'x' * 14}…",
    ]
    texts = ["yes", "optimizer.lr=0.05 batch_size=32"]
    print_table(pd.DataFrame({"run": ["3f2a", "9c1d"], "counts": texts}), ["counts"])
    wide = pd.DataFrame({"run": ["3f2a", "9c1d"], "final": ["98.04 %" + " " * 12] * 2})
    print_table(wide.assign(counts=texts), ["counts"])
    assert capsys.readouterr().out.splitlines() == [
        " run  counts",
        "3f2a  yes",
        "9c1d  optimizer.lr=0.05 batch_size=32",
        " run                final  counts",
        "3f2a  98.04 %              yes",
        "9c1d  98.04 %",
        "    optimizer.lr=0.05 batch_size=32",
    ]
    print_table(wide.assign(counts=texts), ["counts"], cut=[1])
    assert capsys.readouterr().out.splitlines()[2] == "9c1d  98.04 %              optimizer.lr…"


@pytest.mark.usefixtures("store")
def test_a_reader_that_stops_reading_gets_no_traceback() -> None:
    record_run()
    command = [sys.executable, "-m", "mnist_exp", "compare"]
    done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    done.stdout.close()
    assert done.stderr.read() == ""
    done.stderr.close()
    assert done.wait() == 2


@pytest.mark.slow
def test_ui_serves_the_run_table_on_this_machine_only(store: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mnist_exp", "ui", f"PORT={port}"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        printed = server.stdout.readline()
        path = "/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=iterations"
        assert printed == f"The runs: http://127.0.0.1:{port}{path}&compareRunsMode=TABLE\n"
        for _ in range(120):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
                    assert b"<title>MLflow</title>" in page.read()
                break
            except OSError:
                time.sleep(0.5)
        else:
            pytest.fail((tmp_path / "log").read_text())
        assert store.is_dir()
        assert "ignored" not in (tmp_path / "log").read_text()
        below = [child.cmdline() for child in psutil.Process(server.pid).children(recursive=True)]
        assert len(below) == 2, below  # the server and the process that it answers in, without jobs
        sockets = Path("/proc/net/tcp").read_text().split("\n")[1:]
        listening = {line.split()[1] for line in sockets if line and line.split()[3] == "0A"}
        assert {entry for entry in listening if entry.endswith(f":{port:04X}")} == {
            f"0100007F:{port:04X}"
        }
    finally:
        server.terminate()
        assert server.wait(30) == 0
        server.stdout.close()
    with socket.socket() as probe:  # nothing is left behind that listens
        assert probe.connect_ex(("127.0.0.1", port)) != 0


MODEL_6 = entries.path(6).read_text()
CALLS_CONV2 = MODEL_6[: MODEL_6.index("self.conv2(x)")].count("\n") + 1


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the code, to be broken."""
    for folder in ("mnist_exp", "experiments"):
        shutil.copytree(ROOT / folder, tmp_path / "copy" / folder)
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def Network(:\n", "experiments/model_6.py, line 1: syntax error"),
        (MODEL_6.replace("RECIPE =", "RECEIPT ="), "experiments/model_6.py has no RECIPE"),
        (
            MODEL_6.replace("class Network", "raise SystemError('a\\nb')\nclass Network"),
            "SystemError: a b",
        ),
        (
            MODEL_6.replace("Conv2d(8, 16, 3", "Conv2d(9, 16, 3"),
            f"model_6.py, line {CALLS_CONV2}: network: RuntimeError",
        ),
        (MODEL_6.replace("lr=0.01", "rate=0.01"), "optimizer: SGD got an unexpected"),
        (MODEL_6.replace("16, 10, 1", "16, 12, 1"), "the network gives (2, 12), not (2, 10)"),
        (MODEL_6.replace("augment=", "augment=lambda x, _: x[..., 9:],  # "), "argument: '_'"),
        (MODEL_6.replace("augment=", "views=lambda _: [], augment="), "views makes nothing of 2"),
    ],
)
def test_a_broken_iteration_is_one_line(
    source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(entries, "read_entry", lambda number: entries.parse(source, number))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/never/mlflow.db")
    assert says in refused(["run", "MODEL=6"], capsys)
    assert not (tmp_path / "never").exists()


def test_a_broken_iteration_is_one_line_of_the_program(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = checkout / "experiments" / "model_6.py"
    file.write_text(MODEL_6.replace("Conv2d(8, 16, 3", "Conv2d(9, 16, 3"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/never/mlflow.db")
    done = subprocess.run(
        [sys.executable, "-m", "mnist_exp", "run", "MODEL=6"],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"model_6.py, line {CALLS_CONV2}: network: RuntimeError" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "never").exists()


def test_new_starts_the_next_iteration(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mnist_exp", "new", "MODEL=99", "FROM=6"],
        cwd=checkout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert (checkout / "experiments" / "model_99.py").read_text().startswith('"""Model 99: ')


@pytest.mark.usefixtures("store", "few_digits")
def test_a_run_prints_what_it_is_how_it_goes_and_how_it_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for only_for_a_cluster in ("psycopg2", "flask_wtf"):
        monkeypatch.setitem(sys.modules, only_for_a_cluster, None)
    assert main(["run", "MODEL=3", "EPOCHS=2", "SEED=4", "DEVICE=cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "Model 3: add batch normalisation",
        "  7,448 parameters, receptive field 28",
        "  seed 4, device cpu, engine compiled, 2 epochs, test split",
    ]
    assert lines[3] == "  overridden by epochs=2"
    assert lines[4].startswith("epoch  1/2  loss ")
    assert lines[5].startswith("epoch  2/2  loss ")
    assert lines[6] == "Target not met:"
    assert lines[7].endswith("in each of the last 5 epochs: epochs run: only 2")
    run_id = tracking.runs()["run_id"][0]
    assert f"/#/experiments/1/runs/{run_id}?workflowType=machine_learning" in lines[-1]


def test_help_is_quick() -> None:
    start = time.perf_counter()
    command = [sys.executable, "-m", "mnist_exp", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert time.perf_counter() - start < 2  # a tenth of that, but for importing torch
    assert "train an iteration" in done.stdout


def test_help_of_one_command_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", "--help"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mnist-exp ui [PORT=5000]", "", "Browse the recorded runs.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("12", 12), ("0012", 12), ("9999", 9999), ("1234567", "1234567"), ("1a2b3c4", "1a2b3c4"),
        ("ABCDEF0", "abcdef0"), ("0" * 64, "0" * 64),
    ],
)  # fmt: skip
def test_from_is_a_number_or_a_hash(
    text: str, source: int | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int | str]] = []

    def create(number: int, source: int | str) -> Path:
        asked.append((number, source))
        return Path("experiments/model_30.py")

    monkeypatch.setattr(new, "create", create)
    assert main(["new", "MODEL=30", f"FROM={text}"]) == 0
    assert asked == [(30, source)]


@pytest.mark.parametrize(
    "text", ["0", "12345", "123456", "abcdef", "12x", "٥", "1a2b3c4g", "0" * 65]
)
def test_from_is_nothing_else(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["new", "MODEL=30", f"FROM={text}"], capsys)
    assert "a whole number from 1 to 9999 is needed, as in FROM=12, or 7 or more digits" in said


def test_a_command_looks_for_garbage_rarely_and_not_at_its_end() -> None:
    code = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 40_000))  # the last to be called
from mnist_exp.commands import cli
looked = []
gc.callbacks.append(lambda phase, info: looked.append(phase))
cli.main(["--help"])
kept = [[] for _ in range(50_000)]
print(len(looked))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["0", "True"]


@pytest.mark.parametrize(
    ("command", "example"),
    [
        ("resume", "RUN=3f2a9c1d"), ("reproduce", "RUN=3f2a9c1d"), ("restore", "BACKUP=backups/"),
        ("server", "BACKEND=postgresql://"),
    ],
)  # fmt: skip
def test_what_is_left_out_is_asked_for(
    command: str, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = example.partition("=")[0]
    for words in ([], [f"{name}="], [f"{name}= "]):
        assert f"is needed, as in {example}" in refused([command, *words], capsys)
