"""What happens to the place of a store: its disk is full, or it is moved."""

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from mlflow import MlflowClient
from trials import EPOCHS, Bench, Row, until_ended


@contextmanager
def _small_disk(folder: Path, row: Row) -> Iterator[bool]:
    """A file system of 24 MB in a folder; whether it is there."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() != 0:
        row.takes = "root, to mount a small file system"
        yield False
        return
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        row.remarks.append(done.stderr.strip())
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def full_disks(bench: Bench, times: int, *, at_the_end: bool = False) -> Row:
    """Fill the file system of the store at random moments, or after the last epoch, while figures,
    network and verdict are written."""
    row = Row("disk full at the very end" if at_the_end else "disk full")
    disk = bench.space / f"disk-{at_the_end}"
    with _small_disk(disk, row) as there:
        for number in bench.turns(row, times) if there else ():
            trial, twin = bench.trial(f"{disk.name}/store", number)
            process, said = trial.start()
            if at_the_end:
                while said.read_text().count("\nepoch ") < EPOCHS and process.exitcode is None:
                    process.join(0.005)
            else:
                twin.wait(process, trial.command)
            if process.exitcode is None:
                with suppress(OSError), (disk / "filling").open("wb", buffering=0) as filling:
                    while True:
                        filling.write(bytes(4096))
                until_ended(process)
                row.injected += process.exitcode != 0 or not at_the_end
                if process.exitcode not in (0, 2) or "Traceback" in said.read_text():
                    row.lose(f"exit {process.exitcode}: {said.read_text()[-300:]}")
                with closing(sqlite3.connect(trial.folder / "mlflow.db")) as database:
                    assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)
                (disk / "filling").unlink()
            trial.to_the_end(row, twin)
            shutil.rmtree(trial.folder)
    return row


def moves(bench: Bench, times: int) -> Row:
    """Kill runs, move their stores, and go on there."""
    row = Row("store moved")
    for number in bench.turns(row, times):
        trial, twin = bench.trial("moved", number)
        process, _ = trial.start()
        twin.wait(process, trial.command)
        process.kill()
        process.join()
        new = trial.folder.with_name(f"{trial.folder.name} to another place")
        trial.folder = trial.folder.rename(new)
        row.injected += 1
        trial.to_the_end(row, twin)
        trial.compare()  # a run that had ended has met no command since the move
        (run_id,) = trial.ended() or [""]
        kept = MlflowClient(trial.uri).list_artifacts(run_id) if run_id else []
        row.runs_lost += "curves.png" not in str(kept) and "layers.txt" not in str(kept)
    return row
