"""One run from end to end: an iteration is trained, and the tracking store holds what happened.

Here training and tracking meet; neither knows the other.
"""

import dataclasses
import logging
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
import torchinfo
from torch import nn
from torchvision.utils import make_grid

from mnist_exp import (
    ROOT,
    ExpectedError,
    data,
    figures,
    recipe,
    report,
    tracking,
    training,
    ui,
    verdict,
)
from mnist_exp.receptive_field import (
    ReceptiveFieldError,
    output_field,
    receptive_field_table,
)
from mnist_exp.recipe import PIXELS, Iteration, Recipe, Target, where
from mnist_exp.training import EpochResult, Progress, Training
from mnist_exp.verdict import Verdict, percent

log = logging.getLogger(__name__)

SHEET = 32
"""Training digits on the sheet that shows what the network sees."""


@dataclass(frozen=True)
class Plan:
    """All that is settled before a run begins, so that a wrong request leaves no run behind."""

    iteration: Iteration
    target: Target
    recipe: Recipe
    overrides: str
    seed: int
    split: data.Split
    device: torch.device
    parameters: int
    receptive_field: str
    table: pd.DataFrame | None
    """The receptive-field table; None where the network cannot be followed, and `receptive_field`
    says why."""

    @property
    def name(self) -> str:
        """The run's name in the store."""
        return f"{self.iteration.name} · seed {self.seed}"

    def settings(self) -> dict[str, object]:
        """What decides the result, as the parameters of the run."""
        return {
            "model": self.iteration.number,
            **self.recipe.hyperparameters(),
            "seed": self.seed,
            "split": self.split,
            "parameters": self.parameters,
            "receptive_field": self.receptive_field,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "machine": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "torchvision", "mlflow", "mnist-exp")},
        }


def plan(
    number: int, *, seed: int = 1, epochs: int | None = None, device: str = "auto",
    split: data.Split = "test",
) -> Plan:  # fmt: skip
    """Settle a run of iteration `number`; `epochs` overrides its recipe.

    Raises ExpectedError for anything that cannot be run.
    """
    data.check_split(split)
    iteration = recipe.load(number)
    changed: dict[str, Any] = (
        {} if epochs in (None, iteration.recipe.epochs) else {"epochs": epochs}
    )
    network = _try_out(iteration)
    try:
        table = receptive_field_table(network, PIXELS)
        height, width = (axis.size for axis in output_field(network, PIXELS))
        receptive_field = f"{height}" if height == width else f"{height}x{width}"
    except ReceptiveFieldError as error:
        table, receptive_field = None, f"unknown: {error}"
    return Plan(
        iteration=iteration,
        target=recipe.load_target(),
        recipe=dataclasses.replace(iteration.recipe, **changed),
        overrides=", ".join(f"{key}={value}" for key, value in changed.items()) or "none",
        seed=seed,
        split=split,
        device=training.choose_device(device),
        parameters=recipe.count_parameters(network),
        receptive_field=receptive_field,
        table=table,
    )


def _try_out(iteration: Iteration) -> nn.Module:
    """The network, once its recipe has been put together: mistakes are found before the run."""
    recipe = iteration.recipe
    try:
        network = recipe.network()
        optimizer = recipe.optimizer(network.parameters())
        if recipe.schedule:
            recipe.schedule(optimizer)
        images = torch.zeros(2, *PIXELS, dtype=torch.uint8)
        pixels = training.network_input(recipe, images, torch.Generator())
        shape = tuple(network.eval()(pixels).shape)
    except Exception as error:
        raise ExpectedError(where(error, iteration.path)) from error
    if shape != (2, 10):
        raise ExpectedError(
            f"{iteration.file}: for 2 images the network gives {shape}, not (2, 10)"
        )
    return network


