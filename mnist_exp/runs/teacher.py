"""The network that a recipe's `teacher` names: one that a run in the store has kept."""

import hashlib
from dataclasses import dataclass

import pandas as pd
from torch import Tensor, nn

from mnist_exp import tracking
from mnist_exp.common.errors import ExpectedError
from mnist_exp.common.sameness import bytes_of
from mnist_exp.data import Fold, Split
from mnist_exp.data.splits import split_as_set
from mnist_exp.evidence.scores import on_fold
from mnist_exp.notebook import entries


@dataclass(frozen=True)
class Teacher:
    """A trained network, which takes uint8 images (N, 1, 28, 28) and gives float32 (N, 10), and the
    run that kept it."""

    run_id: str
    network: nn.Module

    @property
    def sha256(self) -> str:
        """SHA-256 of the names and numbers of its weights, hexadecimal."""
        weights = self.network.state_dict()
        digest = hashlib.sha256()
        for name in sorted(weights):
            value = weights[name]
            digest.update(name.encode() + (bytes_of(value) if isinstance(value, Tensor) else b""))
        return digest.hexdigest()


def find_teacher(wanted: int | str | None, split: Split, fold: Fold | None) -> Teacher | None:
    """The network of an iteration, or of the run with that id; None where none is wanted.

    Of an iteration it is that of the newest run that met the target; otherwise, and on the
    validation split, of the newest that is finished, on the same split and fold and with the code
    that its file has now. Raises ExpectedError where there is none, and for a network that was
    trained on the digits that are evaluated.
    """
    if wanted is None:
        return None
    if isinstance(wanted, str):
        runs = tracking.find_run(wanted)
        run = runs.iloc[0]
        if pd.notna(run["tracked"]):
            raise ExpectedError(
                f"teacher={wanted}: a script tracked that run, and what images its network takes "
                "is not known: the run of an iteration is needed"
            )
        if split == "validation" and (run["split"], run["fold"]) != (split, fold):
            raise ExpectedError(
                f"teacher={wanted} was trained on the validation digits, too, which are evaluated "
                f"here: a run with{split_as_set(split, fold)} was not"
            )
    else:
        runs = _runs_of(wanted, split, fold)
    from mnist_exp.tracking import networks  # with MLflow's part for torch, which takes seconds

    for run_id in reversed(runs["run_id"].tolist()):
        network = networks.kept_network(run_id)
        if network is not None:
            return Teacher(run_id, network)
    if isinstance(wanted, str):
        raise ExpectedError(f"teacher={wanted}: the run has kept no network")
    raise ExpectedError(
        f"teacher={wanted}: the store has no network of model {wanted} that was trained on this "
        f"split with the code of its file: make run MODEL={wanted}{split_as_set(split, fold)}"
    )


def _runs_of(number: int, split: Split, fold: Fold | None) -> pd.DataFrame:
    """The runs that may have the network of an iteration, the one to take last."""
    entry = entries.read_entry(number)
    runs = tracking.runs()
    whole = (runs["status"] == "FINISHED") & runs["overrides"].isna()
    whole &= on_fold(runs, split, fold)
    runs = runs[whole & (runs["model"] == number) & (runs["code_sha256"] == entry.code_sha256)]
    met = runs.reindex(columns=["verdict"])["verdict"].eq("target met")
    return pd.concat([runs[~met], runs[met]])
