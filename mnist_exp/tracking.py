"""The tracking store: runs are written to it and read from it as DataFrames.

The only module that knows MLflow. The store is the one that MLFLOW_TRACKING_URI names, or
`mlruns/mlflow.db` in the checkout, with the artifacts beside it in `mlruns/artifacts`.
"""

from __future__ import annotations

import os

# Read by MLflow when it is imported: no telemetry, no addresses or progress bars, short retries, so
# that a server that is away is noticed in seconds.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

import contextlib
import io
import logging
import math
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
from filelock import FileLock
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.store.tracking.dbmodels.models import SqlMetric
from mlflow.utils.rest_utils import http_request
from PIL import Image
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from mnist_exp import ROOT, ExpectedError

if TYPE_CHECKING:
    from torch import Tensor, nn

EXPERIMENT = "mnist_exp"
PAGES = "mnist_exp reports"
DEFAULT_FOLDER = ROOT / "mlruns"
for noisy in ("mlflow", "alembic"):
    logging.getLogger(noisy).setLevel(logging.ERROR)


def tracking_uri() -> str:
    """The address of the store, absolute for SQLite, and with its driver for PostgreSQL."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_FOLDER / 'mlflow.db'}"
    uri = re.sub("^postgres(ql)?://", "postgresql+psycopg2://", uri)
    database = _sqlite_file(uri)
    return f"sqlite:///{database}" if database else uri


def make_tables() -> None:
    """Make the tables of the store's database, without an experiment in it, so that a server may
    choose where artifacts go."""
    with _readable_errors(), only_one():
        MlflowClient(tracking_uri()).search_experiments(max_results=1)


def is_served() -> bool:
    """Whether a tracking server keeps the store, which then has its UI as well."""
    return tracking_uri().startswith(("http://", "https://"))


@contextlib.contextmanager
def _readable_errors() -> Iterator[None]:
    """What the store or the way to it refuses becomes one line for the user."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        message = f"the tracking store {tracking_uri()} cannot be used: {reason}"
        message = re.sub(r"//[^/@\s]*@", "//", message)  # without passwords
        raise ExpectedError(f"{message} (MLFLOW_TRACKING_URI names another)") from error


def open_store() -> tuple[MlflowClient, str]:
    """A client of the store, which is made when it is not there yet, and the experiment's id.

    Safe to call from several processes at once. Raises ExpectedError when the store cannot be used.
    """
    with _readable_errors():
        return _open(tracking_uri())


@contextlib.contextmanager
def start_run(
    name: str, parameters: Mapping[str, object], tags: Mapping[str, str], source: str = "",
    parent: str = "",
) -> Iterator[RunWriter]:  # fmt: skip
    """A new run that ends with the block: FINISHED, KILLED by an interrupt, or FAILED with the
    error as its tag `failure`. `source` is the file that the UI names as the run's source, `parent`
    the run below which it shows this one."""
    with _readable_errors():
        _, experiment = _open(tracking_uri())
        tags = {**tags, **({"mlflow.source.name": source} if source else {})}
        tags |= {PARENT: parent} if parent else {}
        run = mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags)
    with _under_way(RunWriter(run.info.run_id, experiment)) as writer:
        writer.log_parameters(parameters)
        yield writer


@contextlib.contextmanager
def continue_run(name: str) -> Iterator[RunWriter]:
    """The run called `name`, which is made when it is not there; it is under way again until the
    block ends, and ends as one of `start_run` does."""
    with _readable_errors():
        client, experiment = _open(tracking_uri())
        run_id = _find_or_make(client, experiment, name)
        mlflow.start_run(run_id)
    with _under_way(RunWriter(run_id, experiment)) as writer:
        yield writer


@contextlib.contextmanager
def _under_way(writer: RunWriter) -> Iterator[RunWriter]:
    try:
        yield writer
    except KeyboardInterrupt:
        writer.end("KILLED")
        raise
    except BaseException as error:
        writer.set_tags({"failure": f"{type(error).__name__}: {error}"})
        writer.end("FAILED")
        raise
    writer.end("FINISHED")


def _find_or_make(client: MlflowClient, experiment: str, name: str) -> str:
    quoted = name.replace("'", "")
    found = client.search_runs([experiment], f"attributes.run_name = '{quoted}'", max_results=1)
    run = found[0] if found else client.create_run(experiment, run_name=quoted, tags={GROUP: "yes"})
    return str(run.info.run_id)


class ExportError(ExpectedError):
    """A network cannot be exported."""