@dataclass(frozen=True)
class Outcome:
    """A run that has ended: its id, where a UI shows it, the accuracy after the last epoch (a
    fraction) and the verdict (None on the validation split, which the target says nothing about).
    """

    run_id: str
    address: str
    accuracy: float
    verdict: Verdict | None


def carry_out(
    plan: Plan,
    *,
    on_batch: Callable[[Progress], None],
    on_epoch: Callable[[EpochResult], None],
    on_start: Callable[[str], None] = lambda _: None,
    parent: str = "",
) -> Outcome:
    """Train as planned and record the run, as a child of the run `parent` if there is one.

    `on_start` hears the run's id, `on_batch` and `on_epoch` how it goes.
    """
    train, held_out = data.load(plan.split)
    tracking.open_store()
    job = Training(plan.recipe, train, held_out, seed=plan.seed, device=plan.device)
    tags, uncommitted = _provenance()
    tags |= {"code_sha256": plan.iteration.code_sha256, "overrides": plan.overrides}
    tags |= {f"sha256.{name}": value for name, value in data.SHA256.items()}
    settings = plan.settings() | {f"{plan.split}_images": len(held_out)}
    source = plan.iteration.file
    with tracking.start_run(plan.name, settings, tags, source=source, parent=parent) as run:
        on_start(run.run_id)
        _record_beginning(run, plan, train, held_out, uncommitted)
        for result in job.epochs(on_batch):
            run.log_metrics(_metrics(result, plan.split), step=result.epoch)
            on_epoch(result)
        judged = _record_end(run, plan, job)
    address = ui.run_address(run.experiment_id, run.run_id)
    return Outcome(run.run_id, address, result.evaluation.accuracy, judged)


def _record_beginning(
    run: tracking.RunWriter, plan: Plan, train: data.Digits, held_out: data.Digits, uncommitted: str
) -> None:
    iteration = plan.iteration
    run.describe(report.run_description(iteration, "In training."))
    run.log_metrics({"parameters": plan.parameters, "model": iteration.number})
    run.log_text(iteration.source, f"source/{iteration.path.name}")
    if uncommitted:
        run.log_text(uncommitted, "source/uncommitted.diff")
    if plan.table is not None:
        run.log_table(plan.table, "receptive_field")
    run.log_text(_layers(plan.recipe), "layers.txt")
    for digits, context in ((train, "training"), (held_out, "evaluation")):
        name = f"MNIST, {len(digits):,} digits"
        run.log_dataset(
            digits.images.cpu().numpy(), digits.labels.cpu().numpy(), name=name, context=context,
            digest=digits.sha256(), source=data.ORIGIN,
        )  # fmt: skip
    some = train[:SHEET]
    seen = training.network_input(
        plan.recipe, some.images, torch.Generator().manual_seed(plan.seed)
    )
    title = "Training digits as the network sees them"
    run.log_figure(figures.digit_sheet(seen[:, 0].numpy(), some.labels.numpy(), title), "digits")


