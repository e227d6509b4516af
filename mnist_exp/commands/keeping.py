"""The commands about the store: filled, copied, looked at, served.

What loads MLflow is imported by the command that needs it, so that help is quick.
"""

from __future__ import annotations

import time

from mnist_exp.commands.arguments import command
from mnist_exp.commands.settings import Artifacts, Backup, Database, Host, Port, RunId
from mnist_exp.common.words import counted, printable


@command
def _import() -> int:
    """Enter the published runs of experiments/results/ into the store."""
    from mnist_exp.reporting.enter import enter_runs

    print("The published runs are entered, which takes a minute or two", flush=True)
    imported = enter_runs()
    print(f"Imported {imported.entered} runs; {imported.present} were there already")
    return 0


@command
def _delete(run_: RunId) -> int:
    """Delete a run, with its checkpoint and what the Model Registry has of it.

    It can be brought back until `mlflow gc` removes it for good.
    """
    from mnist_exp import tracking
    from mnist_exp.runs.delete import delete

    deletion = delete(run_)
    run = deletion.run
    print(f"Deleted: {printable(run['run_name'])} (run {run['run_id']}), {run['status']}")
    if deletion.versions:
        print(f"  with {', '.join(deletion.versions)} in the Model Registry, which is for good")
    if deletion.had_checkpoint:
        print("  with its checkpoint: brought back, it cannot be resumed")
    if deletion.below:
        print(f"  without what is below it, as of a sweep: {counted(deletion.below, 'run')} stayed")
    if deletion.pupils:
        learned = counted(deletion.pupils, "run")
        print(f"  {learned} learned from it, which without it can't be reproduced")
    if isinstance(run["imported_from"], str):
        print("  it was imported: make import enters it again")
    print("To bring it back, until mlflow gc removes it for good:")
    print(f"  {tracking.to_restore(run['run_id'])}")
    return 0


@command
def _backup(backup: Backup = "") -> int:
    """Write the whole local store to one file.

    By default backups/<date and time>.tar.gz.
    """
    from pathlib import Path

    from mnist_exp import ROOT, tracking

    name = time.strftime("%Y%m%d-%H%M%S.tar.gz")
    file = Path(backup) if backup else ROOT / "backups" / name
    tracking.back_up(file)
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    print(f"Written: {shown}; make restore BACKUP={shown} puts it back")
    return 0


@command
def _restore(backup: Backup) -> int:
    """Put a backup in the place of the local store, which is kept."""
    from pathlib import Path

    from mnist_exp import tracking

    former = tracking.restore(Path(backup))
    print(f"Restored; what was there before is in {former}" if former else "Restored")
    return 0


@command
def _ui(port: Port = 5000) -> int:
    """Browse the recorded runs."""
    from mnist_exp import tracking
    from mnist_exp.notebook import entries, loading
    from mnist_exp.tracking import server, ui

    last_epochs = loading.load_target().last_epochs
    if not tracking.is_served():
        server.check_port(port)
    run_table = ui.prepare_ui(last_epochs, iterations=entries.numbers())
    print(f"The runs: {ui.address(port)}{run_table}", flush=True)
    return 0 if tracking.is_served() else server.serve(port)


@command
def _server(
    backend: Database, artifacts: Artifacts = "", host: Host = "127.0.0.1", port: Port = 5000
) -> int:
    """Keep a store for several machines.

    Set BACKEND in the environment, where nobody else sees its password. ARTIFACTS is a folder or a
    bucket.
    """
    from mnist_exp import ROOT
    from mnist_exp.tracking import server

    server.check_server(backend, artifacts, host)
    server.check_port(port, host)
    artifacts = artifacts or str(ROOT / "mlruns" / "served")
    print(server.announcement(port, artifacts, host), flush=True)
    return server.serve(port, artifacts=artifacts, host=host)
