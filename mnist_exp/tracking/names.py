"""What a run holds, named once: each parameter, tag, metric and artifact, and what it means.

`RunWriter` refuses a name that isn't here. `<word>` in a name stands for what differs from run to
run: see PLACEHOLDERS. Accuracies are fractions, but for metrics that end in `_percent`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Literal, Self

Kind = Literal[
    "parameter", "tag", "metric", "table", "figure", "image", "text", "digits", "network"
]  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """What stands under a name: a line of text, and the unit of a number that has one."""

    text: str
    unit: str = ""


PLACEHOLDERS = {
    "argument": r"[\w.]+",
    "file": r"[\w.-]+",
    "helper": r"[\w/]+\.py",
    "measured": r"\w+",
    "metric": r"[A-Za-z]\w*",
    "model": r"\d+",
    "n": r"\d+",
    "part": "train|test|validation",
    "setting": r"[\w.-]+",
    "split": "test|validation",
}
"""What the words in a name may become, as regular expressions."""


def images(split: str) -> str:
    """The parameter that says how many images a split has."""
    return f"{split}_images"


OWNERS = {
    "loss": "class or function of the loss in training",
    "optimizer": "class of the optimizer",
    "schedule": "class of the schedule that is stepped once an epoch",
    "batch_schedule": "class of the schedule that is stepped once a batch",
    "augment": "classes or functions that augment training images",
    "preprocess": "classes or functions that preprocess all images",
    "averaging": "class of the average of the weights",
    "views": "class of the views of an evaluated image",
    "distillation": "only in older runs: class of the training by the outputs of another network",
}
"""Parts of a recipe that have arguments; a recipe without such a part says "none"."""

TOGETHER = "seeds_together"
FOLD, OLD_FOLD = "fold", "last"
"""The latter is that of runs on the validation split that name none."""
SURROUNDINGS = {
    "device": Meaning("where it was trained: `cpu`, `cuda` or `mps`"),
    "threads": Meaning("threads that torch computes with", "threads"),
    "machine": Meaning("operating system and kind of processor"),
    "processor": Meaning("name and kind of the processor"),
    "instructions": Meaning("instruction set that torch's kernels use"),
    "engine": Meaning(
        "what computed the steps: `compiled` or `torch`; missing in older runs: torch"
    ),
    "engine_sha256": Meaning(
        "of the compiled engine: SHA-256 of its source, flags, compiler and processor"
    ),
    TOGETHER: Meaning(
        "seeds that were trained as one network, each with its own draws; missing: this one alone"
    ),
    "python": Meaning("version of Python"),
    **{
        package: Meaning(f"version of {package}")
        for package in ("torch", "torchvision", "mlflow", "mnist-exp")
    },
}
"""Parameters that say on what a recipe was trained."""

PARAMETERS = {
    "model": Meaning("number of the iteration"),
    "network": Meaning("class of the network"),
    "batch_size": Meaning("training images per step", "images"),
    "epochs": Meaning("how many epochs are trained", "epochs"),
    "accumulate_batches": Meaning("how many batches make one step of the optimizer", "batches"),
    "gradient_clip_norm": Meaning("largest norm of the gradient"),
    "autocast": Meaning("dtype that training computes in where torch.autocast does"),
    "parameter_groups": Meaning("function that groups the weights for the optimizer"),
    "teacher": Meaning("iteration, or run, whose network's output enters the loss"),
    "metrics": Meaning("what is recorded of each epoch besides, by name"),
    "step": Meaning("function that says a step anew; `none` where the recipe's fields say it"),
    "step.<argument>": Meaning("each field that the iteration's own class of recipe adds"),
    "input_shape": Meaning("what the network takes: channels x height x width"),
    "learning_rate": Meaning("the optimizer's `lr`, before a schedule changes it"),
    **{
        name: Meaning(meaning)
        for owner, text in OWNERS.items()
        for name, meaning in ((owner, text), (f"{owner}.<argument>", "each argument of that class"))
    },
    "settings.<setting>": Meaning("of a script of one's own: what it says that it set"),
    "seed": Meaning("seed of weights, order, augmentation and dropout"),
    "split": Meaning("which digits are evaluated: `test` or `validation`"),
    FOLD: Meaning(
        "on the validation split: which training digits are held out: `1` to `6`, a fold of whole "
        "writers, or `last`, the last 10,000; missing in older runs: last"
    ),
    images("<split>"): Meaning("how many digits are evaluated", "images"),
    "parameters": Meaning("trainable parameters of the network", "numbers"),
    "receptive_field": Meaning(
        "what one output of the network sees: `28`, or `28x30` (height, width) where they differ; "
        "`12 + global` where numbers come in besides that are the same for all outputs; or "
        "`unknown`, and why", "pixels",
    ),
    **SURROUNDINGS,
}  # fmt: skip


PROCESS, HEARTBEAT, FAILURE = "process", "heartbeat", "failure"
STUDY, TRIAL, SETTINGS, PRUNED = "study", "trial", "trial_settings", "pruned"
THROUGH_TORCH = "engine.through_torch"
GROUP, IMPORTED, TRACKED = "group", "imported_from", "tracked"
DESCRIPTION, SOURCE, PARENT = "mlflow.note.content", "mlflow.source.name", "mlflow.parentRunId"
USER, SOURCE_TYPE, COMMIT = "mlflow.user", "mlflow.source.type", "mlflow.source.git.commit"
TABLES_SHOWN = "mlflow.loggedArtifacts"

TAGS = {
    "idea": Meaning("title of the iteration"),
    TRACKED: Meaning("of a script of one's own: what it calls its idea, which is no iteration"),
    "overrides": Meaning("what differs from the recipe, as in `epochs=2`; `none` if nothing does"),
    "code_sha256": Meaning("SHA-256 of the iteration's code, without comments and layout"),
    "training_sha256": Meaning("SHA-256 of the package's code that takes part in a training"),
    "sha256.<file>": Meaning("SHA-256 of a file of MNIST that was read"),
    "git_commit": Meaning("commit of the checkout, or `unknown`"),
    "git_dirty": Meaning("whether something was not committed: `true`, `false` or `unknown`"),
    "resumes": Meaning(
        "`exactly`, where a resumed run has the numbers of an uninterrupted one; else why not"
    ),
    "cautions": Meaning("what else makes the numbers of the run less certain; mostly missing"),
    "train_accuracy_of": Meaning("which digits the train accuracy is of"),
    THROUGH_TORCH: Meaning("layers and functions that the compiled engine leaves to torch"),
    "teacher_run": Meaning("the run that kept the network of `teacher`"),
    "teacher_sha256": Meaning("SHA-256 of that network's weights"),
    "resumed": Meaning("after which epoch the run was resumed last"),
    "verdict": Meaning("`target met` or `target not met`; only on the test split"),
    "verdict_reason": Meaning("which conditions of the target are not met, and by what"),
    FAILURE: Meaning("why the run failed or was lost"),
    STUDY: Meaning("of a trial: id of the run that holds its study"),
    TRIAL: Meaning("of a trial: its number in the study, from 1"),
    SETTINGS: Meaning("of a trial: what the study chose, also where the recipe has it anyway"),
    PRUNED: Meaning("of a trial that its study ended early: after which epoch"),
    PROCESS: Meaning(
        "the process that writes to the run: host, id, and start, as no clock moves it"
    ),
    HEARTBEAT: Meaning("when that process last said that it is there", "s since 1970"),
    IMPORTED: Meaning("id of the original of an imported run"),
    GROUP: Meaning("`yes` for a run that is no training, but holds what belongs to several"),
    "model-<model>.verdict": Meaning("of a sweep: the verdict on an iteration, over its seeds"),
    DESCRIPTION: Meaning("the description that the UI shows, Markdown"),
    SOURCE: Meaning("the file of the iteration"),
    SOURCE_TYPE: Meaning("`LOCAL`: that it is a file"),
    COMMIT: Meaning("`git_commit`, where the UI looks for it"),
    USER: Meaning("who made the run, as the system calls them"),
    PARENT: Meaning("id of the sweep or study below which the UI shows the run"),
    TABLES_SHOWN: Meaning("which artifacts the UI shows as tables, JSON"),
}


def accuracy(part: str) -> str:
    """The metric of each epoch: the accuracy on a part of the digits."""
    return f"{part}/accuracy"


def loss(part: str) -> str:
    """The metric of each epoch: the loss on a part of the digits."""
    return f"{part}/loss"


def errors(split: str) -> str:
    """The metric of each epoch: how many digits of a split are misclassified."""
    return f"{split}/errors"


def best(split: str) -> str:
    """The summary of a run: the highest accuracy of an epoch."""
    return f"best_{split}_accuracy_percent"


def final(split: str) -> str:
    """The summary of a run: the accuracy after the last epoch."""
    return f"final_{split}_accuracy_percent"


def worst_of_last(n: int | str, split: str) -> str:
    """The summary of a run: the lowest accuracy of its last `n` epochs."""
    return f"worst_of_last_{n}_{split}_accuracy_percent"


def metric(split: str, name: str) -> str:
    """The metric of each epoch that a recipe calls `name`."""
    return f"{split}/{name}"


def system(measured: str) -> str:
    """The metric of what the machine does, by MLflow's name for it."""
    return f"system/{measured}"