def _record_end(run: tracking.RunWriter, plan: Plan, job: Training) -> Verdict | None:
    split, target = plan.split, plan.target
    history = tracking.history([run.run_id])
    accuracy = history[f"{split}_accuracy"]
    summary = {
        f"best_{split}_accuracy_percent": accuracy.max(),
        f"final_{split}_accuracy_percent": accuracy.iloc[-1],
    }
    if len(accuracy) >= target.last_epochs:
        key = f"worst_of_last_{target.last_epochs}_{split}_accuracy_percent"
        summary[key] = accuracy.tail(target.last_epochs).min()
    run.log_metrics({key: round(100 * value, 4) for key, value in summary.items()})

    _record_mistakes(run, plan, job)
    run.log_figure(figures.curves(history, split, target), "curves")

    outcome = None
    result = f"Final {split} accuracy {percent(accuracy.iloc[-1])}."
    details = ""
    if split == "test":
        own = {"run_id": run.run_id, "parameters": plan.parameters}
        kept = pd.DataFrame([own | {"test_images": len(job.evaluation)}])
        outcome = verdict.judge(kept.join(verdict.scores(kept, history, target)).iloc[0], target)
        result = f"{str(outcome).capitalize()}. {result}"
        details = report.verdict_table(outcome)
    if plan.table is not None:
        table = ui.run_path(run.experiment_id, run.run_id, "receptive_field.json")
        result += f" Receptive field {plan.receptive_field} ([table]({table}))."
    if plan.overrides != "none":
        result += f" Overridden: {plan.overrides}."

    meets_target = outcome is not None and outcome.met and plan.overrides == "none"
    register = plan.iteration.name if meets_target else None
    classifier = training.Classifier(job.network)
    try:
        run.log_network(classifier, job.evaluation.images[:2], register_as=register)
    except tracking.ExportError as error:
        log.warning("the network is not kept: %s", error)
        result += f" The network could not be exported: {report.escape_markdown(str(error))}"
    if outcome:
        run.set_tags({"verdict": str(outcome)} | outcome.reasons)
    run.describe(report.run_description(plan.iteration, result, details))
    return outcome


def _record_mistakes(run: tracking.RunWriter, plan: Plan, job: Training) -> None:
    """What the trained network takes for which, and each digit that it gets wrong."""
    digits = job.evaluation.to(torch.device("cpu"))
    output = training.predict(job.network, job.evaluation.images).cpu()
    truth, guess = digits.labels, output.argmax(dim=1)
    counts = pd.crosstab(pd.Series(truth, name="truth"), pd.Series(guess, name="guess"))
    counts = counts.reindex(index=range(10), columns=range(10), fill_value=0)
    run.log_table(counts.rename(columns=str).reset_index(), "confusion_matrix")

    wrong = (truth != guess).nonzero()[:, 0]
    probability = output.softmax(dim=1).gather(1, guess[:, None])[:, 0]
    mistakes = {"index": wrong, "truth": truth[wrong], "guess": guess[wrong]}
    mistakes["probability"] = probability[wrong]
    run.log_table(pd.DataFrame(mistakes), "misclassified")
    if len(wrong):
        sheet = make_grid(digits.images[wrong], nrow=10, padding=0)[0]
        run.log_image(sheet.numpy(), "misclassified")
    title = f"{plan.name}: {len(wrong)} of {len(digits):,} {plan.split} digits wrong at the end"
    run.log_figure(figures.confusion_matrix(counts, title), "confusion_matrix")


def _metrics(result: EpochResult, split: str) -> dict[str, float]:
    return {
        "train/accuracy": result.train.accuracy,
        "train/loss": result.train.loss,
        f"{split}/accuracy": result.evaluation.accuracy,
        f"{split}/loss": result.evaluation.loss,
        f"{split}/errors": result.evaluation.errors,
        "learning_rate": result.learning_rate,
        "epoch_seconds": result.seconds,
    }


def _layers(recipe: Recipe) -> str:
    summary = torchinfo.summary(
        recipe.network(), (1, *PIXELS), verbose=0, device="cpu", row_settings=("var_names",),
        col_names=("input_size", "output_size", "kernel_size", "num_params"),
    )  # fmt: skip
    return f"{summary}\n"


def _provenance() -> tuple[dict[str, str], str]:
    """Where the code stands in git, as tags, and what is not committed, as status and diff."""
    try:
        commit = _git("rev-parse", "HEAD").strip()
        status, diff = _git("status", "--porcelain"), _git("diff", "HEAD")
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git, or no checkout of it
        return {"git_commit": "unknown", "git_dirty": "unknown"}, ""
    tags = {"git_commit": commit, "git_dirty": str(bool(status)).lower()}
    # The status names new files, which a diff leaves out; `git apply` skips what precedes a diff.
    return tags, f"{status}\n{diff}" if status else ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, check=True)
    return done.stdout.decode(errors="backslashreplace")
