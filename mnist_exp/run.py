"""One run from end to end: an iteration is trained, and the tracking store holds what happened.

Here training and tracking meet; neither knows the other.
"""

import dataclasses
import hashlib
import inspect
import logging
import platform
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torchinfo
from torch import nn
from torchvision.utils import make_grid

from mnist_exp import (
    ROOT,
    ExpectedError,
    augment,
    checkpoint,
    data,
    figures,
    interrupts,
    recipe,
    report,
    tracking,
    training,
    ui,
    verdict,
)
from mnist_exp.checkpoint import Checkpoint
from mnist_exp.receptive_field import (
    ReceptiveFieldError,
    output_field,
    receptive_field_table,
)
from mnist_exp.recipe import PIXELS, Iteration, Recipe, Target, where
from mnist_exp.training import EpochResult, NonFiniteLossError, Progress, Training
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
    run_id: str = ""
    """The run that this goes on with; empty for a new one."""

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
            **environment(self.device),
        }

    def tags(self) -> dict[str, str]:
        """What the run was made from, as tags of the run."""
        return {
            "code_sha256": self.iteration.code_sha256,
            "training_sha256": training_sha256(),
            "overrides": self.overrides,
            **{f"sha256.{name}": value for name, value in data.SHA256.items()},
        }

    def identity(self) -> dict[str, str]:
        """What decides the numbers of the run, and its overrides."""
        deciding = {
            key: str(value)
            for key, value in self.settings().items()
            if key not in ("mlflow", "mnist-exp")
        }
        return deciding | self.tags()


def environment(device: torch.device) -> dict[str, object]:
    """What decides the numbers of a run beside its recipe and seed, as parameters of the run."""
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.system()} {platform.machine()}",
        # Which of their kernels torch's operations take.
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "torchvision", "mlflow", "mnist-exp")},
    }


@cache
def training_sha256() -> str:
    """SHA-256 of the package's code that takes part in a training, without comments and layout."""
    sources = map(inspect.getsource, (augment, data, training))
    return hashlib.sha256("".join(map(recipe.code_sha256, sources)).encode()).hexdigest()


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


def resume(run_id: str) -> Plan:
    """The plan of a run that ended early, to be carried out to its end.

    Raises ExpectedError when the run is finished or is not there, when it has no checkpoint here,
    and when what decides its numbers has changed since: its code, versions, machine or threads.
    """
    kept = checkpoint.of_run(run_id, _checkpoints())
    runs = tracking.runs().set_index("run_id")
    if run_id not in runs.index:
        raise ExpectedError(f"the store holds no run {run_id}")
    if runs.loc[run_id, "status"] == "FINISHED":
        kept.remove()  # left behind by a process that was killed at the very end
        raise ExpectedError(f"run {run_id} is finished: there is nothing to resume")
    content = kept.load()
    torch.set_num_threads(int(content["identity"]["threads"]))
    again = dataclasses.replace(plan(**content["request"]), run_id=run_id)
    changed = _changes(content, again)
    if changed:
        raise ExpectedError(
            f"run {run_id} cannot go on as it began: {', '.join(changed)}; make run "
            f"MODEL={again.iteration.number} begins another"
        )
    return again


def unfinished(wanted: Plan) -> Plan | None:
    """The newest run that began as `wanted` would and has not been finished, as a plan to go on
    with it; None if there is none whose checkpoint is here, or another process trains it."""
    runs = tracking.runs()
    ended = set(runs.loc[runs["status"].isin(["KILLED", "FAILED"]), "run_id"])
    for kept in checkpoint.all_in(_checkpoints()):
        if kept.path.stem in ended:
            try:
                if not _changes(kept.load(), wanted):
                    return dataclasses.replace(wanted, run_id=kept.path.stem)
            except ExpectedError as error:
                log.warning("%s: it is left out", error)
    return None


def _checkpoints() -> Path:
    return tracking.local_folder() / "checkpoints"


def _changes(content: dict[str, Any], plan: Plan) -> list[str]:
    """What decides the numbers of a run and is not as it was when its checkpoint was made."""
    before, now = content["identity"], plan.identity()
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    words = {"code_sha256": plan.iteration.file, "training_sha256": "the package's training code"}
    return [
        f"{words[name]} has changed since" if name in words
        else f"{name} was {before.get(name)} and is {now.get(name)}"
        for name in changed
    ]  # fmt: skip


