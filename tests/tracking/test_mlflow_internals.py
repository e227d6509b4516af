"""The parts of MLflow that it does not promise to keep, against what it promises.

When one of these fails with a new MLflow, it has changed that part.
"""

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import importlib_metadata
import mlflow
import pandas as pd
import pytest
import sqlalchemy
import torch
from handmade import OLD, make_old_store
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils import mlflow_tags, requirements_utils
from servers import mlflow_server
from torch import nn

from mnist_exp import tracking
from mnist_exp.tracking import mlflow_internals, names

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def client() -> MlflowClient:
    return tracking.open_store()[0]


def test_a_network_is_logged_without_a_scan_of_the_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scans: list[str] = []
    scan = importlib_metadata.packages_distributions
    monkeypatch.setattr(
        importlib_metadata, "packages_distributions", lambda: scans.append("scan") or scan()
    )
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))

    def log() -> None:
        with tracking.start_run("logs a network", {}, {}) as run:
            run.log_network(network, torch.zeros(2, 1, 28, 28), register_as=None)

    log()
    assert scans == []
    monkeypatch.setattr(requirements_utils, "_MODULES_TO_PACKAGES", None)  # as MLflow has it
    log()
    assert scans != []


def two_runs(client: MlflowClient) -> list[str]:
    """Runs with points that are out of order, doubled, or no numbers; their ids."""
    ids = [client.create_run("1").info.run_id for _ in range(2)]
    for run_id, values in zip(ids, ([0.5, math.nan, math.inf], [0.1]), strict=True):
        for step, value in enumerate(values):
            client.log_metric(run_id, "train/loss", value, timestamp=1000 - step, step=step)
    client.log_metric(ids[1], "train/loss", 0.2, timestamp=2000, step=0)
    client.log_metric(ids[1], "train/accuracy", 0.3, step=0)
    return ids


def promised(client: MlflowClient, ids: list[str], name: str) -> list[mlflow_internals.Point]:
    """The points, as the client gives them run by run."""
    return [
        (run_id, point.key, point.step, point.value, point.timestamp)
        for run_id in ids for point in client.get_metric_history(run_id, name)
    ]  # fmt: skip


def same(points: list[mlflow_internals.Point], others: list[mlflow_internals.Point]) -> bool:
    """Whether they are the same in whatever order; a NaN is not equal to itself."""
    return sorted(map(str, points)) == sorted(map(str, others))


def test_the_points_of_several_runs_in_a_database(client: MlflowClient) -> None:
    ids = two_runs(client)
    points = mlflow_internals.database_points(client, ids, ["train/loss", "train/accuracy"])
    times = [time for *_, time in points]
    assert times == sorted(times)
    of_losses = promised(client, ids, "train/loss")
    assert len(of_losses) == 5
    assert same(points, of_losses + promised(client, ids, "train/accuracy"))
    assert same(
        mlflow_internals.database_points(client, ids[:1], ["train/loss"]),
        promised(client, ids[:1], "train/loss"),
    )


@pytest.mark.slow
def test_the_points_of_several_runs_from_a_server(
    client: MlflowClient, store: Path, tmp_path: Path
) -> None:
    ids = two_runs(client)
    with mlflow_server(f"sqlite:///{store}/mlflow.db", tmp_path) as address:
        served = MlflowClient(address)
        points = mlflow_internals.server_points(served, ids, "train/loss")
        assert same(points, promised(client, ids, "train/loss"))
        most = mlflow_internals.RUNS_PER_REQUEST
        assert mlflow_internals.server_points(served, ids[:1] * most, "train/accuracy") == []
        with pytest.raises(MlflowException, match=f"more than {most} run_ids"):
            mlflow_internals.server_points(served, ids[:1] * (most + 1), "train/accuracy")


def test_a_transaction_on_the_database(client: MlflowClient) -> None:
    (run_id, _) = two_runs(client)
    with mlflow_internals.database(client, write=True) as session:
        session.execute(sqlalchemy.text("UPDATE runs SET name = 'renamed' WHERE run_uuid = :id"),
                        {"id": run_id})  # fmt: skip
    assert client.get_run(run_id).info.run_name == "renamed"


