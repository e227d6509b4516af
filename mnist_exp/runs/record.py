"""What a run records: at its beginning, after each epoch, and at its end."""

import logging
from collections import deque

import pandas as pd
import torch

from mnist_exp import data, markdown, tracking
from mnist_exp.common.words import percent
from mnist_exp.evidence import scores, verdict
from mnist_exp.evidence.verdict import RunVerdict
from mnist_exp.runs import provenance
from mnist_exp.runs.plan import Plan
from mnist_exp.showing import description, one_run
from mnist_exp.tracking import ui
from mnist_exp.training import classifier
from mnist_exp.training.loop import EpochResult, Training

log = logging.getLogger(__name__)

SHEET = 32
"""Training digits on the sheet that shows what the network sees."""


def beginning(
    run: tracking.RunWriter, plan: Plan, train: data.Digits, held_out: data.Digits
) -> None:
    """What is known before the first epoch: description, source, layers, digits, provenance."""
    iteration = plan.iteration
    state, uncommitted = provenance.git_state()
    run.set_tags(state | {"idea": iteration.title})
    run.describe(description.run_description(iteration, "In training."))
    run.log_metrics({"parameters": plan.parameters, "model": iteration.number})
    run.log_text(iteration.source, f"source/{iteration.path.name}")
    if uncommitted:
        run.log_text(uncommitted, "source/uncommitted.diff")
    if plan.table is not None:
        run.log_table(plan.table, "receptive_field")
    run.log_text(provenance.layers(plan.recipe), "layers.txt")
    for digits, context in ((train, "training"), (held_out, "evaluation")):
        name = f"MNIST, {len(digits):,} digits"
        run.log_dataset(
            digits.images.cpu().numpy(), digits.labels.cpu().numpy(), name=name, context=context,
            digest=digits.sha256(), source=data.ORIGIN,
        )  # fmt: skip
    some = train[:SHEET]
    seen = classifier.network_input(
        plan.recipe, some.images, torch.Generator().manual_seed(plan.seed)
    )
    title = "Training digits as the network sees them"
    sheet = one_run.digit_sheet(seen[:, 0].numpy(), some.labels.numpy(), title)
    run.log_figure(sheet, "digits")


class Epochs:
    """Writes epochs to a run, among them those in `waiting`; those that the store does not take
    wait until it does. Of a run that is `resumed`, the store may have some already."""

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


def end(run: tracking.RunWriter, plan: Plan, job: Training) -> RunVerdict | None:
    """What the epochs came to: summaries, mistakes, figures, the network and the verdict, which is
    returned (None on the validation split)."""
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

    _mistakes(run, plan, job)
    run.log_figure(one_run.curves(history, split, target), "curves")

    outcome = None
    result = f"Final {split} accuracy {percent(accuracy.iloc[-1])}."
    details = ""
    if split == "test":
        own = {"run_id": run.run_id, "parameters": plan.parameters}
        kept = pd.DataFrame([own | {"test_images": len(job.evaluation)}])
        outcome = verdict.judge_run(kept.join(scores.scores(kept, history, target)).iloc[0], target)
        result = f"{str(outcome).capitalize()}. {result}"
        details = description.verdict_table(outcome)
    if plan.table is not None:
        table = ui.run_path(run.experiment_id, run.run_id, "receptive_field.json")
        result += f" Receptive field {plan.receptive_field} ([table]({table}))."
    if plan.overrides != "none":
        result += f" Overridden: {plan.overrides}."

    meets_target = outcome is not None and outcome.met and plan.overrides == "none"
    register = plan.iteration.name if meets_target else None
    try:
        run.log_network(job.classifier, job.evaluation.images[:2], register_as=register)
    except tracking.ExportError as error:
        log.warning("the network is not kept: %s", error)
        result += f" The network could not be exported: {markdown.escape(str(error))}"
    if outcome:
        run.set_tags({"verdict": str(outcome)} | outcome.reasons)
    run.describe(description.run_description(plan.iteration, result, details))
    return outcome


def _mistakes(run: tracking.RunWriter, plan: Plan, job: Training) -> None:
    """What the trained network takes for which, and each digit that it gets wrong."""
    digits, output = job.evaluation.to(torch.device("cpu")), job.output.cpu()
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
        run.log_image(one_run.rows_of_ten(digits.images[wrong, 0].numpy()), "misclassified")
    title = f"{plan.name}: {len(wrong)} of {len(digits):,} {plan.split} digits wrong at the end"
    run.log_figure(one_run.confusion_matrix(counts, title), "confusion_matrix")


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
