"""Backups of a real store: made while it is written to, put back, and refused."""

import contextlib
import gzip
import io
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mnist_exp import tracking
from mnist_exp.commands.cli import main
from mnist_exp.common.errors import ExpectedError


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")


def record(name: str) -> str:
    with tracking.start_run(name, {}, {}) as run:
        run.log_table(pd.DataFrame({"name": [name]}), "misclassified")
    return run.run_id


@pytest.fixture
def backup(store: Path, tmp_path: Path) -> Path:
    """A backup of a store with one run, called "kept", and a checkpoint."""
    record("kept")
    (store / "checkpoints").mkdir()
    (store / "checkpoints" / "a.pt").write_bytes(b"weights")
    file = tmp_path / "backups" / "one.tar.gz"
    tracking.back_up(file)
    return file


def test_a_backup_is_restored_into_an_empty_place(
    backup: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(store)
    use(tmp_path / "elsewhere", monkeypatch)
    assert tracking.restore(backup) is None
    runs = tracking.runs()
    assert runs["run_name"].tolist() == ["kept"]
    assert tracking.table(runs["run_id"][0], "misclassified")["name"].tolist() == ["kept"]
    assert (tmp_path / "elsewhere" / "checkpoints" / "a.pt").read_bytes() == b"weights"
    assert {file.name for file in (tmp_path / "elsewhere").iterdir()} - {".lock"} == {
        "mlflow.db", "artifacts", "checkpoints",
    }  # fmt: skip


def test_what_was_there_is_kept(
    backup: Path, fresh_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "filled"
    shutil.copytree(fresh_store, place)
    (place / "mlflow.db").rename(place / "runs.db")  # the database may have any name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/runs.db")
    lost = record("of before")
    database = (place / "runs.db").read_bytes()
    (place / "runs.db-journal").write_bytes(b"")
    kept = tracking.restore(backup)
    assert kept.parent == place
    assert (kept / "runs.db").read_bytes() == database
    assert len(list((kept / "artifacts").rglob(f"{lost}/**/misclassified.csv"))) == 1
    assert not (place / "runs.db-journal").exists()  # SQLite would take it for the new one's
    again = subprocess.run(
        [sys.executable, "-c", "from mnist_exp import tracking; print(*tracking.runs().run_name)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert again.stdout == "kept\n"


def test_a_damaged_store_is_put_right(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "damaged"
    place.mkdir()
    (place / "mlflow.db").write_bytes(b"no database at all\n" * 100)
    use(place, monkeypatch)
    kept = tracking.restore(backup)
    assert (kept / "mlflow.db").read_bytes().startswith(b"no database at all\n")
    assert tracking.runs()["run_name"].tolist() == ["kept"]


def test_linked_artifacts_are_in_the_backup(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = record("on another disk")
    (table,) = (store / "artifacts").rglob("misclassified.csv")
    os.link(table, table.with_name("confusion_matrix.csv"))
    (store / "artifacts").rename(tmp_path / "big")
    (store / "artifacts").symlink_to(tmp_path / "big")
    tracking.back_up(tmp_path / "one.tar.gz")
    use(tmp_path / "elsewhere", monkeypatch)
    tracking.restore(tmp_path / "one.tar.gz")
    assert tracking.table(run_id, "misclassified")["name"].tolist() == ["on another disk"]
    assert tracking.table(run_id, "confusion_matrix")["name"].tolist() == ["on another disk"]


WRITER = """
import sys
from pathlib import Path
import pandas as pd
from mnist_exp import tracking
checkpoint = Path(sys.argv[1], "checkpoints", "a.pt")
checkpoint.parent.mkdir()
for number in range(10_000):
    with tracking.start_run(f"run {number}", {}, {}) as run:
        for epoch in range(1, 4):
            run.log_metrics({"test/errors": number}, step=epoch)
            part = checkpoint.with_suffix(".part")
            part.write_bytes(bytes([number % 256]) * (1_000_000 + 1000 * (epoch - number)))
            part.replace(checkpoint)
    if number == 2:
        print("writing", flush=True)
"""
"""Writes runs, and replaces a file of a million bytes by others, until it is killed."""


@pytest.mark.slow
def test_a_backup_is_whole_while_another_process_writes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, store], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout.readline() == "writing\n"
        for number in range(10):
            tracking.back_up(tmp_path / f"{number}.tar.gz")
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.communicate()
    for number in range(10):
        use(tmp_path / f"place {number}", monkeypatch)
        tracking.restore(tmp_path / f"{number}.tar.gz")
        finished = tracking.runs().query("status == 'FINISHED'")
        assert len(finished) >= 3
        history = tracking.history(finished["run_id"])
        assert history.groupby("run_id")["epoch"].apply(list).tolist() == [[1, 2, 3]] * len(
            finished
        )
        checkpoint = (tmp_path / f"place {number}" / "checkpoints" / "a.pt").read_bytes()
        assert len(set(checkpoint)) == 1


def test_nothing_is_overwritten_by_a_backup(
    backup: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = backup.read_bytes()
    assert main(["backup", f"BACKUP={backup}"]) == 2
    assert capsys.readouterr().err == (
        f"mnist-exp: {backup} is there already; choose another BACKUP=\n"
    )
    assert backup.read_bytes() == before
    assert [file.name for file in backup.parent.iterdir()] == ["one.tar.gz"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "place", ["x" * 300, "file/below", "a\nb/../file/x", "/dev/null/x", "\x1b"]
)
def test_a_backup_that_cannot_be_written_is_one_line(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("\x1b").touch()
    assert main(["backup", f"BACKUP={place}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.rstrip("\n").isprintable()
    assert {path.name for path in tmp_path.iterdir()} <= {"file", "\x1b", "mlruns", "a\nb"}


def test_without_a_store_there_is_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(tmp_path / "none", monkeypatch)
    assert main(["backup", f"BACKUP={tmp_path}/one.tar.gz"]) == 2
    assert "there is no store to back up" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["backup", "restore"])
@pytest.mark.parametrize("uri", ["postgresql://a:secret@127.0.0.1:1/x", "http://127.0.0.1:1"])
def test_only_a_local_store_is_backed_up_so(
    command: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main([command, f"BACKUP={tmp_path}/x.tar.gz"]) == 2
    said = capsys.readouterr().err
    assert "only a store in a file of this machine is backed up so" in said
    assert "secret" not in said
    assert not list(tmp_path.iterdir())


def test_a_run_under_way_stops_a_restore(backup: Path, store: Path) -> None:
    with (
        tracking.start_run("busy", {}, {}) as run,
        pytest.raises(ExpectedError, match=f"busy is under way .run {run.run_id}.: wait for its"),
    ):
        tracking.restore(backup)
    assert tracking.runs()["run_name"].tolist() == ["kept", "busy"]
    assert not list(store.glob("before-restore-*"))
    assert tracking.restore(backup)  # once it has ended


@pytest.mark.slow
def test_a_restore_that_was_killed_says_where_the_store_is(
    backup: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", moves_at_most(1, Path.rename))
        with pytest.raises(Killed):
            tracking.restore(backup)
    (kept,) = store.glob("before-restore-*")
    assert (kept / "mlflow.db").exists()
    code = "from mnist_exp import tracking; print(len(tracking.runs()))"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout == "0\n"
    assert f"what was here is in {kept}; make restore again" in again.stderr
    assert tracking.restore(backup)
    assert tracking.runs()["run_name"].tolist() == ["kept"]


class Killed(BaseException):
    """As by SIGKILL: nothing catches it."""


def moves_at_most(times: int, rename: Callable[..., Path]) -> Callable[..., Path]:
    left = iter(range(times))

    def limited(source: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise Killed
        return rename(source, target)

    return limited


def packed(database: Path | bytes, *strange: tarfile.TarInfo) -> bytes:
    """A .tar.gz of a database and other members."""
    buffer = io.BytesIO()
    content = database if isinstance(database, bytes) else database.read_bytes()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo("mlflow.db")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
        for member in strange:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    made.size = 1 if kind == tarfile.REGTYPE else 0
    return made


def foreign() -> bytes:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE runs (a)")
        return bytes(connection.serialize())


def hostile(database: Path) -> dict[str, bytes | None]:
    """Files that are no backup, by what is wrong with them."""
    good = packed(database)
    return {
        "missing": None,
        "empty": b"",
        "text": b"this is no backup\n" * 1000,
        "not compressed": gzip.decompress(good),
        "cut off early": good[:1000],
        "cut off late": good[:-2000],
        "altered": good[: len(good) // 2] + bytes(100) + good[len(good) // 2 + 100 :],
        "checksum": good[:-8] + bytes(8),
        "compressed text": gzip.compress(b"this is no archive\n" * 1000),
        "empty archive": gzip.compress(bytes(10240)),
        "no database": gzip.compress(bytes(512)),
        "database empty": packed(b""),
        "database of text": packed(b"text" * 1000),
        "database foreign": packed(foreign()),
        "database cut off": packed(database.read_bytes()[:20_000]),
        "beside": packed(database, member("evil")),
        "above": packed(database, member("../evil")),
        "above from below": packed(database, member("artifacts/../../evil")),
        "absolute": packed(database, member("/tmp/mnist-exp-evil")),
        "symbolic link": packed(database, member("artifacts", tarfile.SYMTYPE, "/tmp")),
        "link inside": packed(database, member("artifacts/x", tarfile.SYMTYPE, "../mlflow.db")),
        "hard link": packed(database, member("artifacts/x", tarfile.LNKTYPE, "mlflow.db")),
        "outer hard link": packed(database, member("artifacts/x", tarfile.LNKTYPE, "/etc/passwd")),
        "device": packed(database, member("artifacts/x", tarfile.CHRTYPE)),
        "fifo": packed(database, member("artifacts/x", tarfile.FIFOTYPE)),
    }


def test_what_is_no_backup_is_refused_and_nothing_touched(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record("here")
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    file = tmp_path / "file.tar.gz"
    for wrong, content in hostile(store / "mlflow.db").items():
        if content is not None:
            file.write_bytes(content)
        assert main(["restore", f"BACKUP={file}"]) == 2, wrong
        said = capsys.readouterr().err
        assert said.count("\n") == 1, wrong
        assert said.startswith("mnist-exp: "), wrong
        assert str(file) in said, wrong
        file.unlink(missing_ok=True)
        after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        assert after == before, wrong
    assert not Path("/tmp/mnist-exp-evil").exists()
    file.write_bytes(packed(store / "mlflow.db"))  # which differs from these by nothing else
    assert main(["restore", f"BACKUP={file}"]) == 0


def test_a_restore_into_a_place_that_cannot_be_written_is_one_line(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    use(tmp_path / "file" / "below", monkeypatch)
    with pytest.raises(ExpectedError, match="cannot be restored: Not a directory"):
        tracking.restore(backup)


def test_two_restores_in_one_second_keep_both(backup: Path, store: Path) -> None:
    deadline = time.monotonic() + 10
    kept = []
    while len({path.name[:30] for path in kept[-2:]}) != 1 or len(kept) < 2:
        kept.append(tracking.restore(backup))
        assert time.monotonic() < deadline
    assert kept[-1].name == f"{kept[-2].name}-2"
    assert all((path / "mlflow.db").is_file() for path in kept)
    assert (store / "mlflow.db").is_file()