@dataclass(frozen=True)
class RunWriter:
    """Writes to one run, which is under way."""

    run_id: str
    experiment_id: str

    @_readable_errors()
    def end(self, status: str) -> None:
        mlflow.end_run(status)

    @_readable_errors()
    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        mlflow.log_params({key: str(value) for key, value in parameters.items()})

    @_readable_errors()
    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        mlflow.log_metrics(dict(metrics), step=step)

    @_readable_errors()
    def set_tags(self, tags: Mapping[str, str]) -> None:
        mlflow.set_tags(dict(tags))

    @_readable_errors()
    def describe(self, markdown: str) -> None:
        """The description that the UI shows above the run."""
        mlflow.set_tag("mlflow.note.content", markdown)

    @_readable_errors()
    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """As JSON, which the UI shows as a table, and as CSV."""
        # Through objects: MLflow writes missing whole numbers as text otherwise.
        mlflow.log_table(table.astype(object).where(table.notna(), None), f"{name}.json")
        mlflow.log_text(table.to_csv(index=False), f"{name}.csv")

    @_readable_errors()
    def log_text(self, text: str, file: str) -> None:
        mlflow.log_text(text, file)

    @_readable_errors()
    def log_figure(self, figure: Figure, name: str) -> None:
        mlflow.log_figure(figure, f"figures/{name}.png", save_kwargs={"dpi": 110})

    @_readable_errors()
    def log_image(self, pixels: np.ndarray, name: str) -> None:
        """Grey values, uint8 (height, width), as a PNG."""
        mlflow.log_image(pixels, f"{name}.png")

    @_readable_errors()
    def log_dataset(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        name: str,
        context: str,
        digest: str,
        source: str,
    ) -> None:
        """Enter a data set: uint8 images (N, 1, 28, 28), labels (N,), and the SHA-256 of both."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # two readers fit the source; either does
            dataset = from_numpy(
                images, targets=labels, name=name,
                # Enough to tell them apart in a table; the run's tags hold the whole sums.
                digest=digest[:8], source=source,
            )  # fmt: skip
        mlflow.log_input(dataset, context=context)

    @_readable_errors()
    def log_network(self, network: nn.Module, images: Tensor, register_as: str | None) -> None:
        """The trained network, exported without pickle, from uint8 images (N, 1, 28, 28) to its
        output; entered in the Model Registry when `register_as` names it.

        Raises ExportError when torch cannot trace the network, as with control flow over values.
        """
        import torch  # here, since most that read the store have no need to wait for it

        network = network.cpu().eval()
        images = images.cpu()
        with torch.no_grad():
            output = network(images)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.export about its own internals
            try:
                torch.export.export(network, (images,))
            except Exception as error:  # whatever the network does that torch cannot trace
                raise ExportError(" ".join(str(error).split())[:200]) from error
            mlflow.pytorch.log_model(
                network,
                name="network",
                signature=infer_signature(images.numpy(), output.numpy()),
                input_example=images.numpy(),
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
                registered_model_name=register_as,
            )


PARENT = "mlflow.parentRunId"
GROUP = "group"
"""The tag of a run that is no training, but holds what belongs to several."""
IMPORTED = "imported_from"
"""The tag of a run that was entered from an archive: the id of the original."""

RUN_COLUMNS = (
    "run_id", "experiment_id", "run_name", "status", "start_time", "end_time", "model", "seed",
    "split", "overrides", "parameters", "test_images", "receptive_field", "code_sha256",
    "git_commit", "git_dirty", "machine", "threads", "python", "torch", "mlflow", "imported_from",
    "parent",
)  # fmt: skip


def runs() -> pd.DataFrame:
    """Every training in the store, one row each, newest last.

    Columns: RUN_COLUMNS, whatever the store holds (times are UTC); and each parameter, tag and last
    metric under its own name, with "_" for "/". Numbers are numbers; what a run does not have is
    missing.
    """
    with _readable_errors():
        client, experiment = _open(tracking_uri())
        found = _all_runs(client, experiment)
    records = pd.DataFrame([_run_record(run) for run in found if GROUP not in run.data.tags])
    return records.reindex(columns=list(dict.fromkeys([*RUN_COLUMNS, *records.columns])))


EPOCH_METRICS = (
    *(f"{part}/{quantity}" for part in ("train", "test", "validation")
      for quantity in ("accuracy", "loss")),
    "test/errors", "validation/errors", "learning_rate", "epoch_seconds",
)  # fmt: skip
"""What a run records each epoch, on whichever split."""

RUNS_PER_QUERY = 1_000
RUNS_PER_REQUEST, POINTS_PER_REQUEST = 100, 25_000
"""Limits of MLflow's server for one request."""