LEARNING_RATE, EPOCH_SECONDS = "learning_rate", "epoch_seconds"

_EACH_EPOCH = {
    accuracy("<part>"): Meaning("per epoch: share of digits classified rightly", "fraction"),
    loss("<part>"): Meaning(
        "per epoch: mean cross-entropy; in training, the mean of the recipe's loss", "nats"
    ),
    errors("<split>"): Meaning("per epoch: digits that are misclassified", "digits"),
    LEARNING_RATE: Meaning("per epoch: the learning rate with which it begins"),
    EPOCH_SECONDS: Meaning("per epoch: how long it took, with its evaluation", "s"),
}

METRICS = _EACH_EPOCH | {
    metric("<split>", "<metric>"): Meaning("per epoch: what the recipe's `metrics` names"),
    best("<split>"): Meaning("highest accuracy of an epoch", "percent"),
    final("<split>"): Meaning("accuracy after the last epoch", "percent"),
    worst_of_last("<n>", "<split>"): Meaning(
        "lowest accuracy of the last epochs that the target looks at", "percent"
    ),
    system("<measured>"): Meaning(
        "every ten seconds: what the machine does, as MLflow names and measures it"
    ),
    "model": Meaning("number of the iteration, by which the UI sorts"),
    "parameters": Meaning("trainable parameters of the network", "numbers"),
    "model-<model>/seeds": Meaning("of a sweep: seeds of an iteration", "seeds"),
    "model-<model>/passing_seeds": Meaning("of a sweep: seeds that meet the target", "seeds"),
    "model-<model>/final_accuracy_mean_percent": Meaning(
        "of a sweep: mean over the seeds of the accuracy after the last epoch", "percent"
    ),
    "model-<model>/final_accuracy_std_percent": Meaning(
        "of a sweep: its standard deviation", "percentage points"
    ),
    "model-<model>/worst_of_last_epochs_percent": Meaning(
        "of a sweep: lowest accuracy of the last epochs over the seeds", "percent"
    ),
}  # fmt: skip


