"""The trained network of a run: kept once, and entered in the Model Registry."""

from __future__ import annotations

import warnings

import mlflow
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, infer_signature
from torch import Tensor, nn

from mnist_exp.common import interrupts
from mnist_exp.tracking import names
from mnist_exp.tracking.address import may_write
from mnist_exp.tracking.store import connect, readable_errors, tracking_uri
from mnist_exp.tracking.writing import ExportError

LONGEST = 5000
"""Characters of a description that MLflow's tables have room for, on PostgreSQL at least."""
_LOADING = """\
```python
import mlflow
from mnist_exp import data, tracking

tracking.open_store()
network = mlflow.pytorch.load_model("models:/{name}/latest")
_, test = data.load()
print(network(test.images[:5]).argmax(dim=1), test.labels[:5])
```

It takes uint8 images (N, 1, 28, 28), as MNIST has them, and returns a score for each of ten digits.
The Model Registry has it once a run that meets the target was trained in this store: an imported
run has no network."""


def keep(
    client: MlflowClient, run_id: str, network: nn.Module, images: Tensor, register_as: str | None
) -> None:
    """Keep a network, exported without pickle, from uint8 images (N, 1, 28, 28) to its output;
    enter it in the Model Registry when `register_as` names it.

    Raises ExportError when torch cannot trace the network, as with control flow over values.
    """
    run = client.get_run(run_id)
    network, images = network.cpu().eval(), images.cpu()
    with torch.no_grad():
        output = network(images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export about its own internals
        model_id = _kept(client, run)
        if model_id is None:
            try:
                model_id = _log(client, run, network, images, output)
            except Exception:  # of MLflow, or whatever torch raises in its midst
                interrupts.check()
                _check_export(client, run, network, images)
                raise  # torch can export it, so it was the store
    if register_as and not client.search_model_versions(f"run_id = '{run_id}'"):
        mlflow.register_model(f"models:/{model_id}", register_as)


def kept_network(run_id: str) -> nn.Module | None:
    """The network that a run has kept, which takes uint8 images (N, 1, 28, 28); None without one.

    Raises ExpectedError when the store does not give it.
    """
    with readable_errors():
        client, _ = connect()
        run = client.get_run(run_id)
        for model in _models(client, run):
            if model.status == LoggedModelStatus.READY:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of torch.export about its own internals
                    network: nn.Module = mlflow.pytorch.load_model(model.model_uri)
                return network
    return None


def how_to_load(name: str) -> str:
    """How the newest network is loaded that the Model Registry has by that name, as Markdown."""
    return _LOADING.format(name=name)


def describe_registered(name: str, markdown: str) -> bool:
    """Describe the registered model of that name, in the first LONGEST characters; returns whether
    the store has one, and lets it be described."""
    if len(markdown) > LONGEST:
        markdown = f"{markdown[: LONGEST - 1]}…"
    with readable_errors():
        client, _ = connect()
        if not may_write(tracking_uri()):
            return False
        try:
            client.update_registered_model(name, description=markdown)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"):
                raise
            return False
    return True


def _log(client: MlflowClient, run: Run, network: nn.Module, images: Tensor, output: Tensor) -> str:
    """Log the network as `mlflow.pytorch.log_model` does, which however asks the surroundings for
    its run and its experiment; returns its id."""
    info = run.info
    model = client.create_logged_model(
        info.experiment_id, names.NETWORK, info.run_id, params=run.data.params
    )
    Model.log(
        None,
        mlflow.pytorch,
        run_id=info.run_id,
        model_id=model.model_id,
        pytorch_model=network,
        signature=infer_signature(images.numpy(), output.numpy()),
        input_example=images.numpy(),
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        serialization_format="pt2",
        # MLflow would load the network again and log what fails then, which nobody reads.
        validate_serving_input=False,
    )
    return str(model.model_id)


def _check_export(client: MlflowClient, run: Run, network: nn.Module, images: Tensor) -> None:
    """Raise ExportError when torch itself cannot export the network, as MLflow has it do."""
    sizes = dict.fromkeys(range(images.dim()), torch.export.Dim.AUTO)
    try:
        torch.export.export(network, (images,), dynamic_shapes=[sizes])
    except Exception as error:  # torch has no common class for what it cannot trace
        _kept(client, run)  # removes what MLflow has begun
        raise ExportError(" ".join(str(error).split())[:200]) from error


def _kept(client: MlflowClient, run: Run) -> str | None:
    """The id of the network that the run has, as before an interrupt; None if it has none. One that
    is not whole is removed."""
    for model in _models(client, run):
        if model.status == LoggedModelStatus.READY:
            return str(model.model_id)
        client.delete_logged_model(model.model_id)
    return None


def _models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    of_this_run = f"source_run_id = '{run.info.run_id}'"
    return list(client.search_logged_models([run.info.experiment_id], of_this_run))