def history(
    run_ids: Iterable[str] | None = None, metrics: Iterable[str] = EPOCH_METRICS
) -> pd.DataFrame:
    """One row per run and epoch, of the runs given or of all, in their order.

    Columns: `run_id`, `epoch` (from 1), `time` (UTC, when it was recorded), and each of `metrics`
    that any of the runs has, with "_" for "/", such as `train_accuracy` and `test_errors`; missing
    where a run does not have it. A point that was recorded twice becomes a row of its own.
    """
    with _readable_errors():
        client, experiment = _open(tracking_uri())
        if run_ids is None:
            run_ids = [run.info.run_id for run in _all_runs(client, experiment)]
        ids, keys = list(run_ids), list(metrics)
        points = _points(client, ids, keys)
    if points.empty:
        return pd.DataFrame(columns=["run_id", "epoch", "time"])
    place = ["run_id", "epoch", "copy"]
    points["copy"] = points.groupby([*place[:2], "key"]).cumcount()
    # All metrics of an epoch are recorded together.
    times = points.groupby(place)["time"].first()
    values = points.pivot(index=place, columns="key", values="value").rename_axis(columns=None)
    values = values.rename(columns=dict(enumerate(map(_column, keys))))
    table: pd.DataFrame = pd.concat([times, values], axis=1).reset_index()
    table["run_id"] = table["run_id"].map(dict(enumerate(ids)))
    table["time"] = pd.to_datetime(table["time"], unit="ms", utc=True)
    return table.drop(columns="copy")


def _points(client: MlflowClient, run_ids: list[str], keys: list[str]) -> pd.DataFrame:
    """Every point of the metrics after step 0: `run_id` and `key` as places in the lists (numbers
    take a tenth of the memory of texts), `epoch`, `value` and `time` (ms)."""
    query, size = (
        (_request_points, RUNS_PER_REQUEST) if is_served() else (_query_points, RUNS_PER_QUERY)
    )
    columns = ["run_id", "key", "epoch", "value", "time"]
    run_places = {run_id: place for place, run_id in enumerate(run_ids)}
    key_places = {key: place for place, key in enumerate(keys)}
    chunks = []
    for start in range(0, len(run_ids), size):
        found = query(client, run_ids[start : start + size], keys)
        chunk = pd.DataFrame(found, columns=columns)
        chunk["run_id"], chunk["key"] = (
            chunk["run_id"].map(run_places),
            chunk["key"].map(key_places),
        )
        chunks.append(chunk[chunk["epoch"] > 0])
    return pd.concat(chunks) if chunks else pd.DataFrame(columns=columns)


Point = tuple[str, str, int, float, int]


def _query_points(client: MlflowClient, run_ids: list[str], keys: list[str]) -> list[Point]:
    # The client has no call for several runs. The store has one, which makes an object of each
    # point: reading takes five times as long.
    m = SqlMetric
    columns = (m.run_uuid, m.key, m.step, m.value, m.timestamp, m.is_nan)
    with client._tracking_client.store.ManagedSessionMaker() as session:
        found = session.query(*columns).filter(m.run_uuid.in_(run_ids), m.key.in_(keys))
        return [
            (run_id, key, step, math.nan if is_nan else value, time)
            for run_id, key, step, value, time, is_nan in found.order_by(m.timestamp)
        ]


def _request_points(client: MlflowClient, run_ids: list[str], keys: list[str]) -> list[Point]:
    return [
        (run_id, key, step, value, time)
        for key in keys
        for run_id, step, value, time in _request(client, run_ids, key)
    ]


def _request(
    client: MlflowClient, run_ids: list[str], key: str
) -> list[tuple[str, int, float, int]]:
    """Run, step, value and time (ms) of each point of a metric, from a tracking server."""
    reply = http_request(
        client._tracking_client.store.get_host_creds(),
        "/ajax-api/2.0/mlflow/metrics/get-history-bulk", "GET",
        params=[("metric_key", key), *(("run_id", run_id) for run_id in run_ids)],
    )  # fmt: skip
    found = [(p["run_id"], p["step"], p["value"], p["timestamp"]) for p in reply.json()["metrics"]]
    if len(found) < POINTS_PER_REQUEST:
        return found
    # Cut off by the server.
    points = ((run, point) for run in run_ids for point in client.get_metric_history(run, key))
    return [(run, point.step, point.value, point.timestamp) for run, point in points]


