"""Runs are read, as tidy DataFrames and as what they were given to keep."""

from __future__ import annotations

import io
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from PIL import Image

from mnist_exp.common.errors import ExpectedError
from mnist_exp.tracking import liveness, names
from mnist_exp.tracking.mlflow_internals import (
    POINTS_PER_REQUEST,
    RUNS_PER_REQUEST,
    Point,
    database_points,
    server_points,
)
from mnist_exp.tracking.names import EPOCH_METRICS, RUN_COLUMNS, column_name
from mnist_exp.tracking.store import (
    artifacts_of,
    connect,
    is_served,
    readable_errors,
)


def runs(*, groups: bool = False) -> pd.DataFrame:
    """Every training in the store, one row each, newest last; with `groups`, also the runs that
    hold what belongs to several.

    Columns: RUN_COLUMNS, whatever the store holds (times are UTC); and each parameter, tag and last
    metric under its own name, with "_" for "/". Numbers are numbers; what a run does not have is
    missing. So is `overrides` where the recipe was trained as its file has it; it is "not recorded"
    where that is not known. `fold` is text, and "last" of older runs, which do not name theirs.
    """
    with readable_errors():
        client, experiment = connect()
        every = all_runs(client, experiment)
    asked = [run for run in every if groups or names.GROUP not in run.data.tags]
    records = pd.DataFrame([run_record(run) for run in asked])
    return records.reindex(columns=list(dict.fromkeys([*RUN_COLUMNS, *records.columns])))


MOST_PIXELS = 60_000 * 28 * 28
"""The largest image that is read: a sheet of every digit."""
RUNS_PER_QUERY = 1_000


def history(
    run_ids: Iterable[str] | None = None, metrics: Iterable[str] = EPOCH_METRICS
) -> pd.DataFrame:
    """One row per run and epoch, of the runs given or of all, in their order.

    Columns: `run_id`, `epoch` (from 1), `time` (UTC, when it was recorded), and each of `metrics`
    that any of the runs has, with "_" for "/", such as `train_accuracy` and `test_errors`; missing
    where a run does not have it. A point that was recorded twice becomes a row of its own.
    """
    with readable_errors():
        client, experiment = connect()
        if run_ids is None:
            run_ids = [run.info.run_id for run in all_runs(client, experiment)]
        return epochs_of(client, list(run_ids), list(metrics))


def epochs_of(client: MlflowClient, ids: list[str], keys: list[str]) -> pd.DataFrame:
    """What `history` gives of these metrics, with MLflow's own exceptions."""
    points = _points(client, ids, keys)
    if points.empty:
        return pd.DataFrame(columns=["run_id", "epoch", "time"])
    place = ["run_id", "epoch", "copy"]
    points["copy"] = points.groupby([*place[:2], "key"]).cumcount()
    # All metrics of an epoch are recorded together.
    times = points.groupby(place)["time"].first()
    values = points.pivot(index=place, columns="key", values="value").rename_axis(columns=None)
    values = values.rename(columns=dict(enumerate(map(column_name, keys))))
    table: pd.DataFrame = pd.concat([times, values], axis=1).reset_index()
    table["run_id"] = table["run_id"].map(dict(enumerate(ids)))
    table["time"] = pd.to_datetime(table["time"], unit="ms", utc=True)
    return table.drop(columns="copy")


def _points(client: MlflowClient, run_ids: list[str], keys: list[str]) -> pd.DataFrame:
    """Every point of the metrics after step 0: `run_id` and `key` as places in the lists (numbers
    take a tenth of the memory of texts), `epoch`, `value` and `time` (ms)."""
    ask, size = (
        (_server_points, RUNS_PER_REQUEST) if is_served() else (database_points, RUNS_PER_QUERY)
    )
    columns = ["run_id", "key", "epoch", "value", "time"]
    run_places = {run_id: place for place, run_id in enumerate(run_ids)}
    key_places = {key: place for place, key in enumerate(keys)}
    chunks = []
    for start in range(0, len(run_ids), size):
        points = ask(client, run_ids[start : start + size], keys)
        chunk = pd.DataFrame(points, columns=columns)
        chunk["run_id"] = chunk["run_id"].map(run_places)
        chunk["key"] = chunk["key"].map(key_places)
        chunks.append(chunk[chunk["epoch"] > 0])
    return pd.concat(chunks) if chunks else pd.DataFrame(columns=columns)


def _server_points(client: MlflowClient, run_ids: list[str], keys: list[str]) -> list[Point]:
    """Every point of the metrics, through a tracking server."""
    points: list[Point] = []
    for key in keys:
        some = server_points(client, run_ids, key)
        if len(some) >= POINTS_PER_REQUEST:  # the server has cut them off
            some = [
                (run_id, key, point.step, point.value, point.timestamp)
                for run_id in run_ids
                for point in client.get_metric_history(run_id, key)
            ]
        points += some
    return points