def test_every_address_of_an_artifact_is_known(store: Path) -> None:
    with tracking.start_run("holds all", {}, {}) as run:
        run.log_table(pd.DataFrame({"layer": ["conv1"]}), names.Table.RECEPTIVE_FIELD)
        network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
        run.log_network(network, torch.zeros(2, 1, 28, 28), register_as="model-6")
    known = {f"{a.class_.__tablename__}.{a.key}" for a in mlflow_internals.ADDRESSES}
    holding = set()
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        tables = [name for (name,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        )]  # fmt: skip
        assert set(tables) >= mlflow_internals.TABLES
        for table in tables:
            for _, column, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                found = database.execute(
                    f'SELECT count(*) FROM "{table}" WHERE "{column}" LIKE ?', [f"%{store}%"]
                )
                if found.fetchone()[0]:
                    holding.add(f"{table}.{column}")
    # The source of a registered network was an address before MLflow 3.
    assert holding == known - {"model_versions.source"}


def test_the_schema_of_a_database(store: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{store}/mlflow.db")
    schema = mlflow_internals.schema_of(engine)
    assert schema == mlflow_internals.newest_schema()
    with closing(sqlite3.connect(store / "mlflow.db")) as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [(schema,)]
    assert {schema, OLD} <= mlflow_internals.known_schemas()
    engine.dispose()


def test_a_database_without_tables_has_no_schema(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/new.db")
    assert mlflow_internals.schema_of(engine) is None
    engine.dispose()


def test_an_old_database_is_upgraded(tmp_path: Path) -> None:
    make_old_store(tmp_path / "old.db")
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/old.db")
    assert mlflow_internals.schema_of(engine) == OLD
    mlflow_internals.upgrade_schema(engine)
    assert mlflow_internals.schema_of(engine) == mlflow_internals.newest_schema()
    engine.dispose()
    (run,) = MlflowClient(f"sqlite:///{tmp_path}/old.db").search_runs(["1"])
    assert run.info.run_name == "of old"


def test_a_file_address_is_that_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "with a space, ü and 50 %"
    assert mlflow_internals.local_path(folder.as_uri()) == folder


def test_tables_are_logged_as_mlflow_logs_them(client: MlflowClient) -> None:
    table = pd.DataFrame({"r_out": [1, 3], "probability": [0.5, 0.25]})
    with tracking.start_run("ours", {}, {}) as run:
        for name in (names.Table.RECEPTIVE_FIELD, names.Table.MISCLASSIFIED):
            for _ in range(2):
                run.log_table(table, name)
    theirs = client.create_run("1").info.run_id
    for file in ("receptive_field.json", "misclassified.json"):
        client.log_table(theirs, table, file)
    tags = [client.get_run(run_id).data.tags for run_id in (run.run_id, theirs)]
    assert tags[0][names.TABLES_SHOWN] == tags[1][names.TABLES_SHOWN]
    read = client.load_table("1", "receptive_field.json", run_ids=[run.run_id])
    pd.testing.assert_frame_equal(read, table)


def test_the_tags_that_the_ui_reads(client: MlflowClient) -> None:
    assert names.DESCRIPTION == mlflow_tags.MLFLOW_RUN_NOTE
    assert names.SOURCE == mlflow_tags.MLFLOW_SOURCE_NAME
    assert names.TABLES_SHOWN == mlflow_tags.MLFLOW_LOGGED_ARTIFACTS
    parent = client.create_run("1").info.run_id
    child = client.create_run("1").info.run_id
    tracking.adopt([child], parent)
    assert mlflow.get_parent_run(child).info.run_id == parent


def test_the_ui_knows_the_words_of_a_saved_view() -> None:
    """tests/browser looks at what it makes of them."""
    built = Path(mlflow.__file__).parent / "server" / "js" / "build" / "static" / "js"
    code = "".join(file.read_text(encoding="utf-8") for file in built.glob("*.js"))
    state = mlflow_internals.view_state(
        {"params.`seed`": 90}, "model", [3], {"train": True}, {"train/accuracy": (0.98, 1)}
    )
    packed = json.loads(mlflow_internals.saved_view("iterations", state))
    assert packed.keys() == {"name", "createdAt", "updatedAt", "state"}
    words = [
        mlflow_internals.VIEW_TAG, "deflate;", "viewStateShareKey", "compareRunsMode",
        *mlflow_internals.MACHINE_LEARNING.split("="), "orderByKey", "orderByAsc",
        "selectedColumns", "columnOrder", "columnWidths", "compareRunSections", "isGenerated",
        "FIRST_20_RUNS", "groupBy", "groupByKeys", "groupByData", "aggregateFunction",
        "groupsExpanded", "compareRunCharts", "metricSectionId", "yMin", "yMax",
        *mlflow_internals.BROWSER,
    ]  # fmt: skip
    assert [word for word in words if word not in code] == []
