"""Variables of the environment that were set for something else change nothing of what is kept."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient, environment_variables

from mnist_exp import ROOT, tracking
from mnist_exp.commands.cli import main
from mnist_exp.tracking import variables

DECLARED = {
    variable.name: variable
    for variable in vars(environment_variables).values()
    if isinstance(variable, environment_variables._EnvironmentVariable)
}
"""What the installed MLflow says that it reads."""


def quoted() -> set[str]:
    """What its code reads beside that."""
    code = "".join(
        file.read_text(encoding="utf-8", errors="replace")
        for file in Path(mlflow.__file__).parent.rglob("*.py")
    )
    return set(re.findall(r"[\"'](_?MLFLOW_[A-Z0-9_]+)[\"']", code))


def test_it_is_settled_what_becomes_of_each_variable_of_mlflow() -> None:
    every = DECLARED.keys() | quoted()
    assert len(every) > 300
    assert {name for name in every if not variables.kind(name)} == set()
    assert {variables.kind(name) for name in ("HOME", "http_proxy", "SLURM_JOB_ID")} == {""}
    # Those by which others were seen to go wrong.
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        assert variables.kind(name) == "which run, experiment or network is written to"
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_S3_ENDPOINT_URL", "MLFLOW_TRACKING_TOKEN"):
        assert variables.kind(name) == "kept"


def test_no_pattern_is_of_a_variable_that_is_no_more() -> None:
    """A pattern that matches nothing is misspelt, or of an MLflow that is not installed."""
    every = DECLARED.keys() | quoted() | {"UVICORN_HOST", "GUNICORN_CMD_ARGS"}
    for patterns in (variables.SET, variables.REFUSED, variables.KEPT, *variables.ASIDE.values()):
        for pattern in patterns:
            matching = re.compile(pattern.replace("*", ".*"))
            assert any(matching.fullmatch(name) for name in every), pattern


WRITING = """
import json, sys
import numpy as np, pandas as pd, torch
from torch import nn
assert "mlflow" not in sys.modules
from mnist_exp import tracking
from mlflow import environment_variables as known
with tracking.start_run("one", {"seed": 1}, {"idea": "x" * 6000}) as run:
    run.log_metrics({"train/loss": 0.5}, step=1, time=1790000000.5)
    run.log_table(pd.DataFrame({"a": [1]}), "receptive_field")
    run.log_image(np.zeros((28, 280), np.uint8), "misclassified")
    network = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    run.log_network(network, torch.zeros(2, 1, 28, 28), register_as="model-6")
print(json.dumps([run.run_id, known.MLFLOW_DISABLE_TELEMETRY.get(),
    known.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), known.MLFLOW_HTTP_REQUEST_TIMEOUT.get()]))
"""


def test_a_run_is_one_of_its_own_whatever_the_surroundings_name(
    store: Path, tmp_path: Path
) -> None:
    client, experiment = tracking.open_store()
    with tracking.start_run("finished before", {"seed": 7}, {}) as before:
        before.log_metrics({"train/loss": 0.25}, step=1)
    was = client.get_run(before.run_id).to_dictionary()
    other = client.create_experiment("another")
    foreign = {
        "MLFLOW_RUN_ID": before.run_id, "MLFLOW_EXPERIMENT_ID": other,
        "MLFLOW_EXPERIMENT_NAME": "a third", "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
        "MLFLOW_ACTIVE_MODEL_ID": "m-1", "_MLFLOW_ACTIVE_MODEL_ID": "m-1",
        "MLFLOW_RUN_CONTEXT": json.dumps({"idea": "foreign", "surprise": "yes"}),
        "MLFLOW_REGISTRY_URI": f"sqlite:///{tmp_path}/registry.db",
        "MLFLOW_TRUNCATE_LONG_VALUES": "false", "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
        "MLFLOW_ARTIFACTS_DESTINATION": f"{tmp_path}/elsewhere", "MLFLOW_OF_TOMORROW": "x",
        "MLFLOW_DFS_TMP": "/nowhere", "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
        "GIT_DIR": f"{tmp_path}/.git", "MLFLOW_HTTP_REQUEST_TIMEOUT": "7",
        "MLFLOW_GENAI_EVAL_MAX_WORKERS": "3",
    }  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k not in variables.DEFAULTS}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WRITING], cwd=ROOT, check=True, text=True,
        env=environment | foreign, capture_output=True,
    )  # fmt: skip
    run_id, quiet, retries, timeout = json.loads(done.stdout)
    assert (quiet, retries, timeout) == (True, 1, 7)  # the last is the user's own
    told = [line for line in done.stderr.splitlines() if "MLFLOW_RUN_ID" in line]
    assert len(told) == 1
    assert "MLFLOW_OF_TOMORROW" in told[0]
    assert "GENAI" not in done.stderr
    assert "TIMEOUT" not in done.stderr

    assert client.get_run(before.run_id).to_dictionary() == was
    run = client.get_run(run_id)
    assert (run.info.experiment_id, run.info.status) == (experiment, "FINISHED")
    assert run.data.params == {"seed": "1"}
    assert run.data.metrics == {"train/loss": 0.5}
    assert run.data.tags.keys() == {
        "idea", "process", "heartbeat", "mlflow.user", "mlflow.runName", "mlflow.loggedArtifacts",
    }  # fmt: skip
    assert run.data.tags["idea"] == "x" * 6000
    (network,) = client.search_logged_models([experiment])
    assert network.source_run_id == run_id
    assert network.params == {"seed": "1"}
    assert network.tags.keys() == {"mlflow.modelVersions"}
    assert run.outputs.model_outputs[0].model_id == network.model_id
    (version,) = MlflowClient(registry_uri=f"sqlite:///{store}/mlflow.db").search_model_versions()
    assert (version.name, version.run_id) == ("model-6", run_id)
    assert client.search_runs([other]) == []
    assert list(tmp_path.iterdir()) == [store]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon", "a number"),
        ("MLFLOW_TRACKING_INSECURE_TLS", "maybe", "true or false"),
    ],
)
def test_a_value_that_mlflow_cannot_read_is_one_line(
    name: str, value: str, needed: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv(name, value)
    assert main(["runs"]) == 2
    assert capsys.readouterr().err == f"mnist-exp: {name}={value}: {needed} is needed\n"


@pytest.mark.usefixtures("store")
def test_a_workspace_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_WORKSPACE", "team")
    for command in (["compare"], ["run", "MODEL=6"], ["backup"], ["ui"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert said.startswith("mnist-exp: MLFLOW_WORKSPACE is set: ")
        assert said.count("\n") == 1
