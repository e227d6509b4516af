"""The tracking store: runs are written to it and read from it as DataFrames.

The only module that knows MLflow. The store is the one that MLFLOW_TRACKING_URI names, or
`mlruns/mlflow.db` in the checkout, with the artifacts beside it in `mlruns/artifacts`.
"""

import os

# Read by MLflow when it is imported: no telemetry, no addresses on stdout, short retries, so that a
# server that is away is noticed in seconds.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

import contextlib
import logging
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mlflow
import pandas as pd
import torch
from filelock import FileLock
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from sqlalchemy.exc import SQLAlchemyError
from torch import Tensor, nn

from mnist_exp import ROOT, ExpectedError

EXPERIMENT = "mnist_exp"
UI_PORT = 5000
DEFAULT_FOLDER = ROOT / "mlruns"
DESCRIPTION = """\
Iterations of a small MNIST classifier, one file each in `experiments/`.

Every run holds its recipe as parameters, accuracy and loss of each epoch, its receptive-field
table, its source and the checksums of its data. The summaries (`best_`, `final_` and
`worst_of_last_5_test_accuracy_percent`) are in percent, so that 99.39 and 99.41 are told apart
where the UI rounds.
"""

for noisy in ("mlflow", "alembic"):
    logging.getLogger(noisy).setLevel(logging.ERROR)


def tracking_uri() -> str:
    """The address of the store, absolute for SQLite."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_FOLDER / 'mlflow.db'}"
    database = _sqlite_file(uri)
    return f"sqlite:///{database}" if database else uri


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


def open_store() -> MlflowClient:
    """A client of the store, which is made when it is not there yet.

    Safe to call from several processes at once. Raises ExpectedError when the store cannot be used.
    """
    with _readable_errors():
        return _open(tracking_uri())[0]


@contextlib.contextmanager
def start_run(
    name: str, parameters: Mapping[str, object], tags: Mapping[str, str], source: str = ""
) -> Iterator["RunWriter"]:
    """A new run that ends with the block: FINISHED, KILLED by an interrupt, or FAILED with the
    error as its tag `failure`. `source` is the file that the UI names as the run's source."""
    with _readable_errors():
        _, experiment = _open(tracking_uri())
        tags = {**tags, **({"mlflow.source.name": source} if source else {})}
        run = mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags)
    writer = RunWriter(run.info.run_id, experiment)
    try:
        writer.log_parameters(parameters)
        yield writer
    except KeyboardInterrupt:
        writer.end("KILLED")
        raise
    except BaseException as error:
        writer.set_tags({"failure": f"{type(error).__name__}: {error}"})
        writer.end("FAILED")
        raise
    writer.end("FINISHED")