def _filled(word: str) -> list[str]:
    """The names of each epoch with `<word>` in them, once with each text that it stands for."""
    names = [name for name in _EACH_EPOCH if f"<{word}>" in name]
    texts = PLACEHOLDERS[word].split("|")
    return [name.replace(f"<{word}>", text) for text in texts for name in names]


EPOCH_METRICS = (
    *_filled("part"), *_filled("split"), *(name for name in _EACH_EPOCH if "<" not in name),
)  # fmt: skip
"""What a run records each epoch, on whichever split."""


class _Artifact(StrEnum):
    """Names that say what they mean."""

    meaning: str

    def __new__(cls, name: str, meaning: str = "") -> Self:
        member = str.__new__(cls, name)
        member._value_, member.meaning = name, meaning
        return member


class Table(_Artifact):
    """Tables, kept as CSV and as JSON."""

    RECEPTIVE_FIELD = (
        "receptive_field",
        "how much of the input each layer sees, in pixels, as far as it is known",
    )
    CONFUSION_MATRIX = "confusion_matrix", "how often each digit was taken for which, at the end"
    MISCLASSIFIED = (
        "misclassified",
        "digits misclassified at the end: index (from 0), truth, guess, and its probability",
    )

    @property
    def csv(self) -> str:
        return f"{self}.csv"

    @property
    def json(self) -> str:
        """The file that the UI shows as a table."""
        return f"{self}.json"