def table(run_id: str, name: str) -> pd.DataFrame | None:
    """A table that a run was given with `log_table`; None when it has none of that name."""
    file = _artifact(run_id, names.Table(name).csv)
    try:
        # Whole numbers stay whole where some are missing.
        return pd.read_csv(file).convert_dtypes() if file else None
    except ValueError as error:  # what pandas raises for any file that is no table
        raise ExpectedError(f"{name}.csv of run {run_id} cannot be read: {error}") from None


def image(run_id: str, name: str) -> np.ndarray | None:
    """Grey values, uint8 (height, width), that a run was given with `log_image`; None if not."""
    file = _artifact(run_id, names.Image(name).file)
    try:
        return grey_values(file) if file else None
    except ValueError as error:
        raise ExpectedError(f"{name}.png of run {run_id} cannot be read: {error}") from None


def grey_values(file: Path | io.BytesIO) -> np.ndarray:
    """What a PNG as `log_image` writes it shows, uint8 (height, width).

    Raises ValueError for any other file.
    """
    bombs = Image.DecompressionBombWarning, Image.DecompressionBombError
    try:
        with warnings.catch_warnings(action="error"), Image.open(file, formats=["PNG"]) as opened:
            if opened.mode != "L" or opened.width * opened.height > MOST_PIXELS:
                raise ValueError(f"it is no sheet of digits ({opened.mode}, {opened.size})")
            return np.asarray(opened)
    # What Pillow raises has nothing in common; SyntaxError is its word for a broken PNG.
    except (OSError, SyntaxError, *bombs) as error:
        raise ValueError(str(error)) from None


def source(run_id: str, number: int) -> tuple[str, dict[str, str]] | None:
    """The source of iteration `number` that a run kept, and those of its helpers by name; None when
    it has none."""
    own, folder = names.source_file(number), names.helper_file("")
    with readable_errors(), tempfile.TemporaryDirectory() as copies:
        client, _ = connect()
        here = artifacts_of(client, run_id)
        if here:
            kept = here / folder
            files = {file.relative_to(kept).as_posix(): file for file in kept.rglob("*.py")}
        else:
            files = {
                file.removeprefix(folder): Path(client.download_artifacts(run_id, file, copies))
                for file in _files(client, run_id, folder[:-1])
                if file.endswith(".py")
            }
        sources = {
            name: file.read_text(encoding="utf-8", errors="replace") for name, file in files.items()
        }
    text = sources.pop(own.removeprefix(folder), None)
    return None if text is None else (text, sources)


def _files(client: MlflowClient, run_id: str, folder: str) -> Iterator[str]:
    """The artifacts of a run in a folder, and in those below it."""
    for artifact in client.list_artifacts(run_id, folder):
        if artifact.is_dir:
            yield from _files(client, run_id, artifact.path)
        else:
            yield artifact.path


def _artifact(run_id: str, file: str) -> io.BytesIO | None:
    with readable_errors():
        client, _ = connect()
        here = artifacts_of(client, run_id)
        if here:
            return io.BytesIO((here / file).read_bytes()) if (here / file).is_file() else None
        folder = file.rpartition("/")[0] or None
        if file not in {artifact.path for artifact in client.list_artifacts(run_id, folder)}:
            return None
        with tempfile.TemporaryDirectory() as copies:
            return io.BytesIO(Path(client.download_artifacts(run_id, file, copies)).read_bytes())


def all_runs(client: MlflowClient, experiment: str, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    """Every run of an experiment, oldest first, however many requests it takes."""
    runs: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment], run_view_type=view, max_results=1000,
            order_by=["attributes.start_time"], page_token=token,
        )  # fmt: skip
        runs += page
        token = page.token
        if not token:
            return runs


def run_record(run: Run) -> dict[str, object]:
    """The row of a run in `runs`."""
    info = run.info
    times = {"start_time": utc_time(info.start_time), "end_time": utc_time(info.end_time)}
    tags = {
        key: value
        for key, value in run.data.tags.items()
        if key not in liveness.TAGS and not key.startswith("mlflow.")
    }
    facts = {"run_id": info.run_id, "run_name": info.run_name, "status": info.status, **times}
    facts |= {"experiment_id": info.experiment_id, "parent": run.data.tags.get(names.PARENT)}
    # Without the tag, as a run that another program made, it is not taken for a whole recipe.
    overrides = tags.get("overrides", "not recorded")
    facts["overrides"] = None if overrides == "none" else overrides
    # A parameter wins over a metric of its name: the learning rate is that of the recipe.
    parameters = {key: _number(value) for key, value in run.data.params.items()}
    own = names.system("")
    metrics = {key: x for key, x in run.data.metrics.items() if not key.startswith(own)}
    values = metrics | tags | parameters
    facts[names.FOLD] = _fold(run.data.params)
    return {column_name(key): value for key, value in values.items()} | facts


def _fold(parameters: Mapping[str, str]) -> str | None:
    """What of the training digits a run held out, as text; None where it held out none of them."""
    if parameters.get("split") != "validation":
        return None
    return parameters.get(names.FOLD, names.OLD_FOLD)


def utc_time(milliseconds: int | None) -> Any:
    return pd.Timestamp(milliseconds, unit="ms", tz="UTC") if milliseconds else pd.NaT


def _number(text: str) -> str | int | float:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text) else text