def carry_out(
    plan: Plan,
    *,
    on_batch: Callable[[Progress], None],
    on_epoch: Callable[[EpochResult], None],
    on_start: Callable[[str], None] = lambda _: None,
    parent: str = "",
) -> Outcome:
    """Train as planned and record the run, as a child of the run `parent` if there is one.

    `on_start` hears the run's id, `on_batch` and `on_epoch` how it goes. A tracking server that
    goes away does not stop the training: what it misses is written when it is back.
    """

    def watch(progress: Progress) -> None:
        interrupts.check()
        on_batch(progress)

    train, held_out = data.load(plan.split)
    tracking.open_store()
    job = Training(plan.recipe, train, held_out, seed=plan.seed, device=plan.device)
    settings = plan.settings() | {f"{plan.split}_images": len(held_out)}
    with ExitStack() as stack:
        if plan.run_id:
            kept = stack.enter_context(checkpoint.hold(plan.run_id, _checkpoints()))
            job.restore(kept.load()["state"])
            # What else it has recorded stands: versions that decide nothing may be others now.
            again = {} if job.results else settings
            run = stack.enter_context(tracking.resume_run(plan.run_id, again))
            tracking.adopt([plan.run_id] if parent else [], parent)
            run.set_tags({"resumed": f"after epoch {len(job.results)}"})
        else:
            begun = tracking.start_run(
                plan.name, settings, plan.tags(), source=plan.iteration.file, parent=parent
            )
            run = stack.enter_context(begun)
            kept = stack.enter_context(checkpoint.hold(run.run_id, _checkpoints()))
            _save(kept, plan, job)
        try:
            on_start(run.run_id)
            if not job.results:
                _record_beginning(run, plan, train, held_out)
            record = _EpochRecord(run, plan.split, deque(job.results), bool(plan.run_id))
            record.write()
            for result in job.epochs(watch):
                _save(kept, plan, job)  # first, so that the store is never ahead of it
                record.add(result)
                on_epoch(result)
            record.write()
            judged = _record_end(run, plan, job)
            run.end("FINISHED")
        except (ExpectedError, KeyboardInterrupt) as error:
            if isinstance(error, NonFiniteLossError):
                kept.remove()  # it would come to the same again
            else:
                error.add_note(f"make resume RUN={run.run_id} goes on with it")
            raise
        kept.remove()
    address = ui.run_address(run.experiment_id, run.run_id)
    return Outcome(run.run_id, address, job.results[-1].evaluation.accuracy, judged)


def _save(kept: Checkpoint, plan: Plan, job: Training) -> None:
    request = {
        "number": plan.iteration.number, "seed": plan.seed, "epochs": plan.recipe.epochs,
        "device": plan.device.type, "split": plan.split,
    }  # fmt: skip
    content = {"run_id": kept.path.stem, "request": request, "identity": plan.identity()}
    kept.save(content | {"state": job.state()})


class _EpochRecord:
    """Writes epochs to a run; those that the store does not take wait until it does."""

    def __init__(
        self, run: tracking.RunWriter, split: str, waiting: deque[EpochResult], resumed: bool
    ) -> None:
        self.run, self.split, self.waiting = run, split, waiting
        # The store is ahead of a checkpoint that was put back from an older copy.
        whole = tracking.history([run.run_id]).dropna() if resumed else pd.DataFrame()
        self.there = set() if whole.empty else set(whole["epoch"])

    def add(self, result: EpochResult) -> None:
        """Write an epoch and those that wait, if the store answers."""
        was_away = bool(self.waiting)
        self.waiting.append(result)
        try:
            if was_away:
                tracking.check_answers()
            self.write()
        except tracking.UnreachableError as error:
            if not was_away:
                log.warning("%s; the training goes on, and its epochs wait for the store", error)
        else:
            if was_away:
                log.warning("the tracking store answers again, and has all epochs")

    def write(self) -> None:
        """Write all that wait; raises tracking.UnreachableError when the store does not answer."""
        while self.waiting:
            result = self.waiting[0]
            if result.epoch not in self.there:
                self.run.log_metrics(metrics(result, self.split), result.epoch, result.ended)
            self.waiting.popleft()


def _record_beginning(
    run: tracking.RunWriter, plan: Plan, train: data.Digits, held_out: data.Digits
) -> None:
    iteration = plan.iteration
    provenance, uncommitted = _provenance()
    run.set_tags(provenance)
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


def metrics(result: EpochResult, split: str) -> dict[str, float]:
    """What is recorded of an epoch; accuracies are fractions, losses mean cross-entropies."""
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