def table(run_id: str, name: str) -> pd.DataFrame | None:
    """A table that a run was given with `log_table`; None when it has none of that name."""
    file = _artifact(run_id, f"{name}.csv")
    try:
        # Whole numbers stay whole where some are missing.
        return pd.read_csv(file).convert_dtypes() if file else None
    except ValueError as error:  # what pandas raises for any file that is no table
        raise ExpectedError(f"{name}.csv of run {run_id} cannot be read: {error}") from None


def image(run_id: str, name: str) -> np.ndarray | None:
    """Grey values, uint8 (height, width), that a run was given with `log_image`; None if not."""
    file = _artifact(run_id, f"{name}.png")
    try:
        return np.asarray(Image.open(file)) if file else None
    except OSError as error:
        raise ExpectedError(f"{name}.png of run {run_id} cannot be read: {error}") from None


def _artifact(run_id: str, file: str) -> io.BytesIO | None:
    with _readable_errors():
        client, _ = _open(tracking_uri())
        if file not in {artifact.path for artifact in client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return io.BytesIO(Path(client.download_artifacts(run_id, file, folder)).read_bytes())


PORTABLE_TAGS = ("mlflow.note.content", "mlflow.source.name")
"""Of MLflow's own tags, those that say nothing about the machine and its user."""


def archive(run_ids: Iterable[str]) -> pd.DataFrame:
    """Runs as rows from which `enter_run` can make them again, but for their histories and tables.

    Columns as MLflow names them: `run_id` (that of the original, for a run that was entered from an
    archive), `run_name`, `start_time`, `end_time`, and `params.*`, `tags.*` and `metrics.*` (those
    that are not per epoch). All of it text, as it stands in the store.
    """
    wanted = set(run_ids)
    with _readable_errors():
        client, experiment = _open(tracking_uri())
        found = [run for run in _all_runs(client, experiment) if run.info.run_id in wanted]
    rows = []
    for run in found:
        tags = {
            key: value
            for key, value in run.data.tags.items()
            if key in PORTABLE_TAGS or not key.startswith("mlflow.")
        }
        original = tags.pop(IMPORTED, run.info.run_id)
        own = _place(run.info.experiment_id, run.info.run_id)
        tags = {key: value.replace(own, ANYWHERE) for key, value in tags.items()}
        metrics = {
            key: value for key, value in run.data.metrics.items() if key not in EPOCH_METRICS
        }
        rows.append(
            {
                "run_id": original,
                "run_name": run.info.run_name,
                "start_time": _time(run.info.start_time).isoformat(),
                "end_time": _time(run.info.end_time).isoformat(),
                **{f"params.{key}": value for key, value in sorted(run.data.params.items())},
                **{f"tags.{key}": value for key, value in sorted(tags.items())},
                **{f"metrics.{key}": repr(value) for key, value in sorted(metrics.items())},
            }
        )
    return pd.DataFrame(rows)


def keep_page(name: str, file: Path) -> tuple[str, str]:
    """Keep `file` as an artifact of the one run called `name`, in an experiment of its own, so that
    it does not stand among the trainings; returns the ids of the experiment and the run."""
    with _readable_errors():
        client, _ = _open(tracking_uri())
        experiment = _experiment(tracking_uri(), PAGES)
        run_id = _find_or_make(client, experiment, name)
        client.log_artifact(run_id, str(file))
        client.set_terminated(run_id)
    return experiment, run_id


ANYWHERE = "/experiments/EXPERIMENT/runs/RUN"
"""Takes the place of a run in links to it, in an archive."""


def _place(experiment_id: str, run_id: str) -> str:
    return f"/experiments/{experiment_id}/runs/{run_id}"


@contextlib.contextmanager
def enter_run(archived: Mapping[str, str], history: pd.DataFrame) -> Iterator[RunWriter]:
    """Make a finished run from a row of `archive` and its rows of `history`, with its times.

    The block may add tables; the run counts as finished when the block has ended.
    """
    start, end = (pd.Timestamp(archived[f"{name}_time"]) for name in ("start", "end"))
    parts = {
        part: {
            key.removeprefix(f"{part}."): value
            for key, value in archived.items()
            if key.startswith(f"{part}.")
        }
        for part in ("params", "tags", "metrics")
    }
    names = {_column(key): key for key in EPOCH_METRICS}
    points = [
        Metric(names[column], float(row[column]), _milliseconds(row["time"]), int(row["epoch"]))
        for row in history.to_dict("records")
        for column in names.keys() & row.keys()
        if pd.notna(row[column])
    ]
    points += [
        Metric(key, float(value), _milliseconds(end), 0) for key, value in parts["metrics"].items()
    ]
    with _readable_errors():
        client, experiment = _open(tracking_uri())
        run = client.create_run(
            experiment, start_time=_milliseconds(start), run_name=archived["run_name"],
            tags={IMPORTED: archived["run_id"]},
        )  # fmt: skip
        run_id = run.info.run_id
        here = _place(experiment, run_id)
        tags = [RunTag(key, text.replace(ANYWHERE, here)) for key, text in parts["tags"].items()]
        client.log_batch(run_id, tags=tags)
        for place in range(0, len(points), 1000):  # what one request may hold
            client.log_batch(run_id, metrics=points[place : place + 1000])
        client.log_batch(run_id, params=[Param(*item) for item in parts["params"].items()])
        mlflow.start_run(run_id)
    try:
        yield RunWriter(run_id, experiment)
    finally:
        mlflow.end_run("RUNNING")
    with _readable_errors():
        client.set_terminated(run_id, "FINISHED", _milliseconds(end))


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """A block that one process at a time enters: on this machine for SQLite, anywhere for
    PostgreSQL. A tracking server sees to it itself."""
    uri = tracking_uri()
    database = _sqlite_file(uri)
    if database:
        database.parent.mkdir(parents=True, exist_ok=True)
        # The one object can be entered again inside its block.
        with FileLock(database.parent / ".lock", is_singleton=True):
            yield
    elif uri.startswith("postgresql"):
        with create_engine(uri, poolclass=NullPool).connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(hashtext('mnist_exp'))"))
            yield
    else:
        yield


def adopt(run_ids: Iterable[str], parent: str) -> None:
    """Show the runs below the run `parent`."""
    with _readable_errors():
        client, _ = _open(tracking_uri())
        for run_id in run_ids:
            client.set_tag(run_id, PARENT, parent)


def end_run(run_id: str, status: str, failure: str) -> None:
    """End a run whose own process is gone, saying why."""
    with _readable_errors():
        client, _ = _open(tracking_uri())
        client.set_tag(run_id, "failure", failure)
        client.set_terminated(run_id, status)


def remove_run(run_id: str) -> None:
    """Take a run out of every list; MLflow keeps it as deleted."""
    with _readable_errors():
        _open(tracking_uri())[0].delete_run(run_id)


def _open(uri: str) -> tuple[MlflowClient, str]:
    """A client of the store, and the id of the experiment; MLflow's own calls go there too."""
    experiment = _experiment(uri)  # first: it makes the store
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return MlflowClient(uri), experiment


@cache
def _experiment(uri: str, name: str = EXPERIMENT) -> str:
    database = _sqlite_file(uri)
    with only_one():  # a database that two processes make or upgrade at once breaks
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment:
            return str(experiment.experiment_id)
        artifacts = (database.parent / "artifacts").as_uri() if database else None
        try:
            return str(client.create_experiment(name, artifacts))
        except MlflowException:  # another process on another machine was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
            return str(experiment.experiment_id)


def _sqlite_file(uri: str) -> Path | None:
    prefix = "sqlite:///"
    return Path(uri.removeprefix(prefix)).absolute() if uri.startswith(prefix) else None


def _all_runs(client: MlflowClient, experiment: str) -> list[Run]:
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment], max_results=1000, order_by=["attributes.start_time"], page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found


def _run_record(run: Run) -> dict[str, object]:
    info = run.info
    times = {"start_time": _time(info.start_time), "end_time": _time(info.end_time)}
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    own = {"run_id": info.run_id, "run_name": info.run_name, "status": info.status, **times}
    own |= {"experiment_id": info.experiment_id, "parent": run.data.tags.get(PARENT)}
    # A parameter wins over a metric of its name: the learning rate is that of the recipe.
    parameters = {key: _number(value) for key, value in run.data.params.items()}
    values = run.data.metrics | tags | parameters
    return {_column(key): value for key, value in values.items()} | own


def _time(milliseconds: int | None) -> Any:
    return pd.Timestamp(milliseconds, unit="ms", tz="UTC") if milliseconds else pd.NaT


def _milliseconds(time: pd.Timestamp) -> int:
    return round(time.timestamp() * 1000)


def _number(text: str) -> str | int | float:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text) else text


def _column(key: str) -> str:
    return key.replace("/", "_")