class Figure(_Artifact):
    """Figures, to look at."""

    DIGITS = "digits", "training digits as the network sees them"
    RECEPTIVE_FIELD = "receptive_field", "how much of the input each layer sees"
    CURVES = "curves", "accuracy and loss per epoch"
    CONFUSION_MATRIX = "confusion_matrix", "the table of that name"

    @property
    def file(self) -> str:
        return f"figures/{self}.png"


class Image(_Artifact):
    """Grey values, to be read again."""

    MISCLASSIFIED = "misclassified", "digits misclassified at the end, ten in a row; 28 pixels each"

    @property
    def file(self) -> str:
        return f"{self}.png"


class TextFile(_Artifact):
    """Texts, by their files."""

    LAYERS = "layers.txt", "the network's layers, with shapes and parameters"
    SOURCE = "source/model_<model>.py", "the file of the iteration, as it was run"
    SCRIPT = (
        "source/script.py",
        "the script of one's own that tracked the run, or the cells of its notebook, if known",
    )
    HELPER = "source/<helper>", "a file of `experiments/` that the iteration imports, as it was run"
    UNCOMMITTED = (
        "source/uncommitted.diff",
        "what the checkout had uncommitted, new files as well, for `git apply`",
    )


def source_file(model: int) -> str:
    """The text that holds the source of an iteration."""
    return TextFile.SOURCE.replace("<model>", f"{model}")


def helper_file(name: str) -> str:
    """The text that holds the source of a helper; `name` is its path in `experiments/`."""
    return TextFile.HELPER.replace("<helper>", name)


class DataSet(_Artifact):
    """Data sets, by what they were for."""

    TRAINING = "training", "the digits that were trained on: how many, and their checksum"
    EVALUATION = "evaluation", "the digits that were evaluated: how many, and their checksum"


NETWORK = "network"


def _meanings(artifacts: type[_Artifact]) -> dict[str, Meaning]:
    return {artifact.value: Meaning(artifact.meaning) for artifact in artifacts}


REGISTER: Mapping[Kind, Mapping[str, Meaning]] = {
    "parameter": PARAMETERS,
    "tag": TAGS,
    "metric": METRICS,
    "table": _meanings(Table),
    "figure": _meanings(Figure),
    "image": _meanings(Image),
    "text": _meanings(TextFile),
    "digits": _meanings(DataSet),
    "network": {NETWORK: Meaning("the trained network, exported, as a model of the run")},
}
"""All of it, by kind."""


@cache
def entry(kind: Kind, name: str) -> str:
    """The name under which the register has `name`, which may fill in what stands in `<...>`.

    Raises ValueError where it has none: what a run holds is to be named here first.
    """
    for entered in REGISTER[kind]:
        pattern = re.sub(r"<(\w+)>", lambda word: f"({PLACEHOLDERS[word[1]]})", re.escape(entered))
        if re.fullmatch(pattern, name):
            return entered
    raise ValueError(f"{name!r} is no {kind} of a run: enter it in mnist_exp/tracking/names.py")


def require(kind: Kind, names: Iterable[str]) -> None:
    """Raise ValueError where the register lacks one of the names."""
    for name in names:
        entry(kind, name)


def is_parameter(name: str) -> bool:
    """Whether the register has a parameter of that name."""
    try:
        return bool(entry("parameter", name))
    except ValueError:
        return False


def column_name(name: str) -> str:
    """The column of `tracking.runs` and `tracking.history` that holds what is called `name`."""
    return name.replace("/", "_")


RUN_COLUMNS = (
    "run_id", "experiment_id", "run_name", "status", "start_time", "end_time", "model", "idea",
    "seed", "split", FOLD, "overrides", "parameters", "test_images", "receptive_field",
    "code_sha256", "git_commit", "git_dirty", "resumes", "resumed", "machine", "threads", "engine",
    "python", "torch", "mlflow", "imported_from", "parent", "tracked",
)  # fmt: skip
"""The columns that `tracking.runs` has whatever the store holds."""


def register_table() -> str:
    """The register as a table, which docs/names.md shows."""
    rows = [
        f"| {kind} | `{name}` | {meaning.text} | {meaning.unit} |"
        for kind, names in REGISTER.items()
        for name, meaning in names.items()
    ]
    return "\n".join(["| kind | name | meaning | unit |", "|---|---|---|---|", *rows])