MACHINE_LEARNING = "?workflowType=machine_learning"
"""Without it the UI opens in its mode for language models, and hides the runs."""


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
    def log_image(self, pixels: Tensor, name: str) -> None:
        """Grey values, uint8 (height, width), as a PNG."""
        mlflow.log_image(pixels.numpy(), f"{name}.png")

    @_readable_errors()
    def log_dataset(
        self, images: Tensor, labels: Tensor, *, name: str, context: str, digest: str, source: str
    ) -> None:
        """Enter a data set: uint8 images (N, 1, 28, 28), labels (N,), and the SHA-256 of both."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # two readers fit the source; either does
            dataset = from_numpy(
                images.cpu().numpy(), targets=labels.cpu().numpy(), name=name,
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

    @property
    def address(self) -> str:
        """Where the UI shows the run."""
        return f"{ui()}/#/experiments/{self.experiment_id}/runs/{self.run_id}{MACHINE_LEARNING}"


RUN_COLUMNS = (
    "run_id", "run_name", "status", "start_time", "end_time", "model", "seed", "split", "overrides",
    "parameters", "code_sha256",
)  # fmt: skip


def runs() -> pd.DataFrame:
    """Every run in the store, one row each, newest last.

    Columns: RUN_COLUMNS, whatever the store holds (times are UTC); and each parameter, tag and last
    metric under its own name, with "_" for "/". Numbers are numbers; what a run does not have is
    missing.
    """
    with _readable_errors():
        client, experiment = _open(tracking_uri())
        found = _all_runs(client, experiment)
    records = pd.DataFrame([_run_record(run) for run in found])
    return records.reindex(columns=list(dict.fromkeys([*RUN_COLUMNS, *records.columns])))


def history(run_ids: list[str] | None = None) -> pd.DataFrame:
    """One row per run and epoch, of the runs given or of all.

    Columns: `run_id`, `epoch` (from 1), and each metric that was logged per epoch, such as
    `train_accuracy` and `test_errors`; missing where a run does not have it.
    """
    with _readable_errors():
        client, experiment = _open(tracking_uri())
        if run_ids is None:
            found = _all_runs(client, experiment)
        else:
            found = [client.get_run(run_id) for run_id in run_ids]
        points = [
            {
                "run_id": run.info.run_id,
                "epoch": point.step,
                "metric": _column(key),
                "value": point.value,
            }
            for run in found
            for key in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, key)
            if point.step > 0
        ]
    if not points:
        return pd.DataFrame(columns=["run_id", "epoch"])
    table = pd.DataFrame(points)
    # A doubled point must not be averaged away: it becomes a row of its own.
    table["copy"] = table.groupby(["run_id", "epoch", "metric"]).cumcount()
    wide = table.pivot(index=["run_id", "epoch", "copy"], columns="metric", values="value")
    return wide.reset_index().drop(columns="copy").rename_axis(columns=None)


def serve(port: int) -> int:
    """Run the UI on 127.0.0.1 until it is interrupted; returns its exit code."""
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", f"{port}"]
    command += ["--workers", "1", "--backend-store-uri", tracking_uri()]
    # In a session of its own, and told to end: at Ctrl-C it would print a traceback.
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
        return 0


def ui(port: int = UI_PORT) -> str:
    """The address of the UI: that of the tracking server, or of `serve` where there is none."""
    return tracking_uri().rstrip("/") if is_served() else f"http://127.0.0.1:{port}"


def is_served() -> bool:
    """Whether a tracking server keeps the store, which then has its UI as well."""
    return tracking_uri().startswith(("http://", "https://"))


def table_address(port: int) -> str:
    """Where the UI shows the run table."""
    with _readable_errors():
        _, experiment = _open(tracking_uri())
    return f"{ui(port)}/#/experiments/{experiment}{MACHINE_LEARNING}"


def check_port(port: int) -> None:
    """Raise ExpectedError when no server can listen on 127.0.0.1 at `port`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ExpectedError(
                f"port {port} cannot be used ({error.strerror}); choose another: "
                f"make ui PORT={port + 1 if port < 65535 else 5001}"
            ) from None


def _open(uri: str) -> tuple[MlflowClient, str]:
    """A client of the store, and the id of the experiment; MLflow's own calls go there too."""
    experiment = _experiment(uri)  # first: it makes the store
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return MlflowClient(uri), experiment


@cache
def _experiment(uri: str) -> str:
    database = _sqlite_file(uri)
    if database:
        database.parent.mkdir(parents=True, exist_ok=True)
    # A database that two processes make or upgrade at once breaks.
    lock = FileLock(database.parent / ".lock") if database else contextlib.nullcontext()
    with lock:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment:
            return str(experiment.experiment_id)
        artifacts = (database.parent / "artifacts").as_uri() if database else None
        try:
            tags = {"mlflow.note.content": DESCRIPTION}
            return str(client.create_experiment(EXPERIMENT, artifacts, tags=tags))
        except MlflowException:  # another process on another machine was faster
            experiment = client.get_experiment_by_name(EXPERIMENT)
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
    times = {
        name: pd.to_datetime(value, unit="ms", utc=True)
        for name, value in (("start_time", info.start_time), ("end_time", info.end_time))
    }
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    own = {"run_id": info.run_id, "run_name": info.run_name, "status": info.status, **times}
    # A parameter wins over a metric of its name: the learning rate is that of the recipe.
    parameters = {key: _number(value) for key, value in run.data.params.items()}
    values = run.data.metrics | tags | parameters
    return {_column(key): value for key, value in values.items()} | own


def _number(text: str) -> str | int | float:
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text) else text


def _column(key: str) -> str:
    return key.replace("/", "_")
