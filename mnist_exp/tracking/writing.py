"""Runs are begun, written to and ended."""

from __future__ import annotations

import contextlib
import getpass
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.data.numpy_dataset import from_numpy
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from mnist_exp.common import interrupts
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.words import duration
from mnist_exp.tracking import liveness, mlflow_internals, names
from mnist_exp.tracking.store import (
    PAGES,
    check_answers,
    connect,
    experiment_id,
    make_client,
    readable_errors,
    tracking_uri,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

log = logging.getLogger(__name__)


class PrunedError(ExpectedError):
    """A run is ended early, of which its study expects nothing; the text says after which epoch."""


@contextlib.contextmanager
def start_run(
    name: str, parameters: Mapping[str, object], tags: Mapping[str, str], source: str = "",
    parent: str = "",
) -> Iterator[RunWriter]:  # fmt: skip
    """A new run, which ends with the block: FINISHED, KILLED by an interrupt or by a
    PrunedError, which is its tag `pruned`, or FAILED with the error as its tag `failure`.

    `source` is the file that the UI names as the run's source. `parent` is the id of the run below
    which the UI shows this one. Raises ExpectedError when the store cannot be used.
    """
    names.require("tag", tags)
    with readable_errors():
        client, experiment = connect(write=True)
    # Not by mlflow.start_run: it goes on with whatever run the surroundings name, and adds what
    # they say, such as the commit of another checkout.
    tags = {**tags, **_origin(source), **liveness.own_tags()}
    tags |= {names.PARENT: parent} if parent else {}

    def begin() -> Run:
        return client.create_run(experiment, _now(client, experiment), tags, name)

    with _under_way(begin) as writer:
        writer.log_parameters(parameters)
        yield writer


@contextlib.contextmanager
def resume_run(run_id: str, parameters: Mapping[str, object]) -> Iterator[RunWriter]:
    """A run that was begun before: it is under way again, and ends with the block as one of
    `start_run` does. Raises ExpectedError when it has other values of the parameters."""
    with readable_errors():
        client, _ = connect(write=True)

    def begin() -> Run:
        # First: whoever opens the store once the run is under way again asks for its process.
        for key, value in liveness.own_tags().items():
            client.set_tag(run_id, key, value)
        client.update_run(run_id, "RUNNING")
        run = client.get_run(run_id)
        if names.FAILURE in run.data.tags:
            client.delete_tag(run_id, names.FAILURE)
        return run

    with _under_way(begin) as writer:
        writer.log_parameters(parameters)
        yield writer


@contextlib.contextmanager
def continue_run(name: str) -> Iterator[RunWriter]:
    """The one run called `name`, which holds what belongs to several runs. It is made if there is
    none, and then goes on as one of `resume_run` does."""
    with readable_errors():
        run_id = _find_or_make(*connect(write=True), name)
    with resume_run(run_id, {}) as writer:
        yield writer


@contextlib.contextmanager
def _under_way(begin: Callable[[], Run]) -> Iterator[RunWriter]:
    """Begin a run, say while the block lasts that it is under way, and end it as the block ends."""
    writer = None
    try:
        # An interrupt in between would leave a run under way that nobody ends.
        with readable_errors(), interrupts.held():
            info = begin().info
            writer = RunWriter(info.run_id, info.experiment_id, info.start_time)
        with liveness.heartbeat(writer.client, writer.run_id):
            yield writer
            writer.end("FINISHED")
    except BaseException as error:
        if writer is None:
            raise
        # Where an interrupt came, a library may have made another error of it.
        early = isinstance(error, KeyboardInterrupt | PrunedError) or interrupts.pending()
        # A store that cannot be written to now learns of the end when it is opened next, since the
        # process is gone by then (liveness.mark_lost). So a server that is away is not waited for,
        # as MLflow would.
        with interrupts.answered(), contextlib.suppress(ExpectedError), readable_errors():
            check_answers()
            ended = writer.end("KILLED" if early else "FAILED")
            if ended and isinstance(error, PrunedError):
                writer.client.set_tag(writer.run_id, names.PRUNED, str(error))
            elif ended and isinstance(error, Exception):
                failure = f"{type(error).__name__}: {error}"
                writer.client.set_tag(writer.run_id, names.FAILURE, failure)
        raise


def _now(client: MlflowClient, experiment: str) -> int:
    """The time (ms since 1970), but later than the start of every run that is there: where a seed
    has several runs, the newest counts, whatever was done to the clock between them."""
    now = round(1000 * time.time())
    newest = client.search_runs(
        [experiment], max_results=1, order_by=["attributes.start_time DESC"]
    )
    latest = newest[0].info.start_time if newest else 0
    if latest > now + 60_000:
        log.warning(
            "by the clock, the newest run (%s) will only begin in %s: this one is entered as begun "
            "just after it, so that it is the newest", newest[0].info.run_id,
            duration((latest - now) / 1000),
        )  # fmt: skip
    return max(now, latest + 1)


def _origin(source: str) -> dict[str, str]:
    """The tags by which the UI says who made a run, and from which file."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # as in a container, whose users have no names
        user = "unknown"
    return {names.USER: user} | (
        {names.SOURCE: source, names.SOURCE_TYPE: "LOCAL"} if source else {}
    )


def _find_or_make(client: MlflowClient, experiment: str, name: str) -> str:
    """The id of the newest run of that name in an experiment, or of a new one."""
    name = name.replace("'", "")  # a filter has no way to quote it
    runs = client.search_runs([experiment], f"attributes.run_name = '{name}'", max_results=1)
    tags = {names.GROUP: "yes"} | liveness.own_tags()
    run = runs[0] if runs else client.create_run(experiment, run_name=name, tags=tags)
    return str(run.info.run_id)


class ExportError(ExpectedError):
    """A network cannot be exported."""


@dataclass(frozen=True)
class RunWriter:
    """Writes to one run, which is under way.

    To write the same again changes nothing, so that a resumed run may begin anew. A name that is
    not in `names` raises ValueError: that is a mistake of the caller's code. ExpectedError is
    raised when the store cannot be written to.
    """

    run_id: str
    experiment_id: str
    start_time: int
    """In milliseconds since 1970."""

    @property
    def client(self) -> MlflowClient:
        return make_client(tracking_uri())

    @readable_errors()
    def end(self, status: str) -> bool:
        """End the run, unless it is finished; returns whether it did. A run whose end was entered
        is finished, also when the answer of the store is lost."""
        run = self.client.get_run(self.run_id)
        if run.info.status == "FINISHED":
            return False
        # A run that is silent for long, as on a laptop that sleeps, is taken for lost, and goes on.
        if status == "FINISHED" and names.FAILURE in run.data.tags:
            self.client.delete_tag(self.run_id, names.FAILURE)
        end = max(round(1000 * time.time()), self.start_time)  # the clock may have been set back
        with interrupts.answered():  # a run that is finished is not interrupted any more
            self.client.set_terminated(self.run_id, status, end)
        return True

    @readable_errors()
    def log_parameters(self, parameters: Mapping[str, object]) -> None:
        """Settle what decides the result; a parameter keeps the value that it was given first."""
        names.require("parameter", parameters)
        params = [Param(key, str(value)) for key, value in parameters.items()]
        self.client.log_batch(self.run_id, params=params, synchronous=True)

    @readable_errors()
    def log_metrics(
        self, metrics: Mapping[str, float], step: int = 0, time: float | None = None
    ) -> None:
        """Enter a point of each metric, at `time` (seconds since 1970; by default the start of the
        run). The store takes two points of the same step, value and time for one."""
        names.require("metric", metrics)
        timestamp = self.start_time if time is None else round(1000 * time)
        points = [Metric(key, float(value), timestamp, step) for key, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=points, synchronous=True)

    @readable_errors()
    def set_tags(self, tags: Mapping[str, str]) -> None:
        names.require("tag", tags)
        self.client.log_batch(
            self.run_id, tags=[RunTag(*tag) for tag in tags.items()], synchronous=True
        )

    @readable_errors()
    def describe(self, markdown: str) -> None:
        """The description that the UI shows above the run."""
        self.client.set_tag(self.run_id, names.DESCRIPTION, markdown, synchronous=True)

    @readable_errors()
    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Keep a table of `names.Table` as JSON, which the UI shows as a table, and as CSV."""
        # As mlflow.log_table does, which however appends to a table that the run has already.
        files = names.Table(name)
        # What is missing is blank, where the UI would show "null".
        objects = table.astype(object).where(table.notna(), "")
        client = self.client
        client.log_text(self.run_id, objects.to_json(orient="split", index=False), files.json)
        shown = client.get_run(self.run_id).data.tags.get(names.TABLES_SHOWN, "[]")
        shown = mlflow_internals.with_table(shown, files.json)
        client.set_tag(self.run_id, names.TABLES_SHOWN, shown, synchronous=True)
        client.log_text(self.run_id, table.to_csv(index=False), files.csv)

    @readable_errors()
    def log_text(self, text: str, file: str) -> None:
        """Keep a text under one of the paths of `names.TextFile`."""
        names.require("text", [file])
        self.client.log_text(self.run_id, text, file)

    @readable_errors()
    def log_figure(self, figure: Figure, name: str) -> None:
        """Keep a figure of `names.Figure` as a PNG."""
        file = names.Figure(name).file
        # Half of the time of a figure is to compress it.
        kept = {"dpi": 110, "pil_kwargs": {"compress_level": 1}}
        self.client.log_figure(self.run_id, figure, file, save_kwargs=kept)

    @readable_errors()
    def log_image(self, pixels: np.ndarray, name: str) -> None:
        """Keep an image of `names.Image`, grey values of uint8 (height, width), as a PNG."""
        self.client.log_image(self.run_id, pixels, names.Image(name).file)

    @readable_errors()
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
        """Say which digits the run used: uint8 `images` (N, 1, 28, 28), `labels` (N,), and the
        SHA-256 of both. `context` is one of `names.DataSet`, `source` an address."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # two readers fit the source; either does
            dataset = from_numpy(
                images, targets=labels, name=name,
                # Enough to tell them apart in a table; the run's tags hold the whole sums.
                digest=digest[:8], source=source,
            )  # fmt: skip
        tag = InputTag(MLFLOW_DATASET_CONTEXT, names.DataSet(context))
        inputs = [DatasetInput(Dataset(**dataset.to_dict()), [tag])]
        try:
            self.client.log_inputs(self.run_id, inputs)
        except MlflowException:
            # Of two runs that enter the same digits at once, MLflow refuses one, whose second try
            # finds them entered.
            self.client.log_inputs(self.run_id, inputs)

    @readable_errors()
    def log_network(self, network: nn.Module, images: Tensor, register_as: str | None) -> None:
        """Keep the trained network, as `networks.keep` does, which raises ExportError."""
        from mnist_exp.tracking import networks  # with torch, for which no reader need wait

        networks.keep(self.client, self.run_id, network, images, register_as)


def adopt(run_ids: Iterable[str], parent: str) -> None:
    """Have the UI show the runs below the run with the id `parent`."""
    with readable_errors():
        client, _ = connect(write=True)
        for run_id in run_ids:
            client.set_tag(run_id, names.PARENT, parent)


def end_run(run_id: str, status: str, failure: str) -> None:
    """End a run whose own process is gone, saying why, if it has not ended."""
    with readable_errors():
        client, _ = connect()
        if client.get_run(run_id).info.status != "RUNNING":
            return
        client.set_tag(run_id, names.FAILURE, failure)
        client.set_terminated(run_id, status)


def keep_page(name: str, file: Path) -> tuple[str, str]:
    """Keep `file` as an artifact of the one run called `name`, in an experiment of its own, so that
    it does not stand among the trainings; returns the ids of the experiment and the run."""
    with readable_errors():
        client, _ = connect()
        experiment = experiment_id(tracking_uri(), PAGES)
        run_id = _find_or_make(client, experiment, name)
        client.log_artifact(run_id, str(file))
        client.set_terminated(run_id)
    return experiment, run_id
